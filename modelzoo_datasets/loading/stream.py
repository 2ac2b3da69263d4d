"""`stream_zoo`: a zoo of any size in batches, a row group at a time, from a folder or over HTTP."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._util import prefetch
from ..errors import FormatError
from ..hub import RemoteFile
from .fill import fill
from .load import zoo_of
from .query import WEIGHTS, Filter, Query
from .shard import Selection, select_rows
from .source import Dataset, open_dataset
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

    No more is held than a batch and two row groups (about 10 MB each): one is read while the other is used. Of a repo
    the row groups that are needed are fetched one by one, in one request each, or two where filters decide whether
    there is anything to fetch, and nothing is stored; files that were downloaded before are read from where they are.
    It may be left at any time.

    Args:
        batch: states of each zoo.
        cache: whether to read decoded files that `load_zoo` kept; none are kept here.
        source, config, split, epochs, models, filters, columns, revision: as `load_zoo` has them.

    Raises:
        FormatError, HubError: as `load_zoo` does; where nothing matches there is no batch, and no error.
    """
    if batch < 1:
        raise FormatError(f"batch must be at least 1 state, got {batch}")
    wanted = Query.of(epochs, models, filters, columns)
    dataset = open_dataset(source, config, revision, cache=cache)
    splits = dataset.splits(split)
    wanted = dataset.named(splits, wanted)
    return _batches(dataset, prefetch(_groups(dataset, splits, wanted, cache)), batch)


@dataclass(frozen=True)
class _Group:
    """The chosen rows of a row group, with their weights (n, P) unless these are in files of their own."""

    split: str
    chosen: Selection
    files: Mapping[str, Path | RemoteFile]
    weights: Tensor | None

    def copy(self, which: slice, out: Tensor) -> None:
        """Give the weights of some of the rows."""
        if self.weights is None:
            fill([self.chosen.part(which)], out, self.files, keep=False)
        else:
            out[:] = self.weights[which]


def _groups(dataset: Dataset, splits: Iterable[str], wanted: Query, cache: bool) -> Iterator[_Group]:
    for split in splits:
        for shard in dataset.remote(split):
            for group in shard.groups(wanted):
                if wanted.of_every_model:  # else there may be nothing to fetch but what the filters need
                    shard.fetch_ahead([group], [*wanted.columns_of(shard.schema), WEIGHTS])
                chosen = select_rows(shard, wanted, group)
                files = dataset.weight_files([chosen], download=False)
                weights = torch.empty(len(chosen), dataset.layout.size) if chosen.places is None else None
                if weights is not None:
                    fill([chosen], weights, files, keep=False)
                yield _Group(split, chosen, files, weights)


def _batches(dataset: Dataset, groups: Iterable[_Group], batch: int) -> Iterator[Zoo]:
    weights, tables, filled = torch.empty(batch, dataset.layout.size), [], 0
    for group in groups:
        begin = 0
        while begin < len(group.chosen):
            end = min(begin + batch - filled, len(group.chosen))
            group.copy(slice(begin, end), weights[filled : filled + end - begin])
            tables.append((group.split, group.chosen.table.slice(begin, end - begin)))
            filled, begin = filled + end - begin, end
            if filled == batch:
                yield zoo_of(dataset, weights, tables)
                weights, tables, filled = torch.empty(batch, dataset.layout.size), [], 0
    if filled:
        yield zoo_of(dataset, weights[:filled].clone(), tables)
