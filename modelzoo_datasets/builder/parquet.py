"""Write the Parquet files of a config: equal input gives equal bytes.

Files and row groups hold whole models. Weights are split into byte planes, which compress best, and cut into pages
where their content says so: rows that are published again, before or behind others, are sent to the Hub only once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from .._util import prefetch
from ..zoo import disk_full_told, flush_to_disk
from .schema import Columns
from .sharding import groups_of, shards_of

_BATCH = 1 << 17  # numbers that are encoded in one go: quicker than the usual 1,024, and still in the cache
# Pages of 0.5 to 1 MB of weights: the writer counts with every number its two levels, as many bytes again. With its own
# smaller pages it writes a fifth slower.
_CHUNKS = {"min_chunk_size": 1 << 20, "max_chunk_size": 1 << 21, "norm_level": 2}


def write_split(
    folder: Path,
    split: str,
    rows: pd.DataFrame,
    columns: Columns,
    weights_of: Callable[[pd.DataFrame], Tensor],
    written: Callable[[Path, pd.DataFrame], None],
) -> int:
    """Write `<split>-00000-of-0000N.parquet` with weights; returns the bytes of the uncompressed table.

    While one row group is encoded the next one is read; no more than these two are in memory.

    Args:
        rows: one per state, sorted by model and epoch.
        weights_of: K rows, of whole models -> their weights (K, P); called by another thread.
        written: told of every file that is finished, and its rows.
    """
    shards, size = shards_of(rows, 4 * columns.parameters), 0
    for number, shard in enumerate(shards):
        path = folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
        groups = groups_of(shard, 4 * columns.parameters)
        with _writer(path, columns.all) as writer:
            for table in prefetch(_table(group, columns, weights_of(group)) for group in groups):
                writer.write_table(table, row_group_size=table.num_rows)
                size += table.nbytes
        written(path, shard)
    return size


def write_rows(path: Path, rows: pd.DataFrame, arrow: pa.Schema) -> int:
    """Write rows without weights as one file; returns the bytes of the uncompressed table."""
    table = _scalars(rows, arrow)
    with _writer(path, arrow) as writer:
        writer.write_table(table)
    flush_to_disk(path)
    return int(table.nbytes)


@contextmanager
def _writer(path: Path, arrow: pa.Schema) -> Iterator[pq.ParquetWriter]:
    # Dictionaries only serve the scalar columns.
    scalars = [field.name for field in arrow if field.name != "weights"]
    encoding = {"weights.list.element": "BYTE_STREAM_SPLIT"} if "weights" in arrow.names else None
    with disk_full_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(
            path,
            arrow,
            compression="zstd",
            compression_level=1,
            use_dictionary=scalars,
            column_encoding=encoding,
            write_batch_size=_BATCH,
            write_page_index=True,
            write_page_checksum=True,
            use_content_defined_chunking=_CHUNKS,
        ) as writer:
            yield writer


def _scalars(rows: pd.DataFrame, arrow: pa.Schema) -> pa.Table:
    table = pa.Table.from_pandas(rows[arrow.names], schema=arrow, preserve_index=False)
    return table.replace_schema_metadata(None)


def _table(rows: pd.DataFrame, columns: Columns, weights: Tensor) -> pa.Table:
    column = columns.all.field("weights")
    numbers = pa.array(weights.reshape(-1).numpy())  # a view
    lists = pa.FixedSizeListArray.from_arrays(numbers, type=column.type)
    return _scalars(rows, columns.index).append_column(column, lists)
