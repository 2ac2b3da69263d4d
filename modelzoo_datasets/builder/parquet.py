"""Write the Parquet files of a config; equal input gives equal bytes.

Files and row groups contain whole models. Weights are encoded as byte planes, which compress best. Content decides
where pages are cut, so that rows that are published again among others are sent to the Hub only once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from .._util import prefetch
from ..zoo import flush_to_disk, translate_disk_errors
from .schema import TableSchema
from .shard_plan import split_into_row_groups, split_into_shards

_WRITE_BATCH_SIZE = 1 << 17  # numbers that are encoded at a time: faster than the default of 1,024, and fits the cache
# Pages of 0.5 to 1 MB of weights: the writer also counts the two levels of each number, which are as many bytes again.
# The smaller default pages are written a fifth slower.
_CHUNKING = {"min_chunk_size": 1 << 20, "max_chunk_size": 1 << 21, "norm_level": 2}


def write_split(
    folder: Path,
    split: str,
    rows: pd.DataFrame,
    schema: TableSchema,
    read_weights: Callable[[pd.DataFrame], Tensor],
    on_written: Callable[[Path, pd.DataFrame], None],
) -> int:
    """Write a split with weights to `<split>-00000-of-0000N.parquet` and so on.

    While one row group is encoded, the next one is read; no more than these two are in memory.

    Args:
        folder: The folder of the config.
        split: Name of the split.
        rows: One row per state, sorted by model and epoch.
        schema: The columns.
        read_weights: Reads the weights (K, P) of K rows of whole models; called in another thread.
        on_written: Called with the path and the rows of each finished file.

    Returns:
        The size of the uncompressed table in bytes.
    """
    state_bytes, num_bytes = 4 * schema.num_parameters, 0
    shards = split_into_shards(rows, state_bytes)
    for number, shard in enumerate(shards):
        path = folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
        groups = split_into_row_groups(shard, state_bytes)
        with _open_writer(path, schema.full) as writer:
            for table in prefetch(_make_table(group, schema, read_weights(group)) for group in groups):
                writer.write_table(table, row_group_size=table.num_rows)
                num_bytes += table.nbytes
        on_written(path, shard)
    return num_bytes


def write_rows(path: Path, rows: pd.DataFrame, arrow_schema: pa.Schema) -> int:
    """Write rows without weights to one file, and return the size of the uncompressed table in bytes.

    Args:
        path: The file.
        rows: Rows with at least the columns of the schema.
        arrow_schema: The columns to write.
    """
    table = _make_scalar_table(rows, arrow_schema)
    with _open_writer(path, arrow_schema) as writer:
        writer.write_table(table)
    flush_to_disk(path)
    return int(table.nbytes)


@contextmanager
def _open_writer(path: Path, arrow_schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    scalars = [field.name for field in arrow_schema if field.name != "weights"]
    encoding = {"weights.list.element": "BYTE_STREAM_SPLIT"} if "weights" in arrow_schema.names else None
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(
            path,
            arrow_schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=scalars,  # weights hardly ever repeat
            column_encoding=encoding,
            write_batch_size=_WRITE_BATCH_SIZE,
            write_page_index=True,
            write_page_checksum=True,
            use_content_defined_chunking=_CHUNKING,
        ) as writer:
            yield writer


def _make_scalar_table(rows: pd.DataFrame, arrow_schema: pa.Schema) -> pa.Table:
    table = pa.Table.from_pandas(rows[arrow_schema.names], schema=arrow_schema, preserve_index=False)
    return table.replace_schema_metadata(None)


def _make_table(rows: pd.DataFrame, schema: TableSchema, weights: Tensor) -> pa.Table:
    field = schema.full.field("weights")
    numbers = pa.array(weights.reshape(-1).numpy())  # a view, not a copy
    lists = pa.FixedSizeListArray.from_arrays(numbers, type=field.type)
    return _make_scalar_table(rows, schema.index).append_column(field, lists)
