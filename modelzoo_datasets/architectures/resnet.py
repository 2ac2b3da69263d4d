"""ResNet-18 for small images, as in the published zoos (2209.14764): the network of torchvision with another stem.

It is written out here, because an import of torchvision takes seconds.
"""

from torch import Tensor, nn

from ..weights import Layout, Symmetry, unit_group
from .registry import Architecture, add_architecture

_STAGES = (1, 2, 3, 4)


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
    for stage in _STAGES:
        blocks = [f"layer{stage}.0", f"layer{stage}.1"]
        producers = ["conv1" if stage == 1 else f"layer{stage}.0.downsample.0", *(f"{block}.conv2" for block in blocks)]
        consumers = [f"{block}.conv1" for block in (blocks if stage == 1 else blocks[1:])]
        following = f"layer{stage + 1}.0"
        consumers += ["fc"] if stage == _STAGES[-1] else [f"{following}.conv1", f"{following}.downsample.0"]
        groups.append(unit_group([layer[name] for name in producers], [layer[name] for name in consumers]))
        groups += [unit_group([layer[f"{block}.conv1"]], [layer[f"{block}.conv2"]]) for block in blocks]
    return tuple(groups)


def _register(name: str, size: int, classes: int) -> Architecture:
    def build(activation: str, dropout: float) -> nn.Module:
        return ResNet18(classes)

    return add_architecture(Architecture(name, (3, size, size), classes, build, _resnet18_symmetry, family="resnet18"))


resnet18 = _register("resnet18", 32, 10)
_register("resnet18-100", 32, 100)
_register("resnet18-200", 64, 200)
