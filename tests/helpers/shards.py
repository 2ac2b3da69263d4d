"""Parquet files of a dataset cut anew: several files and small row groups, as large zoos have them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelzoo_datasets.zoo import write_footers


def cut(dataset: Path, config: str, split: str, *, shards: int, models_per_group: int = 1) -> list[Path]:
    """Write a split of one file as several, with row groups of whole models; returns the files."""
    (whole,) = (dataset / config).glob(f"{split}-*.parquet")
    table = pq.read_table(whole)
    whole.unlink()
    models = table["model_id"].unique().to_pylist()
    per_shard = -(-len(models) // shards)
    paths = [whole.with_name(f"{split}-{i:05d}-of-{shards:05d}.parquet") for i in range(shards)]
    for i, path in enumerate(paths):
        mine = models[i * per_shard : (i + 1) * per_shard]
        with pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=["model_id"]) as writer:
            for begin in range(0, len(mine), models_per_group):
                group = pa.array(mine[begin : begin + models_per_group])
                writer.write_table(table.filter(pa.compute.is_in(table["model_id"], group)))
    write_footers(dataset)
    return paths


def spoil(path: Path, groups: list[int], columns: str = "") -> None:
    """Overwrite all data of some row groups on disk, or of those columns whose names begin so."""
    metadata, content = pq.read_metadata(path), bytearray(path.read_bytes())
    for group in (metadata.row_group(i) for i in groups):
        for column in (group.column(i) for i in range(group.num_columns)):
            if column.path_in_schema.startswith(columns):
                begin = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
                content[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)


def rewrite(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a table of a dataset anew, and list its footer."""
    path.unlink(missing_ok=True)  # it may be a hard link
    pq.write_table(table, path, **options)
    write_footers(path.parents[1])
