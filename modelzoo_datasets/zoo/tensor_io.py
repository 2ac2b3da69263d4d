"""Tensors and tables as files: equal content gives equal bytes."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import FormatError
from .atomic_io import write_bytes


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
    # Concatenated tables have chunks, and the same rows in other chunks become other pages.
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
