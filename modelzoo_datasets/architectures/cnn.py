"""The CNNs of the published zoos (2209.14764, table of architectures), with state-dict keys `module_list.*`.

A block is a convolution, max-pooling, activation and dropout, in this order.
"""

from functools import partial

from torch import nn

from ..weights import Layout, Symmetry, chain_symmetry
from .modules import ACTIVATION_MODULES, ModuleListCNN, SeededDropout
from .registry import Architecture, add_architecture, register_for_classes


def small_cnn_layers(activation: str, dropout: float, *, channels: int) -> list[nn.Module]:
    """Return the layers for 28×28 images and 10 classes. As published, dropout layers exist only if p > 0."""

    def active(*, drop: bool = True) -> list[nn.Module]:
        layers = [ACTIVATION_MODULES[activation]()]
        return [*layers, SeededDropout(dropout)] if drop and dropout > 0 else layers

    return [
        *(nn.Conv2d(channels, 8, 5), nn.MaxPool2d(2), *active()),  # -> 8x12x12
        *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), *active()),  # -> 6x4x4
        *(nn.Conv2d(6, 4, 2), *active(drop=False), nn.Flatten()),  # -> 4x3x3 = 36
        *(nn.Linear(36, 20), *active()),
        nn.Linear(20, 10),
    ]


def _small_cnn(activation: str, dropout: float, *, channels: int) -> nn.Module:
    """Return the small CNN: 2,464 parameters for one channel, 2,864 for three."""
    return ModuleListCNN(small_cnn_layers(activation, dropout, channels=channels))


def _medium_cnn(activation: str, dropout: float, *, classes: int = 10) -> nn.Module:
    """Return the medium CNN: 10,853 parameters for 10 classes. As published, it has dropout layers even if p = 0."""

    def active() -> list[nn.Module]:
        return [ACTIVATION_MODULES[activation](), SeededDropout(dropout)]

    return ModuleListCNN(
        [
            *(nn.Conv2d(3, 16, 3), nn.MaxPool2d(2), *active()),  # 3x32x32 -> 16x15x15
            *(nn.Conv2d(16, 32, 3), nn.MaxPool2d(2), *active()),  # -> 32x6x6
            *(nn.Conv2d(32, 15, 3), nn.MaxPool2d(2), *active(), nn.Flatten()),  # -> 15x2x2 = 60
            *(nn.Linear(60, 20), *active()),
            nn.Linear(20, classes),
        ]
    )


def _small_cnn_symmetry(layout: Layout) -> Symmetry:
    return chain_symmetry(layout, pooled=(True, True, False, False))


def _medium_cnn_symmetry(layout: Layout) -> Symmetry:
    return chain_symmetry(layout, pooled=(True, True, True, False))


cnn_s = add_architecture(Architecture("cnn-s", (1, 28, 28), 10, partial(_small_cnn, channels=1), _small_cnn_symmetry))
cnn_s_rgb = add_architecture(
    Architecture(
        "cnn-s-rgb", (3, 28, 28), 10, partial(_small_cnn, channels=3), _small_cnn_symmetry, family=cnn_s.family
    )
)
cnn_m = add_architecture(Architecture("cnn-m", (3, 32, 32), 10, _medium_cnn, _medium_cnn_symmetry))


def _medium_cnn_for(name: str, classes: int) -> Architecture:
    build = partial(_medium_cnn, classes=classes)
    return Architecture(name, cnn_m.input_shape, classes, build, _medium_cnn_symmetry, family=cnn_m.family)


register_for_classes(cnn_m.name, _medium_cnn_for)
