"""Safetensors files: whole ones, and their headers with the names, types, shapes and byte ranges of the tensors.

The library reads and writes whole files. The header serves callers that read or write part of one.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .._util import one_line
from ..errors import FormatError
from .atomic_io import write_bytes
from .limits import MAX_HEADER_BYTES
from .plain_files import check_plain_file, read_plain_file

_SIZE_BYTES = 8  # the size of the header comes first, as little-endian uint64
_LARGE_BYTES = 50_000_000  # the library compares sizes itself, but after the whole file was read
_NAMES = {  # dtype -> its name in a header
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that plain `safetensors.torch.load_file` reads."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(contiguous, metadata={"format": "pt"}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises FormatError with its path where it is missing, truncated or altered."""
    try:
        size = path.stat().st_size
        if size > _LARGE_BYTES and (stop := SafetensorsHeader.read(path).file_size) < size:
            problem = f"it is larger than the {stop:,} bytes that its header says"
            raise FormatError(f"cannot read state file {path}: {problem}")
        return safetensors.torch.load(read_plain_file(path))
    except (OSError, SafetensorError) as error:
        raise FormatError(f"cannot read state file {path}: {error}") from error


def hash_weights(weights: Tensor) -> str:
    """Return the SHA-256 of a weight vector (P,) as little-endian float32, which zoo and dataset folders record."""
    # No copy is made of memory that is like that already.
    return hashlib.sha256(np.ascontiguousarray(weights.numpy(), "<f4").data).hexdigest()


@dataclass(frozen=True)
class TensorSpec:
    """The type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The size of the tensor in bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a header."""

    dtype: str  # as safetensors names it, such as F32
    shape: tuple[int, ...]
    start: int  # offset of the first byte in the file
    stop: int  # offset behind the last byte


@dataclass(frozen=True)
class SafetensorsHeader:
    """The parsed header of a file."""

    size: int  # bytes before the first tensor
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]

    @property
    def file_size(self) -> int:
        """The size in bytes of the whole file."""
        return max((entry.stop for entry in self.tensors.values()), default=self.size)

    @classmethod
    def parse(cls, content: bytes | memoryview) -> "SafetensorsHeader":
        """Parse the first bytes of a file, at least all bytes of the header.

        Raises:
            ValueError: these are not the first bytes of a safetensors file.
        """
        size = header_size(content)
        try:
            values = json.loads(bytes(content[_SIZE_BYTES:size]))
            metadata = dict(values.pop("__metadata__", {}))
            tensors = {name: _parse_entry(entry, size) for name, entry in values.items()}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(one_line(error)) from error
        return cls(size, tensors, metadata)

    @classmethod
    def read(cls, path: Path) -> "SafetensorsHeader":
        """Read the header of a file and none of its tensors.

        Raises:
            FormatError: it is no safetensors file, or not a plain file.
        """
        check_plain_file(path)
        try:
            with path.open("rb") as file:
                return cls.parse(read_header_bytes(file, MAX_HEADER_BYTES))
        except (OSError, ValueError) as error:
            raise FormatError(f"cannot read state file {path}: {one_line(error)}") from error


def read_header_bytes(file: BinaryIO, max_size: int) -> bytes:
    """Read the first bytes of an open file up to its first tensor.

    Args:
        file: Positioned at its first byte; positioned behind the header afterwards.
        max_size: The largest size in bytes that is read.

    Raises:
        ValueError: The header is larger, or the file is shorter than 8 bytes.
    """
    first = file.read(_SIZE_BYTES)
    if (size := header_size(first)) > max_size:
        raise ValueError("its header is too long")
    return first + file.read(size - _SIZE_BYTES)


def header_size(content: bytes | memoryview) -> int:
    """Return the bytes before the first tensor, as the first 8 bytes of a file tell; ValueError for fewer bytes."""
    if len(content) < _SIZE_BYTES:
        raise ValueError(f"a safetensors file begins with {_SIZE_BYTES} bytes, got {len(content)}")
    return _SIZE_BYTES + int.from_bytes(content[:_SIZE_BYTES], "little")


def _parse_entry(entry: Mapping[str, Any], offset: int) -> TensorEntry:
    begin, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*entry["shape"], begin, end)):
        raise ValueError("its shapes and offsets must be whole numbers from 0")
    return TensorEntry(str(entry["dtype"]), tuple(entry["shape"]), offset + begin, offset + end)


def make_header(
    tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str], *, alignment: int = 8
) -> tuple[bytes, dict[str, int]]:
    """Write the header of a file that holds these tensors in this order.

    Args:
        tensors: by name.
        metadata: stored in the header beside `format`, which says that the tensors are those of PyTorch.
        alignment: the first tensor begins at a multiple of so many bytes.

    Returns:
        The first bytes of the file, and by name the offset in bytes at which each tensor begins.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    starts, start = {}, 0
    for name, spec in tensors.items():
        starts[name], stop = start, start + spec.nbytes
        header[name] = {"dtype": _NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_SIZE_BYTES + len(text)) % alignment)
    size = _SIZE_BYTES + len(text)
    return len(text).to_bytes(_SIZE_BYTES, "little") + text, {name: size + start for name, start in starts.items()}
