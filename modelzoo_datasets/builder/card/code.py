"""An architecture as a few lines of plain torch, for readers who have nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ...architectures import ACTIVATION_MODULES, Architecture, ModuleListCNN

_RESNET18 = """\
from torchvision.models.resnet import BasicBlock, ResNet

module = ResNet(BasicBlock, [2, 2, 2, 2], num_classes={classes})
module.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
module.maxpool = nn.Identity()"""


@dataclass(frozen=True)
class ModuleCode:
    """Python that binds `module`, given `nn` of torch and, where it is used, `activation`: a class of torch.nn."""

    code: str
    prefix: str = ""  # of the names of its tensors in a layout, which the module itself does not have

    @property
    def takes_activation(self) -> bool:
        """Whether the code uses `activation`."""
        return "activation()" in self.code


def module_code(architecture: Architecture) -> ModuleCode | None:
    """The code of chains of torch's own layers and of ResNet-18; None for others, which nothing spells here."""
    if architecture.family == "resnet18":
        return ModuleCode(_RESNET18.format(classes=architecture.classes))
    first, second = (architecture.module(activation) for activation in ("tanh", "relu"))
    chains = [_chain(module) for module in (first, second)]
    if chains[0] is None or chains[1] is None:
        return None
    lines = [_line(*pair) for pair in zip(chains[0], chains[1], strict=True)]
    if None in lines:
        return None
    body = "".join(f"    {line},\n" for line in lines)
    return ModuleCode(f"module = nn.Sequential(\n{body})", "module_list." if isinstance(first, ModuleListCNN) else "")


def _chain(module: nn.Module) -> Sequence[nn.Module] | None:
    """Layers that are applied one after the other."""
    if isinstance(module, ModuleListCNN):
        return list(module.module_list)
    return list(module) if type(module) is nn.Sequential else None


def _line(tanh: nn.Module, relu: nn.Module) -> str | None:
    """One layer as it is written down; the same layer of the network with another activation tells what varies."""
    if type(tanh) is not type(relu):
        return "activation()" if (type(tanh), type(relu)) == _activations("tanh", "relu") else None
    if isinstance(tanh, nn.Dropout):
        return f"nn.Dropout({tanh.p})"
    known = next((kind for kind in type(tanh).__mro__ if getattr(nn, kind.__name__, None) is kind), None)
    if known is None or known is nn.Module or list(tanh.children()):
        return None
    return f"nn.{known.__name__}({tanh.extra_repr()})"


def _activations(*names: str) -> tuple[object, ...]:
    return tuple(ACTIVATION_MODULES[name] for name in names)
