"""`stream_zoo`: read a dataset of any size in batches, a row group at a time, from a folder or over HTTP."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._util import prefetch
from ..errors import ArgumentError
from ..hub import RemoteFile
from .fill import fill_weights
from .load import assemble_zoo
from .query import WEIGHTS, Filter, Query
from .shard import Selection, select_rows
from .source import Dataset, open_dataset
from .zoo import Zoo


def stream_zoo(
    source: str | Path,
    config: str | None = None,
    *,
    batch_size: int = 256,
    split: str | None = None,
    epochs: Iterable[int] | None = None,
    models: int | Iterable[str] | None = None,
    filters: Iterable[Filter] | None = None,
    columns: Iterable[str] | None = None,
    revision: str | None = None,
    cache: bool = True,
) -> Iterator[Zoo]:
    """Iterate over the states that `load_zoo` would load, in the same order, in batches.

    Memory holds one batch and two row groups of about 10 MB: one is read while the other is used. From a repo, each
    needed row group is fetched in one request, or in two if filters decide whether it is needed, and nothing is stored;
    files that were downloaded before are read locally. You can stop iterating at any time.

    Args:
        source: a folder or a dataset repo on the Hub, as `load_zoo` takes it.
        config: the name of the config; the first one of the dataset by default.
        batch_size: the number of states of each batch; the last batch may be smaller.
        split: `train`, `validation` or `test`; all by default.
        epochs: the epochs to load; all by default.
        models: names of models, or a number n for the first n models with a matching state; all by default.
        filters: conditions (column, operator, value) that must all hold, as `load_zoo` takes them.
        columns: the columns of the table to load; all by default.
        revision: a branch, tag or commit of the repo; `main` by default.
        cache: whether to read files that `load_zoo` cached in decoded form; none are added.

    Returns:
        An iterator of zoos of `batch_size` states, with `weights` (batch_size, P). It is empty if no state matches.

    Raises:
        FormatError: the source is no dataset of this format, or is damaged.
        ArgumentError: an argument is wrong, e.g. the dataset has no such config or column.
        HubError: the repo does not exist, needs a token, or cannot be reached.

    Example:
        >>> total = sum(len(batch) for batch in stream_zoo(dataset, split="test", batch_size=2))
        >>> total == len(load_zoo(dataset, split="test"))
        True
    """
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1; got {batch_size}")
    query = Query.from_arguments(epochs, models, filters, columns)
    dataset = open_dataset(source, config, revision, cache=cache)
    splits = dataset.select_splits(split)
    query = dataset.resolve_models(splits, query)
    return _iter_batches(dataset, prefetch(_iter_groups(dataset, splits, query)), batch_size)


@dataclass(frozen=True)
class _Group:
    """The selected rows of a row group; their weights (n, P), unless these are stored in other files."""

    split: str
    selection: Selection
    files: Mapping[str, Path | RemoteFile]
    weights: Tensor | None

    def copy_weights(self, rows: slice, out: Tensor) -> None:
        """Copy the weights of some of the rows."""
        if self.weights is None:
            fill_weights([self.selection.slice_rows(rows)], out, self.files, cache=False)
        else:
            out[:] = self.weights[rows]


def _iter_groups(dataset: Dataset, splits: Iterable[str], query: Query) -> Iterator[_Group]:
    for split in splits:
        for shard in dataset.shards_in_place(split):
            for group in shard.matching_groups(query):
                if query.selects_every_model:  # otherwise the filters may match no row, and need no weights
                    shard.fetch_ahead([group], [*query.columns_to_read(shard.schema), WEIGHTS])
                selection = select_rows(shard, query, group)
                files = dataset.weight_files([selection], download=False)
                weights = torch.empty(len(selection), dataset.layout.size) if selection.locations is None else None
                if weights is not None:
                    fill_weights([selection], weights, files, cache=False)
                yield _Group(split, selection, files, weights)


def _iter_batches(dataset: Dataset, groups: Iterable[_Group], batch_size: int) -> Iterator[Zoo]:
    weights, tables, filled = torch.empty(batch_size, dataset.layout.size), [], 0
    for group in groups:
        begin = 0
        while begin < len(group.selection):
            end = min(begin + batch_size - filled, len(group.selection))
            group.copy_weights(slice(begin, end), weights[filled : filled + end - begin])
            tables.append((group.split, group.selection.table.slice(begin, end - begin)))
            filled, begin = filled + end - begin, end
            if filled == batch_size:
                yield assemble_zoo(dataset, weights, tables)
                weights, tables, filled = torch.empty(batch_size, dataset.layout.size), [], 0
    if filled:
        yield assemble_zoo(dataset, weights[:filled].clone(), tables)
