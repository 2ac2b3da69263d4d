"""Whole files or none: written beside, flushed to disk, renamed into place; equal content gives equal bytes."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import DiskFullError, FolderInUseError, FormatError

_FULL = (errno.ENOSPC, errno.EDQUOT)  # no bytes or no files left, or a quota used up


def partial_beside(path: Path) -> Path:
    """Where a file or folder is made before it is renamed into place; FolderInUseError for the current folder."""
    if path.absolute() == Path.cwd():
        raise FolderInUseError("the current folder cannot be written as a whole; name a new one with --out")
    return path.with_name(f".{path.name}.partial")


@contextmanager
def disk_full_told(path: Path) -> Iterator[None]:
    """Say of a failed write which file it was of: DiskFullError for a full disk, the OSError itself for all else."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"the disk is full: no room for {path}; make room there and run the same command again to go on"
            ) from error
        error.filename = error.filename or str(path)
        raise


class NewFile:
    """A file in the making: `place` puts it where it belongs, flushed to disk; `discard` leaves what was there before.

    All methods raise DiskFullError where the disk is full.
    """

    def __init__(self, path: Path) -> None:
        """Begin an empty file beside `path`; makes the folders above."""
        self._path, self._partial = path, partial_beside(path)
        with disk_full_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("wb", buffering=0)

    def write(self, content: bytes | memoryview, offset: int | None = None) -> None:
        """Write at an offset in bytes, or where the last write ended."""
        rest = memoryview(content)
        with disk_full_told(self._path):
            self._reopen()
            if offset is not None:
                self._file.seek(offset)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]

    def rest(self) -> None:
        """Hold no open file until the next write, which must name its offset: many files may be in the making."""
        with disk_full_told(self._path):
            self._file.close()

    def _reopen(self) -> None:
        if self._file.closed:
            self._file = self._partial.open("r+b", buffering=0)

    def place(self) -> None:
        """Put the file in place whole; a kill at any moment leaves the old file or the new one."""
        with disk_full_told(self._path):
            self._reopen()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self._path)

    def discard(self) -> None:
        """Remove what was written."""
        try:
            self._file.close()
        finally:
            self._partial.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until a file that others wrote is on the disk."""
    with disk_full_told(path), path.open("rb") as file:
        os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes) -> None:
    """Put a file in place whole; a kill at any moment leaves the old file or the new one."""
    file = NewFile(path)
    try:
        file.write(content)
        file.place()
    except BaseException:
        file.discard()
        raise


def write_json(path: Path, value: Any) -> None:
    """Write plain values as readable JSON; ValueError for numbers that JSON has not, such as infinity."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; raises FormatError with its path."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot read {path}: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that plain `safetensors.torch.load_file` reads."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(contiguous, metadata={"format": "pt"}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises FormatError with its path where it is missing, truncated or altered."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise FormatError(f"cannot read state file {path}: {error}") from error


def write_table(path: Path, table: pd.DataFrame | pa.Table) -> None:
    """Write a table as Parquet; the bytes depend on the content alone."""
    buffer = pa.BufferOutputStream()
    arrow = pa.Table.from_pandas(table, preserve_index=False) if isinstance(table, pd.DataFrame) else table
    # In chunks, as tables put together are, the same rows would become other pages.
    whole = arrow.combine_chunks().replace_schema_metadata(None)
    pq.write_table(whole, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue().to_pybytes())


def read_arrow(path: Path) -> pa.Table:
    """Read a Parquet table; raises FormatError with its path."""
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"cannot read table {path}: {error}") from error


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table; raises FormatError with its path."""
    table: pd.DataFrame = read_arrow(path).to_pandas()
    return table
