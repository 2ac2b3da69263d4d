"""Old `.pt` checkpoints: only state dicts of plain tensors are read; no code in a file is run.

Checkpoints of sparsified twins hold unpruned weights and log sigma², from which the pruned weights follow. P numbers of
a state, Q numbers stored beside it.
"""

import io
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._util import natural_key
from ..architectures import (
    Architecture,
    architecture_names,
    get_architecture,
    make_variational,
    prune_state,
    variants_for_classes,
)
from ..engines import variational_layout
from ..errors import FormatError, RecipeError
from ..weights import Layout
from .base import Skipped

_LOG_SIGMA2 = ("log_sigma2", "log_sigma2_bias")  # tensors of sparsified twins, by the last part of their names
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


def read_checkpoint(content: bytes, max_size: int) -> dict[str, Tensor]:
    """Read the state dict in a file of `torch.save`; arguments and errors as for `load_tensors`."""
    return unwrap_state_dict(load_tensors(content, max_size))


def load_tensors(content: bytes, max_size: int) -> Any:
    """Load what a file of `torch.save` holds: tensors and plain containers of them; no code in it is run.

    Args:
        content: The file.
        max_size: The largest size in bytes that its members may have together, decompressed.

    Raises:
        Skipped: the file is truncated or no checkpoint, or holds more than tensors and plain containers of them.
    """
    try:
        if content.startswith(_ZIP):
            _check_members(content, max_size)
        with warnings.catch_warnings():  # unusual pickles warn, and are skipped anyhow
            warnings.simplefilter("ignore")
            # The only unpickling there is: weights_only builds tensors and plain containers, and calls nothing else.
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # damaged bytes make readers of zips, pickles and unicode raise almost anything
        is_pickle = content.startswith(_PICKLE) or "global" in str(error).lower()
        unsafe = type(error).__name__ == "UnpicklingError" and is_pickle
        raise Skipped(_UNSAFE if unsafe else _UNREADABLE) from error


def _check_members(content: bytes, max_size: int) -> None:
    """Compare checksums and sizes, which torch does not compare; raises ValueError."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > max_size:
            raise ValueError("its members are too large")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise ValueError("a member is packed by another method than deflate")  # Python reads it without a limit
        if archive.testzip() is not None:
            raise ValueError("a checksum is wrong")


def unwrap_state_dict(value: Any) -> dict[str, Tensor]:
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

    The modules are matched in order, because dropout shifts the numbers in the names of the published CNNs.
    """
    modules = sorted({name.rpartition(".")[0] for name in names}, key=natural_key)
    targets = sorted({slot.module for slot in layout.slots}, key=natural_key)
    if len(modules) != len(targets):
        raise Skipped(_OTHER)
    return dict(zip(modules, targets, strict=True))


def rename_tensors(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return the state under the names of a layout; raises Skipped for other tensors, shapes or dtypes."""
    result = _rename_modules(state, match_modules(state, layout))
    if {name: tuple(tensor.shape) for name, tensor in result.items()} != {s.name: s.shape for s in layout.slots}:
        raise Skipped(_OTHER)
    for slot in layout.slots:
        if result[slot.name].dtype is not slot.dtype:
            raise Skipped(f"has numbers of {result[slot.name].dtype}, expected {slot.dtype}")
    return result


def _rename_modules(state: Mapping[str, Tensor], target: Mapping[str, str]) -> dict[str, Tensor]:
    split = ((*name.rpartition(".")[::2], tensor) for name, tensor in state.items())
    return {f"{target.get(module, module)}.{last}": tensor for module, last, tensor in split}


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
    plain = _drop_log_sigma2(state)
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


def _drop_log_sigma2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] not in _LOG_SIGMA2}


def is_twin(state: Mapping[str, Tensor]) -> bool:
    """Return True for a state dict with log sigma² beside its weights."""
    return any(name.rpartition(".")[2] in _LOG_SIGMA2 for name in state)


class TwinReader:
    """A reader of the checkpoints of sparsified twins of one architecture."""

    def __init__(self, architecture: Architecture) -> None:
        self._layout, self._variational = architecture.layout, variational_layout(architecture.name)
        self._names = {slot.name for slot in self._variational.slots}
        self._module = make_variational(architecture.module("relu"))

    def read(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return pruned weights (P,), and unpruned weights with log sigma² (Q,); raises Skipped for other networks.

        The originals have log sigma² of the biases of linear layers but never set or use it, so it is left out.
        """
        if not is_twin(state):
            raise Skipped("is not of a sparsified twin, as others are")
        tensors = _rename_modules(state, match_modules(_drop_log_sigma2(state), self._layout))
        needed = {name: tensor for name, tensor in tensors.items() if name in self._names}
        result = rename_tensors(needed, self._variational)
        self._module.load_state_dict(result)
        return self._layout.pack(prune_state(self._module)), self._variational.pack(result)
