"""Whole files or none: written beside, flushed to disk, renamed into place; equal content gives equal bytes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import FolderInUseError, FormatError


def partial_beside(path: Path) -> Path:
    """Where a file or folder is made before it is renamed into place; FolderInUseError for the current folder."""
    if path.absolute() == Path.cwd():
        raise FolderInUseError("the current folder cannot be written as a whole; name a new one with --out")
    return path.with_name(f".{path.name}.partial")


def write_bytes(path: Path, content: bytes) -> None:
    """Put a file in place whole; a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_beside(path)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write plain values as readable JSON."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


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


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet; the bytes depend on the content alone."""
    buffer = pa.BufferOutputStream()
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(arrow, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue().to_pybytes())


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table; raises FormatError with its path."""
    try:
        table: pd.DataFrame = pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"cannot read table {path}: {error}") from error
    return table
