"""The registry of architectures: each has a name, an input shape, a builder and a symmetry."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, RecipeError, unknown
from ..plugins import load_plugins
from ..weights import Layout, Symmetry, no_symmetry
from .modules import find_uninitialized, make_dropout_seedable


@dataclass(frozen=True)
class Architecture:
    """An architecture of networks: how to build a module, and which of its units can be permuted.

    Args:
        name: The unique name, as in recipes and in the column `architecture`.
        input_shape: Channels, height and width of the images.
        classes: The number of outputs.
        build: A function of activation and dropout that returns a module; its weights need not be initialized.
        build_symmetry: A function of the layout that returns the permutation symmetry; none by default.
        family: A name shared by variants for other images and classes; by default the name itself.
        takes_dropout: False if the networks have no dropout layers.
        tensors: The layout of an unregistered architecture, of which only the tensors are known.

    Example:
        >>> from torch import nn
        >>> def build(activation, dropout):
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> Architecture("linear", input_shape=(1, 8, 8), classes=2, build=build)
        Architecture('linear', 1×8×8 images of 2 classes, 130 weights)
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    build: Callable[[str, float], nn.Module]
    build_symmetry: Callable[[Layout], Symmetry] = no_symmetry
    family: str = ""
    takes_dropout: bool = True
    tensors: Layout | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.family or self.name)

    def __repr__(self) -> str:
        images = "" if self.tensors is not None else f"{self.images}, "
        return f"Architecture({self.name!r}, {images}{self.layout.size:,} weights)"

    def module(self, activation: str, dropout: float = 0.0) -> nn.Module:
        """Return a module on the CPU with uninitialized memory, for `initialize_weights` or `load_state_dict`.

        The global random state is not changed.

        Args:
            activation: One of `modelzoo_datasets.recipes.ACTIVATIONS`.
            dropout: The probability of dropout.

        Raises:
            RecipeError: The architecture has no dropout, but `dropout` is positive.
        """
        empty = self._meta_module(activation, dropout)
        if not find_uninitialized(empty):
            return empty.to_empty(device="cpu")
        # Constants of the module need a real build, which may consume global random numbers on the way.
        with torch.random.fork_rng(devices=[]):
            return make_dropout_seedable(self.build(activation, dropout))

    def _meta_module(self, activation: str, dropout: float) -> nn.Module:
        """Return a module on the meta device, which has shapes but no memory."""
        self.check_dropout(dropout)
        with torch.device("meta"):
            return make_dropout_seedable(self.build(activation, dropout))

    def check_dropout(self, dropout: float) -> None:
        """Raise RecipeError if the architecture has no dropout, but `dropout` is positive."""
        if dropout > 0 and not self.takes_dropout:
            raise RecipeError(f"architecture {self.name} has no dropout: dropout must be 0, got {dropout}")

    @property
    def images(self) -> str:
        """The images that the architecture takes, e.g. "3×32×32 images of 10 classes"."""
        return format_images(self.input_shape, self.classes)

    @cached_property
    def layout(self) -> Layout:
        """The layout of the weight vector, with the tensor names of the variant without dropout."""
        return self.layout_with(0.0)

    def layout_with(self, dropout: float | None) -> Layout:
        """Return the layout of the variant with dropout, whose layers may shift the numbers in tensor names.

        Args:
            dropout: The probability of dropout, or None if it is unknown, which counts as no dropout.
        """
        if self.tensors is not None:
            return self.tensors
        return Layout.from_module(self._meta_module("relu", dropout or 0.0))

    @cached_property
    def symmetry(self) -> Symmetry:
        """The groups of units that can be permuted without changing the function."""
        return self.build_symmetry(self.layout)


ANY_FORMAT = "safetensors"  # import format of populations of any architecture
_ARCHITECTURES: dict[str, Architecture] = {}
_FOR_CLASSES: dict[str, Callable[[str, int], Architecture]] = {}  # name -> function that builds variants
_MAX_CLASSES = 10_000


_BUILTIN = ("cnn", "generalization")  # modules that register architectures on import


def load_builtin() -> None:
    """Import the modules of this package that register architectures, and the user's plugins."""
    for name in _BUILTIN:
        import_module(f".{name}", __package__)
    load_plugins()


def register_architecture(architecture: Architecture) -> Architecture:
    """Register an architecture, so that recipes can name it and `zoo.model(i)` can build it.

    Call this in a plugin file that is passed to the commands with `--plugin`.

    Args:
        architecture: The architecture. Its name must be new, and its family must have no variant for the same images.

    Returns:
        The same architecture.

    Raises:
        ArgumentError: The name is already registered, or the family already has a variant for these images.

    Example:
        >>> from torch import nn
        >>> def build(activation, dropout):
        ...     hidden = [nn.Linear(64, 16), nn.Tanh(), nn.Dropout(dropout)]
        ...     return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 2))
        >>> register_architecture(Architecture("perceptron-example", (1, 8, 8), classes=2, build=build))
        Architecture('perceptron-example', 1×8×8 images of 2 classes, 1,074 weights)
    """
    for name in _BUILTIN:  # first, so that no plugin takes one of their names
        import_module(f".{name}", __package__)
    return add_architecture(architecture)


def add_architecture(architecture: Architecture) -> Architecture:
    """Register an architecture without loading the built-in ones, which use this function themselves."""
    name, family = architecture.name, architecture.family
    if name in _ARCHITECTURES:
        raise ArgumentError(f"architecture {name!r} is already registered; choose another name")
    for other in _ARCHITECTURES.values():
        if other.family == family and other.images == architecture.images:
            raise ArgumentError(
                f"architecture {name!r}: family {family!r} already has {other.name!r} for {other.images}"
            )
    _ARCHITECTURES[name] = architecture
    return architecture


def register_for_classes(name: str, make: Callable[[str, int], Architecture]) -> None:
    """Register a function that builds the variant `<name>-<classes>` for any number of classes.

    Args:
        name: The name of the architecture for the usual number of classes.
        make: A function of the name of the variant and its number of classes.
    """
    _FOR_CLASSES[name] = make


def variants_for_classes(classes: int) -> list[str]:
    """Return the names of all variants for this number of classes."""
    load_builtin()
    return [f"{name}-{classes}" for name in _FOR_CLASSES if 1 < classes <= _MAX_CLASSES]


def _make_variant(name: str) -> None:
    base, _, classes = name.rpartition("-")
    if base in _FOR_CLASSES and classes.isdecimal() and name in variants_for_classes(int(classes)):
        variant = _FOR_CLASSES[base](name, int(classes))
        if variant.classes != _ARCHITECTURES[base].classes:  # otherwise it is the architecture `base` itself
            add_architecture(variant)


def architecture_names() -> list[str]:
    """Return all registered names, sorted."""
    load_builtin()
    return sorted(_ARCHITECTURES)


def get_architecture(name: str) -> Architecture:
    """Return the architecture with this name.

    Raises:
        RecipeError: The name is not registered; the message offers the most similar one.
    """
    load_builtin()
    if name not in _ARCHITECTURES:
        _make_variant(name)
    if name not in _ARCHITECTURES:
        raise RecipeError(unknown("architecture", name, architecture_names()))
    return _ARCHITECTURES[name]


def find_architecture(name: str, tensors: Layout | None = None) -> Architecture:
    """Return the architecture with this name, registered or not.

    Args:
        name: The name.
        tensors: The layout of an imported population. It is used if the name is not registered.

    Raises:
        RecipeError: The name is not registered, and there is no layout.
    """
    load_builtin()
    if tensors is not None and name not in _ARCHITECTURES:
        return architecture_from_layout(name, tensors)
    return get_architecture(name)


def architecture_from_layout(name: str, layout: Layout) -> Architecture:
    """Return an architecture of which only the tensors are known, so that it has no module."""

    def build(activation: str, dropout: float) -> nn.Module:
        raise RecipeError(
            f"architecture {name!r} is not registered, so that only its tensors are known: pass your own "
            "module, zoo.model(i, module), or register the architecture in a file passed with --plugin"
        )

    return Architecture(name, (0, 0, 0), 0, build, tensors=layout)


def resolve_architecture(name: str, input_shape: tuple[int, ...], classes: int) -> Architecture:
    """Return the architecture that a recipe names, for the images of the recipe.

    Args:
        name: A name or a family: "cnn-s" selects "cnn-s-rgb" for images with three channels.
        input_shape: Channels, height and width of the images.
        classes: The number of classes.

    Returns:
        The architecture with this name if it fits the images, or else the fitting one of the family.

    Raises:
        RecipeError: The name is unknown, or no architecture with this name or family fits the images.
    """
    load_builtin()
    candidates = [a for a in _ARCHITECTURES.values() if name in (a.name, a.family)]
    if not candidates:
        families = {a.family for a in _ARCHITECTURES.values()}
        raise RecipeError(unknown("architecture", name, sorted({*_ARCHITECTURES, *families})))
    for architecture in sorted(candidates, key=lambda a: a.name != name):
        if (architecture.input_shape, architecture.classes) == (tuple(input_shape), classes):
            return architecture
    variants = ", ".join(f"{a.name} for {a.images}" for a in candidates)
    images = format_images(tuple(input_shape), classes)
    raise RecipeError(f"architecture {name!r} has no variant for {images}; it has {variants}")


def format_images(shape: tuple[int, ...], classes: int) -> str:
    """Return a description such as "3×32×32 images of 10 classes"."""
    return f"{'×'.join(map(str, shape))} images of {classes} classes"


def build_module(architecture: Architecture, vector: Tensor, *, activation: str, dropout: float = 0.0) -> nn.Module:
    """Return a module in evaluation mode with the weights of one state.

    Args:
        architecture: The architecture of the module.
        vector: The weights (P,).
        activation: The activation of the state.
        dropout: The dropout of the state, which decides the names of its tensors.
    """
    module = architecture.module(activation, dropout)
    module.load_state_dict(Layout.from_module(module).unpack(vector.clone()))
    return module.eval()
