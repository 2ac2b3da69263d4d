"""Packed files: the states of many models stacked per tensor, so that a big zoo has few files.

A packed file is a safetensors file that holds every tensor of the layout as (S, ...), S = states of all its models, and
in its metadata which rows belong to which model: {"<model_id>": [first row, states]}. It is written row by row: no
more than what is handed over at once is ever held in memory.
"""

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import FormatError
from .atomic_io import NewFile

Rows = Mapping[str, tuple[int, int]]  # model_id -> first row, states

_NAMES = {  # what safetensors calls a dtype
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class TensorSpec:
    """What one row of a tensor is, or a whole tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return self.dtype.itemsize * math.prod(self.shape)


def header_of(tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a safetensors file that holds these tensors in this order, and where in it each one begins."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    begins, begin = {}, 0
    for name, kind in tensors.items():
        begins[name], end = begin, begin + kind.nbytes
        header[name] = {"dtype": _NAMES[kind.dtype], "shape": list(kind.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: data + begin for name, begin in begins.items()}


class PackedFile:
    """A packed file in the making, with room for all its rows; see `NewFile` for how it gets into place.

    Written by hand because the library needs all tensors at once, and writes metadata in an order of chance.
    """

    def __init__(self, path: Path, kinds: Mapping[str, TensorSpec], rows: Rows) -> None:
        """Begin a file of tensors (S, ...), S as `rows` say; equal content gives equal bytes."""
        states = sum(count for _, count in rows.values())
        self._kinds = kinds
        # In the order of the library: numbers of many bytes first, so that all are aligned.
        ordered = sorted(kinds, key=lambda name: (-kinds[name].dtype.itemsize, name))
        stacked = {name: TensorSpec(kinds[name].dtype, (states, *kinds[name].shape)) for name in ordered}
        models = json.dumps({model: list(place) for model, place in rows.items()})
        header, self._offsets = header_of(stacked, {"models": models})
        self._file = NewFile(path)
        self._file.write(header)

    def write(self, name: str, first: int, tensor: Tensor) -> None:
        """Put rows (K, ...) of a tensor where row `first` begins; raises FormatError where they are of another kind."""
        kind = TensorSpec(tensor.dtype, tuple(tensor.shape[1:]))
        if kind != self._kinds[name]:
            raise FormatError(f"{name}: expected rows of {self._kinds[name]}, got {kind}")
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        self._file.write(content.data, self._offsets[name] + first * self._kinds[name].nbytes)

    def rest(self) -> None:
        """See `NewFile.rest`."""
        self._file.rest()

    def place(self) -> None:
        """See `NewFile.place`."""
        self._file.place()

    def discard(self) -> None:
        """See `NewFile.discard`."""
        self._file.discard()


def pack_rows(path: Path) -> dict[str, tuple[int, int]]:
    """Which rows belong to which model; raises FormatError where the file is missing, truncated or another."""
    try:
        with safe_open(path, "pt") as file:
            rows = json.loads((file.metadata() or {})["models"])
            return {str(model): (int(first), int(count)) for model, (first, count) in rows.items()}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"cannot read packed states {path}: {error}") from error


def read_pack(path: Path, first: int, count: int) -> dict[str, Tensor]:
    """Rows first to first + count - 1 of every tensor, read alone."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name)[first : first + count] for name in sorted(file.keys())}
    except (OSError, SafetensorError) as error:
        raise FormatError(f"cannot read packed states {path}: {error}") from error


def merge_packs(target: Path, kinds: Mapping[str, TensorSpec], sources: Mapping[str, Path]) -> None:
    """Put the states of these models (model_id -> the file that holds them), in this order, into one file.

    At most one tensor of one model is in memory at a time.
    """
    places = {path: pack_rows(path) for path in dict.fromkeys(sources.values())}
    rows: dict[str, tuple[int, int]] = {}
    total = 0
    for model, path in sources.items():
        rows[model] = (total, places[path][model][1])
        total += rows[model][1]
    file = PackedFile(target, kinds, rows)
    try:
        with ExitStack() as stack:
            opened = {path: stack.enter_context(safe_open(path, "pt")) for path in places}
            for name in kinds:
                for model, path in sources.items():
                    first, count = places[path][model]
                    file.write(name, rows[model][0], opened[path].get_slice(name)[first : first + count])
        file.place()
    except SafetensorError as error:
        file.discard()
        raise FormatError(f"cannot read packed states {path}: {error}") from error
    except BaseException:
        file.discard()
        raise
