"""ResNet-18 for small images, as in the published zoos (2209.14764): the network of torchvision with another stem."""

from functools import partial

import torch
from torch import nn

from ..weights import Layout, Symmetry, unit_group
from .registry import Architecture, add_architecture

_STAGES = (1, 2, 3, 4)


def _resnet18(activation: str, dropout: float, *, classes: int) -> nn.Module:
    """Return a ResNet-18 with a 3x3 stem of stride 1 and without max-pooling; 11,173,962 parameters for 10 classes.

    As published, it always has ReLU and no dropout: both arguments are ignored.
    """
    # Imported here, because it takes seconds. The import may create constants, which must not be on the meta device.
    with torch.device("cpu"):
        from torchvision.models.resnet import BasicBlock, ResNet

    network: nn.Module = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


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
    build = partial(_resnet18, classes=classes)
    return add_architecture(Architecture(name, (3, size, size), classes, build, _resnet18_symmetry, family="resnet18"))


resnet18 = _register("resnet18", 32, 10)
resnet18_100 = _register("resnet18-100", 32, 100)
resnet18_200 = _register("resnet18-200", 64, 200)
