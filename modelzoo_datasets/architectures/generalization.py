"""Variants of the small CNN, to test how well weights of one architecture transfer to another.

Source: 2209.14733 and its published code. `res-cnn` extends the small CNN; the other three have the same number of
parameters, 2,464, in different layers. None has dropout. They use the activation of the zoo, while the published
versions of the last three always use tanh.
"""

from collections.abc import Callable

from torch import Tensor, nn

from ..weights import Layout, Symmetry, chain_symmetry, unit_group
from .architecture import Architecture
from .cnn import small_cnn_layers
from .modules import ACTIVATION_MODULES, KaimingConv2d, ModuleListCNN, apply_layers
from .registry import add_architecture


class ResCNN(ModuleListCNN):
    """The small CNN with a branch around each of its three convolution blocks: max-pooling, then a 1x1 convolution.

    The tensors `module_list.*` are exactly those of the small CNN and come first in the layout: the first 2,464 weights
    are a small CNN. The branches add 98 weights: `initialize_weights` initializes their convolutions with
    `kaiming_uniform` whatever the init of the zoo is, after those of the small CNN, and their biases with 0.01.
    """

    def __init__(self, activation: str) -> None:
        super().__init__(small_cnn_layers(activation, 0.0, channels=1))
        self.res1_pool, self.res1_conv = nn.MaxPool2d(5, 2), KaimingConv2d(1, 8, 1)
        self.res2_pool, self.res2_conv = nn.MaxPool2d(5, 2), KaimingConv2d(8, 6, 1)
        self.res3_pool, self.res3_conv = nn.MaxPool2d(2, 1), KaimingConv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 10) of images (B, 1, 28, 28)."""
        layers = self.module_list
        x = apply_layers(layers[0:3], x) + self.res1_conv(self.res1_pool(x))
        x = apply_layers(layers[3:6], x) + self.res2_conv(self.res2_pool(x))
        x = apply_layers(layers[6:8], x) + self.res3_conv(self.res3_pool(x))
        return apply_layers(layers[8:], x)


class MoreLayersCNN(nn.Module):
    """A small CNN with four convolutions instead of three."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        active = ACTIVATION_MODULES[activation]
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), active()),  # 1x28x28 -> 8x12x12
            *(nn.Conv2d(8, 4, 5, bias=False), active()),  # -> 4x8x8
            *(nn.Conv2d(4, 6, 4, bias=False), active()),  # -> 6x5x5
            *(nn.Conv2d(6, 4, 3, bias=False), active(), nn.Flatten()),  # -> 4x3x3 = 36
            *(nn.Linear(36, 18), active()),
            nn.Linear(18, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 10) of images (B, 1, 28, 28)."""
        logits: Tensor = self.layers(x)
        return logits


class MoreLayersResidualCNN(nn.Module):
    """The layers of `MoreLayersCNN` with a skip connection from the second convolution to the fourth."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.conv1, self.pool1 = nn.Conv2d(1, 8, 5), nn.MaxPool2d(2)  # 1x28x28 -> 8x12x12
        self.conv2 = nn.Conv2d(8, 4, 5, bias=False)  # -> 4x8x8
        self.conv3 = nn.Conv2d(4, 6, 4, bias=False)  # -> 6x5x5
        self.conv4 = nn.Conv2d(6, 4, 3, bias=False)  # -> 4x3x3
        self.fc5 = nn.Linear(36, 18)
        self.fc6 = nn.Linear(18, 10)
        self.act = ACTIVATION_MODULES[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 10) of images (B, 1, 28, 28)."""
        x = self.act(self.pool1(self.conv1(x)))
        skip = self.act(self.conv2(x))
        x = self.act(self.conv4(self.act(self.conv3(skip))))
        x = x + skip[:, :, 1:-1:2, 1:-1:2]  # without its margin every other pixel: 8x8 -> 3x3
        logits: Tensor = self.fc6(self.act(self.fc5(x.flatten(1))))
        return logits


class ResidualCNN(nn.Module):
    """The layers of the small CNN, three without bias, and a 1x1 convolution from the first block to the third."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.conv1, self.pool1 = nn.Conv2d(1, 8, 5, bias=False), nn.MaxPool2d(2)  # 1x28x28 -> 8x12x12
        self.conv2, self.pool2 = nn.Conv2d(8, 6, 5), nn.MaxPool2d(2)  # -> 6x4x4
        self.conv3 = nn.Conv2d(6, 4, 2, bias=False)  # -> 4x3x3
        self.identity = nn.Conv2d(8, 4, 1, bias=False)
        self.fc4 = nn.Linear(36, 20, bias=False)
        self.fc5 = nn.Linear(20, 10)
        self.act = ACTIVATION_MODULES[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 10) of images (B, 1, 28, 28)."""
        x = self.act(self.pool1(self.conv1(x)))
        skip = self.identity(x[:, :, ::4, ::4])  # every fourth pixel: 12x12 -> 3x3
        x = self.act(self.pool2(self.conv2(x)))
        x = self.act(self.conv3(x)) + skip
        logits: Tensor = self.fc5(self.act(self.fc4(x.flatten(1))))
        return logits


def _res_cnn_symmetry(layout: Layout) -> Symmetry:
    first, second, third, fourth, last, *branches = layout.layers
    return (
        unit_group([first, branches[0]], [second, branches[1]]),
        unit_group([second, branches[1]], [third, branches[2]]),
        unit_group([third, branches[2]], [fourth], signed=True),
        unit_group([fourth], [last], signed=True),
    )


def _more_layers_symmetry(layout: Layout) -> Symmetry:
    return chain_symmetry(layout, pooled=(True, False, False, False, False))


def _more_layers_residual_symmetry(layout: Layout) -> Symmetry:
    conv1, conv2, conv3, conv4, fc5, fc6 = layout.layers
    return (
        unit_group([conv1], [conv2]),
        unit_group([conv2, conv4], [conv3, fc5], signed=True),  # both terms of the sum are odd
        unit_group([conv3], [conv4], signed=True),
        unit_group([fc5], [fc6], signed=True),
    )


def _residual_symmetry(layout: Layout) -> Symmetry:
    conv1, conv2, conv3, identity, fc4, fc5 = layout.layers
    return (
        unit_group([conv1], [conv2, identity]),
        unit_group([conv2], [conv3]),
        unit_group([conv3, identity], [fc4], signed=True),  # one term is odd, the other linear
        unit_group([fc4], [fc5], signed=True),
    )


def _register(
    name: str, network: Callable[[str], nn.Module], build_symmetry: Callable[[Layout], Symmetry]
) -> Architecture:
    def build(activation: str, dropout: float) -> nn.Module:
        return network(activation)

    return add_architecture(Architecture(name, (1, 28, 28), 10, build, build_symmetry, takes_dropout=False))


_register("res-cnn", ResCNN, _res_cnn_symmetry)
_register("cnn-more-layers", MoreLayersCNN, _more_layers_symmetry)
_register("cnn-more-layers-residual", MoreLayersResidualCNN, _more_layers_residual_symmetry)
_register("cnn-residual", ResidualCNN, _residual_symmetry)
