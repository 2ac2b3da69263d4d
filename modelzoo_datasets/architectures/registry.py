"""The registry: an architecture is a name, an input shape, a builder and a symmetry; recipes may name its family."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

import torch
from torch import Tensor, nn

from ..errors import RecipeError, unknown
from ..plugins import load_plugins
from ..weights import Layout, Symmetry, no_symmetry
from .modules import make_dropout_seedable, uninitialized_names


@dataclass(frozen=True)
class Architecture:
    """A set of equal networks; `build(activation, dropout)` gives one, its weights not yet set.

    One call makes an architecture of one's own known:
    `register_architecture(Architecture("mine", (1, 28, 28), 10, build))`.
    """

    name: str
    input_shape: tuple[int, int, int]  # channels, height, width
    classes: int
    build: Callable[[str, float], nn.Module]
    build_symmetry: Callable[[Layout], Symmetry] = no_symmetry
    family: str = ""  # shared by variants for other images and classes; its own name if not given
    takes_dropout: bool = True
    tensors: Layout | None = None  # of one of which nothing but the tensors is known

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.family or self.name)

    def module(self, activation: str, dropout: float = 0.0) -> nn.Module:
        """A module on the CPU; its memory is uninitialised, to be set by `initialize_weights` or `load_state_dict`.

        The global random state stays as it is. Raises RecipeError as `check_dropout` does.
        """
        self.check_dropout(dropout)
        with torch.device("meta"):
            empty = make_dropout_seedable(self.build(activation, dropout))
        if not uninitialized_names(empty):
            return empty.to_empty(device="cpu")
        with torch.random.fork_rng(devices=[]):  # constants need a real one, which may draw other weights on the way
            return make_dropout_seedable(self.build(activation, dropout))

    def check_dropout(self, dropout: float) -> None:
        """Raise RecipeError where the architecture has no dropout but some is asked for."""
        if dropout > 0 and not self.takes_dropout:
            raise RecipeError(f"architecture {self.name} has no dropout: dropout must be 0, got {dropout}")

    @property
    def images(self) -> str:
        """What it is made for, in words."""
        return images_in_words(self.input_shape, self.classes)

    @cached_property
    def layout(self) -> Layout:
        """Names, shapes and offsets, as the variant without dropout names them."""
        return self.layout_with(0.0)

    def layout_with(self, dropout: float | None) -> Layout:
        """Names, shapes and offsets of the variant with this dropout, which may shift the numbers in names.

        Where nobody knows the dropout, names are those of the variant without.
        """
        return Layout.from_module(self.module("relu", dropout or 0.0)) if self.tensors is None else self.tensors

    @cached_property
    def symmetry(self) -> Symmetry:
        """The groups of units that may be permuted."""
        return self.build_symmetry(self.layout)


ANY_FORMAT = "safetensors"  # of imported populations of any architecture
_ARCHITECTURES: dict[str, Architecture] = {}
_FOR_CLASSES: dict[str, Callable[[str, int], Architecture]] = {}  # name of the variant for the usual classes -> maker
_MOST_CLASSES = 10_000


_BUILTIN = ("cnn", "generalization", "resnet", "strided_cnn")  # modules that register when they are imported


def load_builtin() -> None:
    """Import the modules of this package that register architectures, and the user's plugins."""
    for name in _BUILTIN:
        import_module(f".{name}", __package__)
    load_plugins()


def register_architecture(architecture: Architecture) -> Architecture:
    """Make an architecture known by its name and family.

    Raises:
        ValueError: the name is taken, or the family has a variant for such images already.
    """
    for name in _BUILTIN:  # first, so that nobody takes one of their names
        import_module(f".{name}", __package__)
    return add_architecture(architecture)


def add_architecture(architecture: Architecture) -> Architecture:
    """Register without loading the built-in architectures first; they themselves use it."""
    name, family = architecture.name, architecture.family
    if name in _ARCHITECTURES:
        raise ValueError(f"architecture {name!r} is registered twice")
    for other in _ARCHITECTURES.values():
        if other.family == family and other.images == architecture.images:
            raise ValueError(f"architecture {name!r}: {other.name!r} is already the {family!r} for {other.images}")
    _ARCHITECTURES[name] = architecture
    return architecture


def register_for_classes(name: str, make: Callable[[str, int], Architecture]) -> None:
    """Let every number of classes have a variant `<name>-<classes>`, made by `make(name, classes)` when asked for."""
    _FOR_CLASSES[name] = make


def variants_for_classes(classes: int) -> list[str]:
    """Names of the variants that there are for any number of classes, for this one."""
    load_builtin()
    return [f"{name}-{classes}" for name in _FOR_CLASSES if 1 < classes <= _MOST_CLASSES]


def _make_variant(name: str) -> None:
    base, _, classes = name.rpartition("-")
    if base in _FOR_CLASSES and classes.isdecimal() and name in variants_for_classes(int(classes)):
        variant = _FOR_CLASSES[base](name, int(classes))
        if variant.classes != _ARCHITECTURES[base].classes:  # that has its own name
            add_architecture(variant)


def architecture_names() -> list[str]:
    """All registered names."""
    load_builtin()
    return sorted(_ARCHITECTURES)


def get_architecture(name: str) -> Architecture:
    """The architecture of exactly that name; raises RecipeError with the nearest known one."""
    load_builtin()
    if name not in _ARCHITECTURES:
        _make_variant(name)
    if name not in _ARCHITECTURES:
        raise RecipeError(unknown("architecture", name, architecture_names()))
    return _ARCHITECTURES[name]


def find_architecture(name: str, tensors: Layout | None = None) -> Architecture:
    """Return the architecture of exactly that name.

    Args:
        name: the name.
        tensors: what is known of an architecture that nobody registered; then it has no module, only this layout.

    Raises:
        RecipeError: no such architecture is registered, and nothing is known of its tensors.
    """
    load_builtin()
    if tensors is not None and name not in _ARCHITECTURES:
        return unregistered_architecture(name, tensors)
    return get_architecture(name)


def unregistered_architecture(name: str, layout: Layout) -> Architecture:
    """An architecture of which no module is known."""

    def build(activation: str, dropout: float) -> nn.Module:
        raise RecipeError(
            f"only the tensors of architecture {name!r} are known, so there is no module of it: load "
            "them into your own with zoo.model(i, module), or register one of this name in a file named by --plugin"
        )

    return Architecture(name, (0, 0, 0), 0, build, tensors=layout)


def resolve_architecture(name: str, input_shape: tuple[int, ...], classes: int) -> Architecture:
    """The architecture that a recipe means: of this name or family, made for such images.

    Args:
        name: exact, or a family: "cnn-s" means "cnn-s-rgb" where images have three channels.
        input_shape: channels, height, width of the images.

    Raises:
        RecipeError: nothing has this name, or none that has is made for such images.
    """
    load_builtin()
    found = [a for a in _ARCHITECTURES.values() if name in (a.name, a.family)]
    if not found:
        families = {a.family for a in _ARCHITECTURES.values()}
        raise RecipeError(unknown("architecture", name, sorted({*_ARCHITECTURES, *families})))
    for architecture in sorted(found, key=lambda a: a.name != name):
        if (architecture.input_shape, architecture.classes) == (tuple(input_shape), classes):
            return architecture
    variants = ", ".join(f"{a.name} for {a.images}" for a in found)
    wanted = images_in_words(tuple(input_shape), classes)
    raise RecipeError(f"no variant of architecture {name!r} is made for {wanted}; there is {variants}")


def images_in_words(shape: tuple[int, ...], classes: int) -> str:
    """Such as '3×32×32 images of 10 classes'."""
    return f"{'×'.join(map(str, shape))} images of {classes} classes"


def build_module(architecture: Architecture, vector: Tensor, *, activation: str, dropout: float = 0.0) -> nn.Module:
    """A plain module in eval mode with the weights (P,) of one state."""
    module = architecture.module(activation, dropout)
    module.load_state_dict(Layout.from_module(module).unpack(vector.clone()))
    return module.eval()
