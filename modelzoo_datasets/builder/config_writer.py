"""Write the tables of one config, and its weights in them or beside them; equal input gives equal bytes.

Files and row groups contain whole models. Weights are encoded as byte planes, which compress best. Content decides
where pages are cut, so that rows that are published again among others are sent to the Hub only once.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .._util import SPLITS, prefetch
from ..progress import Progress, Task
from ..zoo import (
    ByteRange,
    ZooFolder,
    assign_trajectory_files,
    flush_to_disk,
    translate_disk_errors,
    write_trajectory,
)
from .integrity import SubmitCheck, check_table, check_trajectory, run_checks
from .schema import BYTE_RANGE_FIELDS, TableSchema
from .shard_plan import split_by_model, split_into_row_groups, split_into_shards

_log = logging.getLogger(__name__)
_WRITE_BATCH_SIZE = 1 << 17  # numbers that are encoded at a time: faster than the default of 1,024, and fits the cache
# Pages of 0.5 to 1 MB of weights: the writer also counts the two levels of each number, which are as many bytes again.
# The smaller default pages are written a fifth slower.
_CHUNKING_SINCE = 21  # major version of pyarrow
_CHUNKING = {"min_chunk_size": 1 << 20, "max_chunk_size": 1 << 21, "norm_level": 2}


def write_tables(
    zoo: ZooFolder, config: str, rows: pd.DataFrame, out: Path, progress: Progress
) -> tuple[TableSchema, dict[str, int]]:
    """Write `<config>/`, `<config>_index/` and, for large states, `weights/<config>/`.

    Each written state is read back and compared with the trained one, while the next file is written.

    Args:
        zoo: The zoo folder of the config.
        config: Name of the config.
        rows: One row per state, sorted by model and epoch.
        out: The dataset folder.
        progress: Display for the number of states that are written.

    Returns:
        The columns, and the bytes of each uncompressed table by `<folder>/<split>`.
    """
    schema = TableSchema.from_info(zoo.info).without_empty(rows)
    num_bytes = {}
    if not _can_chunk():
        _log.info("pyarrow %s cuts pages by size: a later push of a changed dataset sends more bytes", pa.__version__)
    with progress.start(f"building {config}", len(rows)) as task, run_checks() as submit_check:
        writer = _ConfigWriter(zoo, config, out, schema, submit_check, task)
        write = writer.write_inline if schema.weights == "inline" else writer.write_files
        for split in SPLITS:
            part: pd.DataFrame = rows[rows["split"] == split]
            if len(part):
                num_bytes[f"{config}/{split}"] = write(split, part)
                index = out / f"{config}_index" / f"{split}-00000-of-00001.parquet"
                num_bytes[f"{config}_index/{split}"] = _write_rows(index, part, schema.index)
    return schema, num_bytes


@dataclass
class _ConfigWriter:
    """Writes the weights of one config split by split, while finished files are checked in the background."""

    zoo: ZooFolder
    config: str
    out: Path
    schema: TableSchema
    submit_check: SubmitCheck
    task: Task

    def write_inline(self, split: str, rows: pd.DataFrame) -> int:
        """Write a split with the weights in its tables, and return the bytes of the uncompressed table."""

        def on_written(path: Path, shard: pd.DataFrame) -> None:
            self.submit_check(lambda: check_table(path, shard, self.zoo))

        return write_split(self.out / self.config, split, rows, self.schema, self._read_weights, on_written)

    def _read_weights(self, rows: pd.DataFrame) -> Tensor:
        """Return the weights (K, P) of K rows of whole models."""
        weights, begin = torch.empty(len(rows), self.zoo.layout.size), 0
        for model in split_by_model(rows):
            out = weights[begin : begin + len(model)]
            self.zoo.read_trajectory(model["model_id"].iloc[0], model["epoch"].tolist(), out)
            begin += len(model)
        self.task.update(len(rows))
        return weights

    def write_files(self, split: str, rows: pd.DataFrame) -> int:
        """Write a split with the weights in one file per model, and return the bytes of the uncompressed table.

        One state at a time is in memory.
        """
        models = split_by_model(rows)
        files = assign_trajectory_files(self.config, split, [model["model_id"].iloc[0] for model in models])
        names = [field.name for field in BYTE_RANGE_FIELDS]
        tables = []
        for model, (model_id, file) in zip(models, files.items(), strict=True):
            byte_ranges = self._write_model(model_id, model, self.out / file)
            places = [(file, r.key, r.offset, r.nbytes) for r in byte_ranges]
            tables.append(model.join(pd.DataFrame(places, model.index, names)))
        path = self.out / self.config / f"{split}-00000-of-00001.parquet"
        return _write_rows(path, pd.concat(tables), self.schema.full)

    def _write_model(self, model_id: str, rows: pd.DataFrame, path: Path) -> list[ByteRange]:
        epochs = rows["epoch"].tolist()
        states = (self.zoo.weights(model_id, epoch) for epoch in epochs)
        byte_ranges = write_trajectory(path, self.zoo.layout, epochs, states)
        self.submit_check(lambda: check_trajectory(path, rows, byte_ranges, self.zoo))
        self.task.update(len(rows))
        return byte_ranges


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


def _write_rows(path: Path, rows: pd.DataFrame, arrow_schema: pa.Schema) -> int:
    """Write the scalar columns of a schema to one file, and return the size of the uncompressed table in bytes."""
    table = _make_scalar_table(rows, arrow_schema)
    with _open_writer(path, arrow_schema) as writer:
        writer.write_table(table)
    flush_to_disk(path)
    return int(table.nbytes)


def _can_chunk() -> bool:
    """Tell whether content decides where pages are cut; the rows are the same without it."""
    return int(pa.__version__.partition(".")[0]) >= _CHUNKING_SINCE


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
            **({"use_content_defined_chunking": _CHUNKING} if _can_chunk() else {}),
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
