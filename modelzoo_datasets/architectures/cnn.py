"""The CNNs of the published zoos, with state-dict keys `module_list.*`.

Those of 2209.14764 (table of architectures) are blocks of a convolution, max-pooling, activation and dropout, in this
order. That of the Small CNN Zoo (2002.11448) has three strided convolutions, average pooling and a linear layer.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..weights import chain_symmetry
from .modules import ACTIVATION_MODULES, ModuleListCNN, SeededDropout
from .registry import Architecture, add_architecture, register_for_classes

_UNITS = 16  # of every convolution of the Small CNN Zoo


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


def _medium_cnn(activation: str, dropout: float, *, classes: int) -> nn.Module:
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


class MeanOfChannels(nn.Module):
    """The conversion of color images to gray in the Small CNN Zoo."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean (B, 1, H, W) over the channels of images (B, C, H, W)."""
        return x.mean(dim=1, keepdim=True)


def _strided_cnn(activation: str, dropout: float, *, to_gray: Callable[[], nn.Module]) -> nn.Module:
    """Return the CNN with 4,970 parameters. Dropout layers always exist, so that tensor names do not depend on them."""

    def block(channels: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, _UNITS, 3, stride=2)
        return [convolution, ACTIVATION_MODULES[activation](), SeededDropout(dropout)]

    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return ModuleListCNN([to_gray(), *block(1), *block(_UNITS), *block(_UNITS), *pooled, nn.Linear(_UNITS, 10)])


_SMALL = partial(chain_symmetry, pooled=(True, True, False, False))
_MEDIUM = partial(chain_symmetry, pooled=(True, True, True, False))
_STRIDED = partial(chain_symmetry, pooled=(False, False, False))  # the mean of odd functions is odd


def _medium_cnn_for(name: str, classes: int) -> Architecture:
    return Architecture(name, (3, 32, 32), classes, partial(_medium_cnn, classes=classes), _MEDIUM, family="cnn-m")


cnn_s = add_architecture(Architecture("cnn-s", (1, 28, 28), 10, partial(_small_cnn, channels=1), _SMALL))
add_architecture(Architecture("cnn-s-rgb", (3, 28, 28), 10, partial(_small_cnn, channels=3), _SMALL, "cnn-s"))
add_architecture(_medium_cnn_for("cnn-m", 10))
register_for_classes("cnn-m", _medium_cnn_for)
_gray, _color = (partial(_strided_cnn, to_gray=module) for module in (nn.Identity, MeanOfChannels))
add_architecture(Architecture("small-cnn", (1, 28, 28), 10, _gray, _STRIDED))
add_architecture(Architecture("small-cnn-colour", (3, 32, 32), 10, _color, _STRIDED, "small-cnn"))
