"""Example code of a card: an architecture as a few lines of plain torch, and queries in SQL.

No reader needs to install this package. The queries run in DuckDB and in the SQL console of the Hub's viewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..architectures import ACTIVATION_MODULES, Architecture, ModuleListCNN

UNPACKING = """\
state = {}
for slot in layout:
    tensor = weights[slot["start"] : slot["start"] + math.prod(slot["shape"])].reshape(slot["shape"])
    state[slot["name"]] = tensor.to(getattr(torch, slot.get("dtype", "float32")))"""

RESNET18 = """\
from torchvision.models.resnet import BasicBlock, ResNet

module = ResNet(BasicBlock, [2, 2, 2, 2], num_classes={classes})
module.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
module.maxpool = nn.Identity()"""

_BY_EPOCH = """\
SELECT epoch, count(*) AS states, median(test_acc) AS median_acc, max(test_acc) AS best_acc
FROM {files}
GROUP BY epoch
ORDER BY epoch;"""

_BEST = """\
SELECT {names}, count(*) AS models, median(last_acc) AS median_acc
FROM (
  SELECT model_id, {names}, arg_max(test_acc, epoch) AS last_acc
  FROM {files}
  GROUP BY model_id, {names}
)
GROUP BY {names}
ORDER BY median_acc DESC NULLS LAST
LIMIT 10;"""

_NORMS = """\
SELECT model_id, epoch, sqrt(list_inner_product(weights, weights)) AS norm
FROM {files}
ORDER BY norm DESC
LIMIT 10;"""


@dataclass(frozen=True)
class ModuleCode:
    """Python code that assigns `module`, given `torch.nn` as `nn` and, if it is used, a class `activation`."""

    code: str
    prefix: str = ""  # prefix of the tensors' names in the layout that the names in the module do not have

    @property
    def uses_activation(self) -> bool:
        """True if the code uses `activation`."""
        return "activation()" in self.code

    def write_loading(self, activation: str | None = None) -> str:
        """Return the code that makes `module` of a state dict `state`, or of a row with the name of its activation.

        Args:
            activation: Name of the activation; by default that of `row["activation"]`.
        """
        lines = []
        if self.uses_activation and activation is not None:
            lines.append(f"activation = {_name_class(activation)}")
        elif self.uses_activation:
            names = ", ".join(f'"{name}": {_name_class(name)}' for name in ACTIVATION_MODULES)
            lines.append(f'activation = {{{names}}}[row["activation"]]')
        lines.append(self.code.rstrip("\n"))
        if self.prefix:
            lines.append(f'state = {{name.removeprefix("{self.prefix}"): tensor for name, tensor in state.items()}}')
        return "\n".join([*lines, "module.load_state_dict(state)", "module.eval()"])


def write_module_code(architecture: Architecture, dropout: float = 0.0) -> ModuleCode | None:
    """Return the code of ResNet-18 and of chains of torch's own layers, None for other architectures.

    Args:
        architecture: The architecture.
        dropout: The probability of dropout, whose layers may shift the numbers in the names of tensors.
    """
    if architecture.family == "resnet18":
        return ModuleCode(RESNET18.format(classes=architecture.classes))
    tanh, relu = (architecture.module(activation, dropout) for activation in ("tanh", "relu"))
    tanh_layers, relu_layers = list_layers(tanh), list_layers(relu)
    if tanh_layers is None or relu_layers is None:
        return None
    lines = [write_layer(*pair) for pair in zip(tanh_layers, relu_layers, strict=True)]
    if None in lines:
        return None
    body = "".join(f"    {line},\n" for line in lines)
    return ModuleCode(f"module = nn.Sequential(\n{body})", "module_list." if type(tanh) is ModuleListCNN else "")


def _name_class(activation: str) -> str:
    return f"nn.{ACTIVATION_MODULES[activation].__name__}"


def list_layers(module: nn.Module) -> Sequence[nn.Module] | None:
    """Return layers that are applied one after the other, None if the module is not a plain chain."""
    if type(module) is ModuleListCNN:  # one of its subclasses has branches
        return list(module.module_list)
    return list(module) if type(module) is nn.Sequential else None


def write_layer(tanh: nn.Module, relu: nn.Module) -> str | None:
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


def write_queries(config: str, varied: Sequence[str], *, inline: bool, has_accuracy: bool = True) -> dict[str, str]:
    """Return example queries of one config, of files below the current folder: heading -> SQL.

    Args:
        config: Name of the config.
        varied: Columns of hyperparameters that have more than one value.
        inline: Whether the weights are in the table.
        has_accuracy: Whether the table has test accuracies.
    """
    index, full = (f"'{name}/*.parquet'" for name in (f"{config}_index", config))
    queries = {"Test accuracy by epoch": _BY_EPOCH.format(files=index)} if has_accuracy else {}
    if varied and has_accuracy:
        names = ", ".join(f'"{name}"' for name in varied)
        queries["The best hyperparameters by median accuracy"] = _BEST.format(names=names, files=index)
    if inline:
        queries["The norm of the weights"] = _NORMS.format(files=full)
    return queries
