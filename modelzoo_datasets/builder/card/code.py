"""An architecture as a few lines of plain torch, for readers of a card who do not install this package."""

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
    """Python code that assigns `module`, given `torch.nn` as `nn` and, if it is used, a class `activation`."""

    code: str
    prefix: str = ""  # prefix of the tensors' names in the layout that the names in the module do not have

    @property
    def uses_activation(self) -> bool:
        """True if the code uses `activation`."""
        return "activation()" in self.code


def write_module_code(architecture: Architecture) -> ModuleCode | None:
    """Return the code of ResNet-18 and of chains of torch's own layers, None for other architectures."""
    if architecture.family == "resnet18":
        return ModuleCode(_RESNET18.format(classes=architecture.classes))
    tanh, relu = (architecture.module(activation) for activation in ("tanh", "relu"))
    tanh_layers, relu_layers = _list_layers(tanh), _list_layers(relu)
    if tanh_layers is None or relu_layers is None:
        return None
    lines = [_write_layer(*pair) for pair in zip(tanh_layers, relu_layers, strict=True)]
    if None in lines:
        return None
    body = "".join(f"    {line},\n" for line in lines)
    return ModuleCode(f"module = nn.Sequential(\n{body})", "module_list." if isinstance(tanh, ModuleListCNN) else "")


def _list_layers(module: nn.Module) -> Sequence[nn.Module] | None:
    """Return layers that are applied one after the other, None if the module is not a plain chain."""
    if isinstance(module, ModuleListCNN):
        return list(module.module_list)
    return list(module) if type(module) is nn.Sequential else None


def _write_layer(tanh: nn.Module, relu: nn.Module) -> str | None:
    """Return the code of one layer, None if it is not torch's own.

    The layer comes from two networks with different activations: where it differs, it is the activation.
    """
    if type(tanh) is not type(relu):
        is_activation = (type(tanh), type(relu)) == (ACTIVATION_MODULES["tanh"], ACTIVATION_MODULES["relu"])
        return "activation()" if is_activation else None
    if isinstance(tanh, nn.Dropout):
        return f"nn.Dropout({tanh.p})"
    torch_class = next((kind for kind in type(tanh).__mro__ if getattr(nn, kind.__name__, None) is kind), None)
    if torch_class is None or torch_class is nn.Module or list(tanh.children()):
        return None
    return f"nn.{torch_class.__name__}({tanh.extra_repr()})"
