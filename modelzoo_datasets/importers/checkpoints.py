"""Old `.pt` checkpoints: only state dicts of plain tensors are read; no code in a file is run.

P numbers of a state.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._util import natural_key
from ..architectures import Architecture, architecture_names, get_architecture, variants_for_classes
from ..errors import FormatError, RecipeError
from ..weights import Layout
from .skip_report import Skipped

_WRAPPERS = ("model_state_dict", "state_dict", "model")
_SLACK = 1_000_000  # bytes of names and padding that a checkpoint may have
_OTHER = "is of another architecture"
_UNREADABLE = "is truncated or damaged, or no checkpoint"
_ZIP = b"PK"
_PICKLE = b"\x80"  # first byte of a pickle outside of a zip
_UNSAFE = "is a pickle that holds more than tensors, which is never executed"


def max_checkpoint_size(layout: Layout) -> int:
    """Return the size in bytes above which a file cannot be a checkpoint of this network and is not read."""
    return 4 * 4 * layout.size + _SLACK


def read_checkpoint(content: bytes) -> dict[str, Tensor]:
    """Read the state dict in a file of `torch.save`; no code in it is run.

    Raises:
        Skipped: the file is truncated or no checkpoint, or holds more than tensors and plain containers of them.
    """
    try:
        if content.startswith(_ZIP):  # torch does not compare their checksums
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if archive.testzip() is not None:
                    raise ValueError("a checksum is wrong")
        with warnings.catch_warnings():  # unusual pickles warn, and are skipped anyhow
            warnings.simplefilter("ignore")
            # The only unpickling there is: weights_only builds tensors and plain containers, and calls nothing else.
            content_dict = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # damaged bytes make readers of zips, pickles and unicode raise almost anything
        is_pickle = content.startswith(_PICKLE) or "global" in str(error).lower()
        unsafe = type(error).__name__ == "UnpicklingError" and is_pickle
        raise Skipped(_UNSAFE if unsafe else _UNREADABLE) from error
    return _unwrap_state_dict(content_dict)


def _unwrap_state_dict(value: Any) -> dict[str, Tensor]:
    """Remove the wrappers that some codes put around a state dict, and the prefix of DataParallel."""
    for wrapper in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping) or not value:
        raise Skipped("holds no state dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) and v.layout is torch.strided for k, v in value.items()):
        raise Skipped("holds no state dict")
    return {name.removeprefix("module."): tensor.detach() for name, tensor in value.items()}


def match_modules(names: Iterable[str], layout: Layout) -> dict[str, str]:
    """Match the modules of tensors with these names to the modules of a layout; raises Skipped for other networks.

    Dropout shifts the numbers in the names of the published CNNs, so their layers are matched in order.
    """
    modules = sorted({name.rpartition(".")[0] for name in names}, key=natural_key)
    targets = sorted({slot.module for slot in layout.slots}, key=natural_key)
    if len(modules) != len(targets):
        raise Skipped(_OTHER)
    if set(modules) == set(targets):
        return {module: module for module in targets}
    return dict(zip(modules, targets, strict=True))


def rename_tensors(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return the state under the names of a layout; raises Skipped for other tensors, shapes or dtypes."""
    target = match_modules(state, layout)
    split = ((*name.rpartition(".")[::2], tensor) for name, tensor in state.items())
    result = {f"{target[module]}.{last}": tensor for module, last, tensor in split}
    if result.keys() != {slot.name for slot in layout.slots}:
        raise Skipped(_OTHER)
    for slot in layout.slots:
        if tuple(result[slot.name].shape) != slot.shape:
            raise Skipped(_OTHER)
        if result[slot.name].dtype is not slot.dtype:
            raise Skipped(f"has numbers of {result[slot.name].dtype}, expected {slot.dtype}")
    return result


def pack_state(state: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """Return the weights (P,) of a state; raises Skipped as `rename_tensors` does."""
    try:
        return layout.pack(rename_tensors(state, layout))
    except FormatError as error:
        raise Skipped(_OTHER) from error


def find_architectures(state: Mapping[str, Tensor]) -> list[Architecture]:
    """Return the architectures whose states have these tensors in this order, registered ones first.

    Log sigma² of sparsified twins is ignored.
    """
    plain = {name: tensor for name, tensor in state.items() if not re.search(r"\.log_sigma2(_bias)?$", name)}
    matrices = [tensor for tensor in plain.values() if tensor.ndim == 2]
    classes = matrices[-1].shape[0] if matrices else 0  # the recorded parameters may be wrong
    architectures = []
    for name in (*architecture_names(), *variants_for_classes(classes)):
        try:
            architecture = get_architecture(name)
            rename_tensors(plain, architecture.layout)
        except (Skipped, RecipeError):
            continue
        architectures.append(architecture)
    return architectures


def describe_tensors(state: Mapping[str, Tensor]) -> str:
    """Return names and shapes of the first tensors, for messages."""
    shapes = [f"{name} {'×'.join(map(str, tensor.shape))}" for name, tensor in state.items()]
    return ", ".join(shapes[:6]) + (", ..." if len(shapes) > 6 else "")
