"""`stream_zoo`: a zoo of any size in batches, a row group at a time, from a folder or over HTTP."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ..errors import FormatError
from .dataset import Dataset, open_dataset
from .load import table_of
from .shards import Chosen, choose
from .wanted import WEIGHTS, Filter, Wanted
from .weights import fill
from .zoo import Zoo


def stream_zoo(
    source: str | Path,
    config: str | None = None,
    *,
    batch: int = 256,
    split: str | None = None,
    epochs: Iterable[int] | None = None,
    models: int | Iterable[str] | None = None,
    filters: Iterable[Filter] | None = None,
    columns: Iterable[str] | None = None,
    revision: str | None = None,
    cache: bool = True,
) -> Iterator[Zoo]:
    """The states that `load_zoo` would load, in the same order, as zoos of `batch` states; the last may be smaller.

    No more is held than a batch and a row group (about 10 MB). Of a repo the row groups that are needed are fetched
    one by one, in one request each, and nothing is stored; files that were downloaded before are read from where they
    are. It may be left at any time.

    Args:
        batch: states of each zoo.
        cache: whether to read decoded weights that `load_zoo` kept; none are kept here.
        source, config, split, epochs, models, filters, columns, revision: as `load_zoo` has them.

    Raises:
        FormatError, HubError: as `load_zoo` does; where nothing matches there is no batch, and no error.
    """
    if batch < 1:
        raise FormatError(f"batch must be at least 1 state, got {batch}")
    count, names = (models, None) if isinstance(models, int) else (None, models)
    wanted = Wanted.of(epochs, names, filters, columns)
    dataset = open_dataset(source, config, revision)
    splits = dataset.splits(split)
    if count is not None:
        wanted = dataset.first_models(count, splits, wanted)
    return _batches(dataset, _groups(dataset, splits, wanted), batch, cache)


def _groups(dataset: Dataset, splits: Iterable[str], wanted: Wanted) -> Iterator[tuple[str, Chosen]]:
    """The chosen rows of one row group after the other, with their split."""
    for split in splits:
        for shard in dataset.remote(split):
            for group in shard.groups(wanted):
                if wanted.of_every_model:  # else there may be nothing to fetch but what the filters need
                    shard.fetch_ahead([group], [*wanted.columns_of(shard.schema), WEIGHTS])
                yield split, choose(shard, wanted, [group])


def _batches(dataset: Dataset, groups: Iterable[tuple[str, Chosen]], batch: int, cache: bool) -> Iterator[Zoo]:
    weights, tables, filled = torch.empty(batch, dataset.layout.size), [], 0
    for split, chosen in groups:
        files, begin = dataset.weight_files([chosen], download=False), 0
        decoded = None if files else torch.empty(len(chosen), dataset.layout.size)
        if decoded is not None:
            fill([chosen], decoded, files, cache=cache)
        while begin < len(chosen):
            part = slice(begin, min(begin + batch - filled, len(chosen)))
            size, begin = part.stop - begin, part.stop
            if decoded is not None:
                weights[filled : filled + size] = decoded[part]
            else:
                fill([chosen.part(part)], weights[filled : filled + size], files, cache=cache)
            tables.append((split, chosen.table.slice(part.start, size)))
            filled += size
            if filled == batch:
                yield _zoo(dataset, weights, table_of(tables))
                weights, tables, filled = torch.empty(batch, dataset.layout.size), [], 0
    if filled:
        yield _zoo(dataset, weights[:filled].clone(), table_of(tables))


def _zoo(dataset: Dataset, weights: Tensor, table: pd.DataFrame) -> Zoo:
    return Zoo(
        weights=weights,
        table=table,
        layout=dataset.layout,
        architecture=dataset.architecture,
        images=dataset.facts["images"],
    )
