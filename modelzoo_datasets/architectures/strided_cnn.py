"""The CNN of the Small CNN Zoo (2002.11448): three strided convolutions, the mean over all pixels, one linear layer."""

from torch import Tensor, nn

from ..weights import Layout, Symmetry, chain_symmetry
from .modules import ACTIVATION_MODULES, ModuleListCNN, SeededDropout
from .registry import Architecture, add_architecture

_UNITS = 16


class MeanOfChannels(nn.Module):
    """How that zoo makes colour images gray."""

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, 1, H, W)."""
        return x.mean(dim=1, keepdim=True)


def _small_cnn(activation: str, dropout: float, *, colour: bool) -> nn.Module:
    """4,970 parameters; dropout layers are always there, so that names of tensors do not depend on them."""

    def block(channels: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, _UNITS, 3, stride=2)
        return [convolution, ACTIVATION_MODULES[activation](), SeededDropout(dropout)]

    gray = MeanOfChannels() if colour else nn.Identity()
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return ModuleListCNN([gray, *block(1), *block(_UNITS), *block(_UNITS), *pooled, nn.Linear(_UNITS, 10)])


def _gray(activation: str, dropout: float) -> nn.Module:
    return _small_cnn(activation, dropout, colour=False)


def _colour(activation: str, dropout: float) -> nn.Module:
    return _small_cnn(activation, dropout, colour=True)


def _symmetry(layout: Layout) -> Symmetry:
    return chain_symmetry(layout, pooled=(False, False, False))  # the mean of odd values is odd


small_cnn = add_architecture(Architecture("small-cnn", (1, 28, 28), 10, _gray, _symmetry))
small_cnn_colour = add_architecture(
    Architecture("small-cnn-colour", (3, 32, 32), 10, _colour, _symmetry, family=small_cnn.family)
)
