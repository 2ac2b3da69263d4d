"""The registry: an architecture is a name, an input shape, a builder and a symmetry."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..errors import RecipeError, unknown
from ..layout import Layout
from ..symmetry import Symmetry


@dataclass(frozen=True)
class Architecture:
    """A family of equal networks; `build(activation, dropout)` gives one, its weights not yet set."""

    name: str
    input_shape: tuple[int, int, int]  # channels, height, width
    classes: int
    build: Callable[[str, float], nn.Module]
    symmetry_of: Callable[[Layout], Symmetry]

    def module(self, activation: str, dropout: float = 0.0) -> nn.Module:
        """A module on the CPU whose weights are uninitialised memory; no random number is drawn."""
        with torch.device("meta"):
            empty = self.build(activation, dropout)
        return empty.to_empty(device="cpu")

    @cached_property
    def layout(self) -> Layout:
        """Names, shapes and offsets, as the variant without dropout names them."""
        return Layout.of(self.module("relu"))

    @cached_property
    def symmetry(self) -> Symmetry:
        """The groups of units that may be permuted."""
        return self.symmetry_of(self.layout)


_ARCHITECTURES: dict[str, Architecture] = {}


def register(architecture: Architecture) -> Architecture:
    """Make an architecture known by its name; a name can be taken once."""
    if architecture.name in _ARCHITECTURES:
        raise ValueError(f"architecture {architecture.name!r} is registered twice")
    _ARCHITECTURES[architecture.name] = architecture
    return architecture


def architecture_names() -> list[str]:
    """All registered names."""
    return sorted(_ARCHITECTURES)


def get_architecture(name: str) -> Architecture:
    """The architecture of that name; raises RecipeError with the nearest known one."""
    if name not in _ARCHITECTURES:
        raise RecipeError(unknown("architecture", name, _ARCHITECTURES))
    return _ARCHITECTURES[name]


def module_from_vector(
    architecture: Architecture, vector: Tensor, *, activation: str, dropout: float = 0.0
) -> nn.Module:
    """A plain module in eval mode with the weights (P,) of one state."""
    module = architecture.module(activation, dropout)
    module.load_state_dict(Layout.of(module).unpack(vector.clone()))
    return module.eval()
