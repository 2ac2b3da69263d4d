"""`load_zoo`: what was asked for of a dataset, as one tensor and one table."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from .._util import SPLITS
from ..errors import FormatError, nearest_hint
from .fill import fill
from .query import Filter, Query
from .shard import Selection, select_rows
from .source import Dataset, open_dataset
from .zoo import Zoo


def load_zoo(
    source: str | Path,
    config: str | None = None,
    *,
    split: str | None = None,
    epochs: Iterable[int] | None = None,
    models: int | Iterable[str] | None = None,
    filters: Iterable[Filter] | None = None,
    columns: Iterable[str] | None = None,
    revision: str | None = None,
    cache: bool = True,
) -> Zoo:
    """Load states of a dataset; only the files and rows that were asked for are read, or downloaded.

    Memory peaks at the weights and, for each core, what decoding a row group of 10 MB takes, about 50 MB. Parquet files
    that were read whole are kept decoded, their table too, in `~/.cache/modelzoo-datasets/weights`, from where the next
    time any rows of them are copied as fast as the disk or memory is; see `decoded.py` for where and how much. Weights
    that are in files of their own need no decoding: of a repo, files of which a quarter or more is wanted are
    downloaded, of others the states are read one by one.

    Args:
        source: a folder that `modelzoo-build` wrote, or a dataset repo such as `modelzoos/mnist-cnn-s`. Where
            there is a folder of that name, `hf://datasets/modelzoos/mnist-cnn-s` is the repo.
        config: the first one of the dataset if not given.
        split: train, validation or test; all if not given.
        epochs: epochs to keep; all if not given.
        models: names of models, or how many: the first ones of which there is something; all if not given.
        filters: all of which must hold, as pyarrow and `datasets` have them: `[("activation", "==", "tanh"),
            ("lr", "<", 1e-3)]`; operators are ==, !=, <, <=, >, >=, in, not in. Row groups and, on the Hub, files
            that cannot have such rows are not read.
        columns: of the table; all if not given. `model_id`, `epoch` and `split` are always there; `Zoo.model` needs
            `activation` and `dropout`.
        revision: a branch, tag or commit of the repo; main if not given.
        cache: whether to read and keep decoded files.

    Raises:
        FormatError: no dataset, or nothing in it matches, or no state has one of the epochs or models.
        HubError: the repo is not there, may not be seen, or cannot be reached and is not in the cache.
        DiskFullError: there is no room for what was to be downloaded.
    """
    wanted = Query.of(epochs, models, filters, columns)
    dataset = open_dataset(source, config, revision, cache=cache)
    splits = dataset.splits(split)
    wanted = dataset.named(splits, wanted)
    chosen = {name: [select_rows(shard, wanted) for shard in dataset.shards(name, wanted)] for name in splits}
    _refuse_nothing(dataset, chosen, wanted)
    parts = [part for of_split in chosen.values() for part in of_split]
    # Of NumPy's memory, which for large arrays has large pages: those of torch take longer to come than to be filled.
    weights = torch.from_numpy(np.empty((sum(map(len, parts)), dataset.layout.size), np.float32))
    fill(parts, weights, dataset.weight_files(parts, download=True), keep=True)
    return zoo_of(dataset, weights, [(name, part.table) for name, of_split in chosen.items() for part in of_split])


def zoo_of(dataset: Dataset, weights: torch.Tensor, parts: Sequence[tuple[str, pa.Table]]) -> Zoo:
    """Weights (N, P) with one row per state: of each part the split, which comes behind all other columns, and rows."""
    named = [rows.append_column("split", pa.array([name] * len(rows), pa.string())) for name, rows in parts]
    return Zoo(
        weights=weights,
        table=pa.concat_tables(named).to_pandas(use_threads=False),  # they were no gain up to 300,000 rows
        layout=dataset.layout,
        architecture=dataset.architecture,
        images=dataset.info.images,
    )


def _refuse_nothing(dataset: Dataset, chosen: dict[str, list[Selection]], wanted: Query) -> None:
    """Say what is not there of what was asked for; that some models lack an epoch that others have is no error."""
    where, tables = f"{dataset.source}/{dataset.config}", [part.table for parts in chosen.values() for part in parts]
    if not tables:
        raise FormatError(f"{where} has no split {' or '.join(chosen)}; it has {', '.join(_splits_of(dataset))}")
    for column in ("epoch", "model_id"):
        missing = {*(wanted.asked(column) or ())} - {value for table in tables for value in _values(table, column)}
        known = _known(dataset, chosen, column) if missing else set()
        if absent := sorted(missing - known):
            raise FormatError(f"{where} has no {_absent_in_words(column, absent, known)}")
    if not sum(map(len, tables)):
        raise FormatError(f"{where} has no states of the split, epochs, models and filters asked for")


def _absent_in_words(column: str, absent: Sequence[Any], known: set[Any]) -> str:
    named = ", ".join(map(str, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    if column == "epoch":
        return f"state of epoch {named}; its epochs are {min(known)} to {max(known)}"
    return f"model {named} in the split asked for; {nearest_hint(str(absent[0]), sorted(known))}"


def _known(dataset: Dataset, splits: Iterable[str], column: str) -> set[Any]:
    tables = [select_rows(shard, Query((), (column,))).table for split in splits for shard in dataset.index(split)]
    return {value for table in tables for value in _values(table, column)}


def _values(table: pa.Table, column: str) -> list[Any]:
    return table[column].unique().to_pylist()  # type: ignore[no-any-return]


def _splits_of(dataset: Dataset) -> list[str]:
    return [split for split in SPLITS if dataset.remote(split)]
