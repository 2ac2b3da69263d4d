"""Write the Parquet shards of one split: whole models per row group and shard, equal input gives equal bytes."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from .schema import Columns

_SHARD_BYTES = 128_000_000  # what one file holds uncompressed: quick to fetch, few enough for any zoo
_GROUP_BYTES = 10_000_000  # one row group, far below the viewer's limit of 300 MB


def write_split(
    folder: Path,
    split: str,
    rows: pd.DataFrame,
    columns: Columns,
    weights_of: Callable[[str, int], Tensor],
) -> int:
    """Write `<split>-00000-of-0000N.parquet` with weights; returns the bytes of the uncompressed table.

    Args:
        rows: one per state, sorted by model and epoch.
        weights_of: (model_id, epoch) -> weights (P,).
    """
    shards = _whole_models(rows, max(1, _SHARD_BYTES // (4 * columns.parameters)))
    size = 0
    for number, shard in enumerate(shards):
        path = folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
        with _writer(path, columns.all) as writer:
            for group in _whole_models(shard, max(1, _GROUP_BYTES // (4 * columns.parameters))):
                keys = zip(group["model_id"], group["epoch"], strict=True)
                weights = np.stack([weights_of(model, epoch).numpy() for model, epoch in keys])
                table = _table(group, weights, columns)
                writer.write_table(table, row_group_size=len(group))
                size += table.nbytes
    return size


def write_index(folder: Path, split: str, rows: pd.DataFrame, columns: Columns) -> int:
    """Write the same rows without weights, in one file; returns the bytes of the uncompressed table."""
    table = _scalars(rows, columns)
    with _writer(folder / f"{split}-00000-of-00001.parquet", columns.index) as writer:
        writer.write_table(table)
    return int(table.nbytes)


def _whole_models(rows: pd.DataFrame, target: int) -> list[pd.DataFrame]:
    """Cut rows into stretches of about `target`, never within a model."""
    first_of_model = (rows["model_id"] != rows["model_id"].shift()).to_numpy()
    cuts, begin = [0], 0
    for row in np.flatnonzero(first_of_model).tolist():
        if row - begin >= target:
            cuts.append(row)
            begin = row
    cuts.append(len(rows))
    return [rows.iloc[a:b] for a, b in itertools.pairwise(cuts) if b > a]


def _writer(path: Path, arrow: pa.Schema) -> pq.ParquetWriter:
    # Floats compress best split into byte planes; dictionaries only serve the scalar columns.
    scalars = [field.name for field in arrow if field.name != "weights"]
    encoding = {"weights.list.element": "BYTE_STREAM_SPLIT"} if "weights" in arrow.names else None
    return pq.ParquetWriter(
        path,
        arrow,
        compression="zstd",
        compression_level=1,
        use_dictionary=scalars,
        column_encoding=encoding,
        write_page_index=True,
        use_content_defined_chunking=True,
    )


def _scalars(rows: pd.DataFrame, columns: Columns) -> pa.Table:
    index = columns.index
    table = pa.Table.from_pandas(rows[index.names], schema=index, preserve_index=False)
    return table.replace_schema_metadata(None)


def _table(rows: pd.DataFrame, weights: np.ndarray, columns: Columns) -> pa.Table:
    column = columns.all.field("weights")
    flat = pa.array(weights.reshape(-1), type=pa.float32())
    return _scalars(rows, columns).append_column(column, pa.FixedSizeListArray.from_arrays(flat, type=column.type))
