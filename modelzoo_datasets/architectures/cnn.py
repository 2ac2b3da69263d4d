"""The small CNN of the published zoos (2209.14764, table of architectures; `module_list.*` state-dict keys)."""

from torch import Tensor, nn

from ..layout import Layout
from ..symmetry import Symmetry, chain_symmetry
from .modules import ACTIVATION_MODULES, SeededDropout
from .registry import Architecture, register


class ModuleListCNN(nn.Module):
    """Layers applied in order; the list's name is part of the published state-dict keys."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes)."""
        for layer in self.module_list:
            x = layer(x)
        return x


def _small_cnn(activation: str, dropout: float) -> nn.Module:
    """2,464 parameters: conv-pool-activation-dropout blocks, dropout layers present only where p > 0, as published."""

    def active(*, drop: bool = True) -> list[nn.Module]:
        layers = [ACTIVATION_MODULES[activation]()]
        return [*layers, SeededDropout(dropout)] if drop and dropout > 0 else layers

    return ModuleListCNN(
        [
            *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), *active()),  # 1x28x28 -> 8x12x12
            *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), *active()),  # -> 6x4x4
            *(nn.Conv2d(6, 4, 2), *active(drop=False), nn.Flatten()),  # -> 4x3x3 = 36
            *(nn.Linear(36, 20), *active()),
            nn.Linear(20, 10),
        ]
    )


def _small_cnn_symmetry(layout: Layout) -> Symmetry:
    return chain_symmetry(layout, pooled=(True, True, False, False))


cnn_s = register(Architecture("cnn-s", (1, 28, 28), 10, _small_cnn, _small_cnn_symmetry))
