"""An architecture: how to build its modules, and how stored weights get into them.

Stored weights have a layout. It is the layout of the module, or it has the same tensors in another order: then a module
is filled by name. Where nobody registered the architecture, or where its module has other tensors, only the stored
tensors are known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

import torch
from torch import Tensor, nn

from ..errors import RecipeError
from ..weights import Layout, Symmetry, no_symmetry
from .modules import ACTIVATION_MODULES, find_uninitialized, make_dropout_seedable

_ANY_DROPOUT = 0.5  # a probability for which layers of dropout exist


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
        stored_layout: The layout of stored weights where it is not that of the module; see `with_layout`.

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
    stored_layout: Layout | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.family or self.name)

    def __repr__(self) -> str:
        images = f"{self.images}, " if self.has_module else ""
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
            # `to_empty` does the same, but the import of sympy, which it needs for a meta device, takes 0.4 s.
            module: nn.Module = empty._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
            return module
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
        """The layout of the weight vector; that of a module has the tensor names of the variant without dropout."""
        return self.layout_with(0.0)

    def layout_with(self, dropout: float | None) -> Layout:
        """Return the layout of the variant with dropout, whose layers may shift the numbers in tensor names.

        Args:
            dropout: The probability of dropout, or None if it is unknown, which counts as no dropout.
        """
        if self.stored_layout is not None:
            return self.stored_layout
        return self._module_layout(dropout or 0.0)

    def _module_layout(self, dropout: float) -> Layout:
        return Layout.from_module(self._meta_module("relu", dropout))

    def with_layout(self, layout: Layout) -> "Architecture":
        """Return the architecture of weights that are stored in a layout.

        Args:
            layout: The stored layout, such as layout.json of a dataset.

        Returns:
            This architecture if its modules have the same tensors in the same order. Otherwise one whose modules are
            filled by name, or one without modules if a name, shape or dtype differs.
        """
        if _list_tensors(self.layout) == _list_tensors(layout):
            return self
        difference = _find_difference(self.layout, layout)
        if self.takes_dropout and difference is not None:
            with_dropout = self._module_layout(_ANY_DROPOUT)
            if _list_tensors(with_dropout) == _list_tensors(layout):
                return self
            difference = None if _find_difference(with_dropout, layout) is None else difference
        if difference is None:
            return replace(self, stored_layout=layout)
        reason = (
            f"the registered architecture {self.name!r} is not that of the stored weights: {difference}; pass your "
            "own module, zoo.model(i, module), or register the module that was trained"
        )
        return replace(self, build=_NoModule(reason), build_symmetry=no_symmetry, stored_layout=layout)

    def _find_module_layout(self, stored: Layout) -> Layout:
        """Return the layout of the module, without or with dropout, that has the names of a stored layout."""
        own = self._module_layout(0.0)
        return own if _find_difference(own, stored) is None else self._module_layout(_ANY_DROPOUT)

    @property
    def has_module(self) -> bool:
        """False if only the tensors of the stored weights are known."""
        return not isinstance(self.build, _NoModule)

    @property
    def takes_activation(self) -> bool:
        """False if modules are the same for all activations, so that an unknown one does no harm."""
        tanh, relu = (_describe_modules(self._meta_module(activation, 0.0)) for activation in ("tanh", "relu"))
        return tanh != relu

    def check_activation(self, activation: str) -> None:
        """Raise RecipeError if modules need an activation, and this is none; an empty one was not recorded."""
        if activation not in ACTIVATION_MODULES and self.takes_activation:
            value = f"recorded as {activation!r}" if activation else "not recorded"
            raise RecipeError(
                f"the activation of the models is {value}, but architecture {self.name!r} needs one of "
                f"{', '.join(ACTIVATION_MODULES)}; add a column `activation` to the table and import them again"
            )

    def check_runnable(self) -> None:
        """Raise RecipeError unless engines can run stored weights as they are: modules exist, in the same order."""
        if isinstance(self.build, _NoModule):
            self.build("", 0.0)
        if self.stored_layout is not None:
            raise RecipeError(
                f"the stored weights of {self.name!r} have their tensors in another order than its registered module, "
                "so that no engine can run them; import the population again with the architecture registered"
            )

    @cached_property
    def symmetry(self) -> Symmetry:
        """The groups of units that can be permuted without changing the function."""
        if self.stored_layout is None or not self.has_module:
            return self.build_symmetry(self.layout)
        # The order of the module tells which layer follows which, the stored layout where their weights lie.
        slots = {slot.name: slot for slot in self.stored_layout.slots}
        own = self._find_module_layout(self.stored_layout)
        return self.build_symmetry(Layout(tuple(slots[slot.name] for slot in own.slots)))

    def fill_module(self, module: nn.Module, vector: Tensor) -> None:
        """Load the stored weights (P,) of one state into a module of this architecture.

        Layers of dropout may shift the numbers in the names of the module's tensors.
        """
        target = Layout.from_module(module)
        if self.stored_layout is not None:
            own = self._find_module_layout(self.stored_layout)
            names = {slot.name: placed.name for slot, placed in zip(own.slots, target.slots, strict=True)}
            target = Layout(tuple(replace(slot, name=names[slot.name]) for slot in self.stored_layout.slots))
        module.load_state_dict(target.unpack(vector.clone()))


def _list_tensors(layout: Layout) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    return [(slot.name, slot.shape, slot.dtype) for slot in layout.slots]


def _find_difference(own: Layout, stored: Layout) -> str | None:
    """Describe the first tensor that is not the same in a module and as stored; None if only the order differs."""
    tensors, others = ({name: kind for name, *kind in _list_tensors(layout)} for layout in (own, stored))
    for name in [*tensors, *others]:
        if tensors.get(name) != others.get(name):
            texts = [_describe_tensor(side[name]) if name in side else "missing" for side in (tensors, others)]
            return f"{name} is {texts[0]} in the module, {texts[1]} as stored"
    return None


def _describe_tensor(kind: Sequence[object]) -> str:
    return f"{str(kind[1]).removeprefix('torch.')} {kind[0]}"


def _describe_modules(module: nn.Module) -> list[tuple[type[nn.Module], list[tuple[str, str]]]]:
    """Return type and public attributes of every layer, which a different activation changes."""
    return [
        (type(layer), [(name, repr(value)) for name, value in vars(layer).items() if not name.startswith("_")])
        for layer in module.modules()
    ]


@dataclass(frozen=True)
class _NoModule:
    """Builds no module, but says why; equal for equal reasons, so that architectures can be compared."""

    reason: str

    def __call__(self, activation: str, dropout: float) -> NoReturn:
        raise RecipeError(self.reason)


def architecture_from_layout(name: str, layout: Layout) -> Architecture:
    """Return an architecture of which only the tensors are known, so that it has no module."""
    reason = (
        f"architecture {name!r} is not registered, so that only its tensors are known: pass your own module, "
        "zoo.model(i, module), or name a file that registers it, load_zoo(..., plugin=FILE) or --plugin FILE"
    )
    return Architecture(name, (0, 0, 0), 0, _NoModule(reason), stored_layout=layout)


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
    architecture.fill_module(module, vector)
    return module.eval()
