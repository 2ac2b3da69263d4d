"""What the Hub's dataset viewer can show of Parquet files (source of huggingface/dataset-viewer, 2026-08).

It reads pages of 100 rows. Of a row group that has an offset index it fetches the pages that hold some of those rows,
and dictionaries; of others all of it; no more than 300 MB at once. The rows become JSON: the first page has a megabyte,
for which rows are left out first, down to ten, and then cells are cut.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .page_index import Page, pages_of


@dataclass(frozen=True)
class Limits:
    """What is documented, or in the source of the viewer; sizes in bytes."""

    scan: int = 300_000_000  # fetched at once
    page_rows: int = 100
    response: int = 1_000_000  # of the first page
    least_rows: int = 10  # of it, whatever their size
    row: int = 2_000_000  # as JSON
    columns: int = 1_000
    column_name: int = 500  # characters
    shard: int = 500_000_000  # recommended
    configs: int = 4_000
    splits: int = 30  # of a config
    folder_entries: int = 10_000
    files: int = 100_000


def check_columns(schema: pa.Schema, where: str, limits: Limits) -> Iterator[str]:
    """Too many columns, or names that are too long."""
    if len(schema.names) > limits.columns:
        yield f"{where} has {len(schema.names):,} columns, the viewer shows {limits.columns:,} at most; leave some out"
    for name in schema.names:
        if len(name) > limits.column_name:
            yield (
                f"{where}: the name of column {name[:20]}… has {len(name)} characters, the viewer takes "
                f"{limits.column_name} at most; shorten it"
            )


def check_scan(path: Path, where: str, limits: Limits) -> Iterator[str]:
    """Row groups of which a page of rows needs more bytes than are fetched."""
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(i) for i in range(group.num_columns)]
        if (whole := sum(chunk.total_compressed_size for chunk in chunks)) <= limits.scan:
            continue
        pages, rule = pages_of(path, number), "as there is no page index"
        if pages is not None:
            dictionaries = sum(c.data_page_offset - c.dictionary_page_offset for c in chunks if c.has_dictionary_page)
            whole, rule = dictionaries + _most_at_once(pages, group.num_rows, limits.page_rows), "with its page index"
        if whole > limits.scan:
            yield (
                f"{where}: {limits.page_rows} rows of row group {number} take {whole:,} bytes ({rule}), the viewer "
                f"fetches {limits.scan:,} at most; write smaller row groups"
            )


def _most_at_once(columns: Sequence[Sequence[Page]], rows: int, window: int) -> int:
    """The most bytes of pages that any `window` rows lie in."""
    firsts = [np.array([page.first_row for page in pages]) for pages in columns]
    bounds = np.unique(np.concatenate([np.concatenate([first, first - window + 1]) for first in firsts]))
    starts = bounds[(bounds >= 0) & (bounds <= max(0, rows - window))]
    if not len(starts):
        starts = np.array([0])
    total = np.zeros(len(starts), dtype=np.int64)
    for pages, first in zip(columns, firsts, strict=True):
        before = np.concatenate([[0], np.cumsum([page.nbytes for page in pages])])
        begin = np.searchsorted(first, starts, side="right") - 1
        end = np.searchsorted(first, np.minimum(starts + window, rows) - 1, side="right")
        total += before[end] - before[begin]
    return int(total.max())


def first_rows(path: Path, rows: int) -> list[int]:
    """Bytes of JSON of each of the first rows of a file, at most so many, as the viewer decodes them."""
    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=rows), None)
    return [len(json.dumps(row, default=str).encode()) for row in batch.to_pylist()] if batch is not None else []


def check_rows(path: Path, where: str, limits: Limits) -> tuple[list[str], list[str]]:
    """(problems, notes): rows that are too big for the viewer, and how much of the first page is shown."""
    sizes = first_rows(path, limits.least_rows)
    if not sizes:
        return [], []
    largest, mean = max(sizes), sum(sizes) / len(sizes)
    if largest > limits.row:
        return [
            f"{where}: a row has {largest:,} bytes as JSON, the viewer shows {limits.row:,} at most; keep weights "
            "of this size in files"
        ], []
    if sum(sizes) > limits.response:
        return [], [f"{where}: cells will be truncated: {len(sizes)} rows have {sum(sizes):,} bytes as JSON"]
    shown = min(limits.page_rows, int(limits.response / mean))
    return [], [f"{where}: the first page shows about {shown} rows"] if shown < limits.page_rows else []
