"""The source of an architecture's module as the file `code/NAME.py` of a dataset folder. This package never runs it.

Every architecture of this package becomes code that needs torch alone, ResNet-18 torchvision too. The source file of a
plugin is published as it is.
"""

import inspect
import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from ..architectures import ACTIVATION_MODULES, Architecture, MeanOfChannels
from .card_examples import RESNET18, list_layers, write_layer

_PACKAGE = __name__.partition(".")[0]
_FILE_NAME = re.compile(r"[\w+-][\w.+-]*")
_MAX_BYTES = 1_000_000  # the largest source of a plugin that is published
_ANY_DROPOUT = 0.5  # a probability for which layers of dropout exist
_log = logging.getLogger(__name__)

_TEXT = '''\
"""The network `{name}` of this dataset in plain torch{libraries}: a copy for people, which nothing runs by itself.

With a row of a table, such as `row = datasets.load_dataset(...)[0]`, and the file layout.json of this dataset:

    import json
    import torch

    module = build_module(row["activation"], row["dropout"])
    fill_module(module, torch.tensor(row["weights"]), json.load(open("layout.json")))
"""

import math

import torch
from torch import nn
{imports}{definitions}

def build_module(activation, dropout=0.0):
    """Return a module with the activation and dropout of a row; fill_module gives it the weights of the row."""
{body}


def fill_module(module, weights, layout):
    """Load the weights (P,) of a row into a module of build_module, in eval mode afterwards."""
    names = [name for name, _ in [*module.named_parameters(), *module.named_buffers()]]
    stored = [slot["name"].removeprefix("module_list.") for slot in layout]
    if sorted(stored) != sorted(names):  # layers of dropout shift the numbers in names
        stored = names
    state = {{}}
    for name, slot in zip(stored, layout, strict=True):
        part = weights[slot["start"] : slot["start"] + math.prod(slot["shape"])]
        state[name] = part.reshape(slot["shape"]).to(getattr(torch, slot.get("dtype", "float32")))
    module.load_state_dict(state)
    return module.eval()
'''

_GRAY_LAYER = f"{MeanOfChannels.__name__}()"
_GRAY = '''

class MeanOfChannels(nn.Module):
    """The conversion of color images to gray."""

    def forward(self, x):
        return x.mean(dim=1, keepdim=True)
'''

# The networks with branches; the names of their tensors are those of the layout without `module_list.`.
_NETWORKS = {
    "res-cnn": '''

class Network(nn.Sequential):
    """A small CNN with a branch around each convolution block: max-pooling, then a 1x1 convolution."""

    def __init__(self, active):
        super().__init__(
            *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), active()),  # 1x28x28 -> 8x12x12
            *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), active()),  # -> 6x4x4
            *(nn.Conv2d(6, 4, 2), active(), nn.Flatten()),  # -> 4x3x3 = 36
            *(nn.Linear(36, 20), active()),
            nn.Linear(20, 10),
        )
        self.res1_conv, self.res2_conv = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 6, 1)
        self.res3_conv = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        layers = list(self.children())
        x = apply(layers[0:3], x) + self.res1_conv(nn.functional.max_pool2d(x, 5, 2))
        x = apply(layers[3:6], x) + self.res2_conv(nn.functional.max_pool2d(x, 5, 2))
        x = apply(layers[6:8], x) + self.res3_conv(nn.functional.max_pool2d(x, 2, 1))
        return apply(layers[8:12], x)


def apply(layers, x):
    for layer in layers:
        x = layer(x)
    return x
''',
    "cnn-more-layers": '''

class Network(nn.Module):
    """A small CNN with four convolutions instead of three."""

    def __init__(self, active):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), active()),  # 1x28x28 -> 8x12x12
            *(nn.Conv2d(8, 4, 5, bias=False), active()),  # -> 4x8x8
            *(nn.Conv2d(4, 6, 4, bias=False), active()),  # -> 6x5x5
            *(nn.Conv2d(6, 4, 3, bias=False), active(), nn.Flatten()),  # -> 4x3x3 = 36
            *(nn.Linear(36, 18), active()),
            nn.Linear(18, 10),
        )

    def forward(self, x):
        return self.layers(x)
''',
    "cnn-more-layers-residual": '''

class Network(nn.Module):
    """A small CNN with four convolutions and a skip connection from the second one to the fourth."""

    def __init__(self, active):
        super().__init__()
        self.conv1, self.pool1 = nn.Conv2d(1, 8, 5), nn.MaxPool2d(2)  # 1x28x28 -> 8x12x12
        self.conv2 = nn.Conv2d(8, 4, 5, bias=False)  # -> 4x8x8
        self.conv3 = nn.Conv2d(4, 6, 4, bias=False)  # -> 6x5x5
        self.conv4 = nn.Conv2d(6, 4, 3, bias=False)  # -> 4x3x3
        self.fc5, self.fc6, self.act = nn.Linear(36, 18), nn.Linear(18, 10), active()

    def forward(self, x):
        x = self.act(self.pool1(self.conv1(x)))
        skip = self.act(self.conv2(x))
        x = self.act(self.conv4(self.act(self.conv3(skip))))
        x = x + skip[:, :, 1:-1:2, 1:-1:2]  # without its margin every other pixel: 8x8 -> 3x3
        return self.fc6(self.act(self.fc5(x.flatten(1))))
''',
    "cnn-residual": '''

class Network(nn.Module):
    """A small CNN, three layers without bias, and a 1x1 convolution from the first block to the third."""

    def __init__(self, active):
        super().__init__()
        self.conv1, self.pool1 = nn.Conv2d(1, 8, 5, bias=False), nn.MaxPool2d(2)  # 1x28x28 -> 8x12x12
        self.conv2, self.pool2 = nn.Conv2d(8, 6, 5), nn.MaxPool2d(2)  # -> 6x4x4
        self.conv3 = nn.Conv2d(6, 4, 2, bias=False)  # -> 4x3x3
        self.identity = nn.Conv2d(8, 4, 1, bias=False)
        self.fc4, self.fc5, self.act = nn.Linear(36, 20, bias=False), nn.Linear(20, 10), active()

    def forward(self, x):
        x = self.act(self.pool1(self.conv1(x)))
        skip = self.identity(x[:, :, ::4, ::4])  # every fourth pixel: 12x12 -> 3x3
        x = self.act(self.pool2(self.conv2(x)))
        x = self.act(self.conv3(x)) + skip
        return self.fc5(self.act(self.fc4(x.flatten(1))))
''',
}


def find_module_path(name: str) -> str | None:
    """Return the path of an architecture's source in a dataset folder; None for a name that no file should have."""
    return f"code/{name}.py" if _FILE_NAME.fullmatch(name) else None


def write_module_file(architecture: Architecture) -> str | None:
    """Return the source of an architecture's module, None where there is none that could be published.

    Args:
        architecture: The architecture. Without a module it has no source.
    """
    if not architecture.has_module:
        return None
    path = _find_plugin(architecture)
    return _write_plain_code(architecture) if path is None else _read_plugin(path)


def find_plugin(architecture: Architecture) -> Path | None:
    """Return the source file of a plugin's architecture, None for one of this package or of an interactive session."""
    path = _find_plugin(architecture) if architecture.has_module else None
    return path if path is not None and path.is_file() else None


def _find_plugin(architecture: Architecture) -> Path | None:
    build = architecture.build
    while isinstance(build, partial):
        build = build.func
    target = build if inspect.isroutine(build) or inspect.isclass(build) else type(build)
    if (target.__module__ or "").partition(".")[0] == _PACKAGE:
        return None
    try:
        return Path(inspect.getsourcefile(target) or "")
    except TypeError:  # written in another language, or typed into an interpreter
        return Path()


def _read_plugin(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() and path.stat().st_size <= _MAX_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None


def _write_plain_code(architecture: Architecture) -> str | None:
    """Return code that builds the module without this package, None if there is no rule to write it."""
    if architecture.family == "resnet18":
        imports, _, code = RESNET18.format(classes=architecture.classes).partition("\n\n")
        lines = [*code.splitlines(), "return module"]
        return _fill_text(architecture, lines, imports=f"{imports}\n", libraries=" and torchvision")
    classes = _NETWORKS.get(architecture.name, "")
    if classes:
        lines = ["return Network(ACTIVATIONS[activation])"]
    elif (layers := _write_layers(architecture)) is None:
        return None
    else:
        lines = ["active = ACTIVATIONS[activation]", "return nn.Sequential(", *(f"    {line}," for line in layers), ")"]
        classes = _GRAY if _GRAY_LAYER in layers else ""
    kinds = "".join(f'    "{key}": nn.{kind.__name__},\n' for key, kind in _list_activations())
    return _fill_text(architecture, lines, definitions=f"\nACTIVATIONS = {{\n{kinds}}}\n{classes}")


def _fill_text(
    architecture: Architecture, lines: Sequence[str], imports: str = "", definitions: str = "", libraries: str = ""
) -> str:
    """Return the file whose function `build_module` has these lines."""
    values = {"imports": imports, "definitions": definitions, "libraries": libraries}
    return _TEXT.format(name=architecture.name, body="\n".join(f"    {line}" for line in lines), **values)


def _list_activations() -> list[tuple[str, type[nn.Module]]]:
    return [(name, type(make())) for name, make in ACTIVATION_MODULES.items()]


def _write_layers(architecture: Architecture) -> list[str] | None:
    """Return a line of code for each layer; dropout layers exist always, or only for a positive dropout."""
    dropout = _ANY_DROPOUT if architecture.takes_dropout else 0.0
    chains = [list_layers(architecture.module(activation, dropout)) for activation in ("tanh", "relu")]
    plain = list_layers(architecture.module("tanh"))
    if plain is None or any(chain is None for chain in chains):
        return None
    tanh, relu = (chain or () for chain in chains)
    always = _count_dropout(plain) == _count_dropout(tanh)
    lines = []
    for pair in zip(tanh, relu, strict=True):
        if isinstance(pair[0], nn.Dropout) and architecture.takes_dropout:
            line = "nn.Dropout(dropout)"
            lines.append(line if always else f"*([{line}] if dropout > 0 else [])")
        elif isinstance(pair[0], MeanOfChannels):
            lines.append(_GRAY_LAYER)
        elif (text := write_layer(*pair)) is None:
            return None
        else:
            lines.append(text.replace("activation()", "active()"))
    return lines


def _count_dropout(layers: Sequence[nn.Module]) -> int:
    return sum(isinstance(layer, nn.Dropout) for layer in layers)
