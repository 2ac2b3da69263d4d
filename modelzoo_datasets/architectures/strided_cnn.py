"""The CNN of the Small CNN Zoo (2002.11448): three strided convolutions, average pooling and a linear layer."""

from torch import Tensor, nn

from ..weights import Layout, Symmetry, chain_symmetry
from .modules import ACTIVATION_MODULES, ModuleListCNN, SeededDropout
from .registry import Architecture, add_architecture

_UNITS = 16


class MeanOfChannels(nn.Module):
    """The conversion of color images to gray in that zoo."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean (B, 1, H, W) over the channels of images (B, C, H, W)."""
        return x.mean(dim=1, keepdim=True)


def _small_cnn(activation: str, dropout: float, *, color: bool) -> nn.Module:
    """Return the CNN with 4,970 parameters. Dropout layers always exist, so that tensor names do not depend on them."""

    def block(channels: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, _UNITS, 3, stride=2)
        return [convolution, ACTIVATION_MODULES[activation](), SeededDropout(dropout)]

    gray = MeanOfChannels() if color else nn.Identity()
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return ModuleListCNN([gray, *block(1), *block(_UNITS), *block(_UNITS), *pooled, nn.Linear(_UNITS, 10)])


def _gray(activation: str, dropout: float) -> nn.Module:
    return _small_cnn(activation, dropout, color=False)


def _color(activation: str, dropout: float) -> nn.Module:
    return _small_cnn(activation, dropout, color=True)


def _symmetry(layout: Layout) -> Symmetry:
    return chain_symmetry(layout, pooled=(False, False, False))  # the mean of odd functions is odd


small_cnn = add_architecture(Architecture("small-cnn", (1, 28, 28), 10, _gray, _symmetry))
small_cnn_color = add_architecture(
    Architecture("small-cnn-colour", (3, 32, 32), 10, _color, _symmetry, family=small_cnn.family)
)
