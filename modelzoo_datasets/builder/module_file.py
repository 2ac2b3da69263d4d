"""The source of an architecture's module as the file `code/NAME.py` of a dataset folder. This package never runs it.

Plain chains of torch's own layers and ResNet-18 become code that needs torch alone. The source file of a plugin is
published as it is.
"""

import inspect
import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from ..architectures import ACTIVATION_MODULES, Architecture
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
{imports}{activations}

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


def find_module_path(name: str) -> str | None:
    """Return the path of an architecture's source in a dataset folder; None for a name that no file should have."""
    return f"code/{name}.py" if _FILE_NAME.fullmatch(name) else None


def write_module_file(architecture: Architecture) -> str | None:
    """Return the source of an architecture's module, None where there is none that could be published.

    Args:
        architecture: The architecture. Without a module it has no source, and neither has one of this package that is
            no chain of torch's own layers.
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
    """Return code that builds the module without this package, None if it is no chain of torch's own layers."""
    if architecture.family == "resnet18":
        imports, _, body = RESNET18.format(classes=architecture.classes).partition("\n\n")
        lines = [f"    {line}" for line in [*body.splitlines(), "return module"]]
        values = {"imports": f"{imports}\n", "activations": "", "body": "\n".join(lines)}
        libraries = " and torchvision"
    else:
        layers = _write_layers(architecture)
        if layers is None:
            return None
        kinds = "".join(f'    "{key}": nn.{kind.__name__},\n' for key, kind in _list_activations())
        body = "".join(f"        {line},\n" for line in layers)
        text = f"    active = ACTIVATIONS[activation]\n    return nn.Sequential(\n{body}    )"
        values = {"imports": "", "activations": f"\nACTIVATIONS = {{\n{kinds}}}\n", "body": text}
        libraries = ""
    return _TEXT.format(name=architecture.name, libraries=libraries, **values)


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
        elif (text := write_layer(*pair)) is None:
            return None
        else:
            lines.append(text.replace("activation()", "active()"))
    return lines


def _count_dropout(layers: Sequence[nn.Module]) -> int:
    return sum(isinstance(layer, nn.Dropout) for layer in layers)
