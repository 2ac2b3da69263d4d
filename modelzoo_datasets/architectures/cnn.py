"""The CNNs of the published zoos.

Those of 2209.14764 (table of architectures) are blocks of a convolution, max-pooling, activation and dropout, in this
order, and ResNet-18 for small images: the network of torchvision with another stem. It is written out here, because an
import of torchvision takes seconds. The network of the Small CNN Zoo (2002.11448) has three strided convolutions,
average pooling and a linear layer. Except for ResNets, the keys of state dicts are `module_list.*`.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..weights import Layout, Symmetry, chain_symmetry, unit_group
from .architecture import Architecture
from .modules import ACTIVATION_MODULES, ModuleListCNN, SeededDropout
from .registry import add_architecture, register_for_classes

_UNITS = 16  # in every convolution of the Small CNN Zoo


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


def _small_zoo_cnn(activation: str, dropout: float, *, to_gray: Callable[[], nn.Module]) -> nn.Module:
    """Return the CNN with 4,970 parameters. Dropout layers always exist, so that tensor names do not depend on them."""

    def block(channels: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, _UNITS, 3, stride=2)
        return [convolution, ACTIVATION_MODULES[activation](), SeededDropout(dropout)]

    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return ModuleListCNN([to_gray(), *block(1), *block(_UNITS), *block(_UNITS), *pooled, nn.Linear(_UNITS, 10)])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a branch around them, which has a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, units: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, units, 3, stride, padding=1, bias=False), nn.BatchNorm2d(units)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(units, units, 3, padding=1, bias=False), nn.BatchNorm2d(units)
        self.downsample: nn.Module | None = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, units, 1, stride, bias=False), nn.BatchNorm2d(units))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, channels, H, W) to (B, units, H / stride, W / stride)."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        activated: Tensor = self.relu(out)
        return activated


class ResNet18(nn.Module):
    """A ResNet-18 with a 3x3 stem of stride 1 and without max-pooling; 11,173,962 parameters for 10 classes.

    As published, it always has ReLU and no dropout. The names of its modules are those of torchvision.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True)
        self.maxpool = nn.Identity()
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _resnet18_symmetry(layout: Layout) -> Symmetry:
    """Return per stage one group for the residual stream, which all its layers share, and one inside each block."""
    layer, groups = layout.layers_by_name, []
    for stage in (1, 2, 3, 4):
        blocks = [f"layer{stage}.0", f"layer{stage}.1"]
        producers = ["conv1" if stage == 1 else f"layer{stage}.0.downsample.0", *(f"{block}.conv2" for block in blocks)]
        consumers = [f"{block}.conv1" for block in (blocks if stage == 1 else blocks[1:])]
        following = f"layer{stage + 1}.0"
        consumers += ["fc"] if stage == 4 else [f"{following}.conv1", f"{following}.downsample.0"]
        groups.append(unit_group([layer[name] for name in producers], [layer[name] for name in consumers]))
        groups += [unit_group([layer[f"{block}.conv1"]], [layer[f"{block}.conv2"]]) for block in blocks]
    return tuple(groups)


_SMALL = partial(chain_symmetry, pooled=(True, True, False, False))
_MEDIUM = partial(chain_symmetry, pooled=(True, True, True, False))
_UNPOOLED = partial(chain_symmetry, pooled=(False, False, False))  # the mean of odd functions is odd


def _medium_cnn_for(name: str, classes: int) -> Architecture:
    return Architecture(name, (3, 32, 32), classes, partial(_medium_cnn, classes=classes), _MEDIUM, family="cnn-m")


def _resnet18(name: str, size: int, classes: int) -> Architecture:
    def build(activation: str, dropout: float) -> nn.Module:
        return ResNet18(classes)

    return Architecture(name, (3, size, size), classes, build, _resnet18_symmetry, family="resnet18")


cnn_s = add_architecture(Architecture("cnn-s", (1, 28, 28), 10, partial(_small_cnn, channels=1), _SMALL))
add_architecture(Architecture("cnn-s-rgb", (3, 28, 28), 10, partial(_small_cnn, channels=3), _SMALL, "cnn-s"))
add_architecture(_medium_cnn_for("cnn-m", 10))
register_for_classes("cnn-m", _medium_cnn_for)
_gray, _color = (partial(_small_zoo_cnn, to_gray=module) for module in (nn.Identity, MeanOfChannels))
add_architecture(Architecture("small-cnn", (1, 28, 28), 10, _gray, _UNPOOLED))
add_architecture(Architecture("small-cnn-colour", (3, 32, 32), 10, _color, _UNPOOLED, "small-cnn"))
for name, size, classes in (("resnet18", 32, 10), ("resnet18-100", 32, 100), ("resnet18-200", 64, 200)):
    add_architecture(_resnet18(name, size, classes))
