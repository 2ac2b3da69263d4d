"""`load_zoo` and `stream_zoo`: the requested states of a dataset as one tensor and one table, at once or in batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from .._util import prefetch
from ..errors import ArgumentError
from ..hub import RemoteFile
from ..plugins import use_plugin
from ..zoo import check_memory
from .fill import fill_weights
from .query import Filter, Query, Selection, select_rows
from .shard import WEIGHTS, count_file_bytes
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
    plugin: str | Path | None = None,
) -> Zoo:
    """Load states of a dataset; only the requested files and rows are read or downloaded.

    Filters are pushed down to Parquet statistics, so row groups that cannot match are never read, and on the Hub files
    that cannot match are never downloaded. Memory peaks at the weights plus about 50 MB per core for decoding.

    Fully read Parquet files are cached in decoded form in `~/.cache/modelzoo-datasets/weights`, so that the next load
    runs at the speed of the disk or of memory; set MODELZOO_CACHE to another folder and MODELZOO_CACHE_BYTES to another
    maximum size. Weights of large networks are stored in separate files, which need no decoding: of a repo, a file of
    which a quarter or more is needed is downloaded, and of other files single states are fetched.

    Args:
        source: A folder that `modelzoo-build` wrote, or a dataset repo on the Hub, e.g. `modelzoos/mnist-cnn-s`. If a
            folder has the same name, write `hf://datasets/modelzoos/mnist-cnn-s` for the repo.
        config: The name of the config; the first one of the dataset by default.
        split: `train`, `validation` or `test`; all by default.
        epochs: The epochs to load, e.g. `[5]` or `range(21, 26)`; all by default.
        models: Names of models, or a number n for the first n models with a matching state; all by default.
        filters: Conditions that must all hold, as pyarrow and `datasets` take them, e.g. `[("activation", "==",
            "tanh"), ("lr", "<", 1e-3)]`. The operators are ==, !=, <, <=, >, >=, `in` and `not in`.
        columns: The columns of the table to load; all by default. `model_id`, `epoch` and `split` are always loaded;
            `Zoo.model` needs `activation` and `dropout`.
        revision: A branch, tag or commit of the repo; `main` by default.
        cache: Whether to read decoded files from the cache, and to add them.
        plugin: A Python file that registers the architecture, so that `zoo.model(i)` builds modules. It is run, so name
            only files that you trust; no dataset runs code by itself.

    Returns:
        The N matching states, in the order of the dataset, with `weights` (N, P) float32 and N rows of `table`.

    Raises:
        FormatError: The source is no dataset of this format, or is damaged.
        ArgumentError: An argument is wrong, or no state matches.
        HubError: The repo does not exist, needs a token, or cannot be reached and is not in the cache.
        DiskFullError: The disk has no room for the download.
        PluginError: The plugin does not exist, or its import fails.

    Example:
        >>> zoo = load_zoo(dataset, split="train", epochs=[1], filters=[("test_acc", ">", 0.0)])
        >>> zoo.weights.shape == (len(zoo), zoo.layout.size)
        True
        >>> sorted(set(zoo.table["epoch"]))
        [1]
    """
    query = Query.from_arguments(epochs, models, filters, columns)
    if plugin is not None:
        use_plugin(Path(plugin))
    dataset = open_dataset(source, config, revision, cache=cache)
    parts = dataset.select_rows(split, query)
    num_states = sum(len(part) for _, part in parts)
    files = dataset.weight_files([part for _, part in parts], download=True)
    _check_memory(dataset, [part for _, part in parts], files)
    # NumPy allocates large arrays in large pages, and torch does not: without them, the page faults take longer than
    # the copy of the weights.
    weights = torch.from_numpy(np.empty((num_states, dataset.layout.size), np.float32))
    fill_weights([part for _, part in parts], weights, files, cache=True)
    return _assemble_zoo(dataset, weights, [(name, part.table) for name, part in parts])


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
    plugin: str | Path | None = None,
) -> Iterator[Zoo]:
    """Iterate over the states that `load_zoo` would load, in the same order, in batches.

    Memory holds one batch and two row groups of about 10 MB: one is read while the other is used. From a repo, each
    needed row group is fetched in one request, or in two if filters decide whether it is needed, and nothing is stored;
    files that were downloaded before are read locally. You can stop iterating at any time.

    Args:
        source: A folder or a dataset repo on the Hub, as `load_zoo` takes it.
        config: The name of the config; the first one of the dataset by default.
        batch_size: The number of states of each batch; the last batch may be smaller.
        split: `train`, `validation` or `test`; all by default.
        epochs: The epochs to load; all by default.
        models: Names of models, or a number n for the first n models with a matching state; all by default.
        filters: Conditions (column, operator, value) that must all hold, as `load_zoo` takes them.
        columns: The columns of the table to load; all by default.
        revision: A branch, tag or commit of the repo; `main` by default.
        cache: Whether to read files that `load_zoo` cached in decoded form; none are added.
        plugin: A Python file that registers the architecture, as `load_zoo` takes it.

    Returns:
        An iterator of zoos of `batch_size` states, with `weights` (batch_size, P). It is empty if no state matches.

    Raises:
        FormatError: The source is no dataset of this format, or is damaged.
        ArgumentError: An argument is wrong, e.g. the dataset has no such config or column.
        HubError: The repo does not exist, needs a token, or cannot be reached.

    Example:
        >>> total = sum(len(batch) for batch in stream_zoo(dataset, split="test", batch_size=2))
        >>> total == len(load_zoo(dataset, split="test"))
        True
    """
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1; got {batch_size}")
    query = Query.from_arguments(epochs, models, filters, columns)
    if plugin is not None:
        use_plugin(Path(plugin))
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
            for group in query.prune(shard.schema, shard.metadata, shard.has_checksum):
                if query.selects_every_model:  # otherwise the filters may match no row, and need no weights
                    shard.fetch_ahead([group], [*query.columns_to_read(shard.schema), WEIGHTS])
                selection = select_rows(shard, query, group)
                files = dataset.weight_files([selection], download=False)
                _check_memory(dataset, [selection], files)
                weights = torch.empty(len(selection), dataset.layout.size) if selection.locations is None else None
                if weights is not None:
                    fill_weights([selection], weights, files, cache=False)
                yield _Group(split, selection, files, weights)


def _iter_batches(dataset: Dataset, groups: Iterable[_Group], batch_size: int) -> Iterator[Zoo]:
    tables, filled = list[tuple[str, pa.Table]](), 0
    for group in groups:
        begin = 0
        while begin < len(group.selection):
            if not filled:
                weights = torch.empty(batch_size, dataset.layout.size)
            end = min(begin + batch_size - filled, len(group.selection))
            group.copy_weights(slice(begin, end), weights[filled : filled + end - begin])
            tables.append((group.split, group.selection.table.slice(begin, end - begin)))
            filled, begin = filled + end - begin, end
            if filled == batch_size:
                yield _assemble_zoo(dataset, weights, tables)
                tables, filled = [], 0
    if filled:
        yield _assemble_zoo(dataset, weights[:filled].clone(), tables)


def _check_memory(dataset: Dataset, parts: Sequence[Selection], files: Mapping[str, Path | RemoteFile]) -> None:
    """Check that the weights of some rows do not take more memory than the files that they are read from allow."""
    nbytes = sum(map(count_file_bytes, [*(part.shard.file for part in parts), *files.values()]))
    check_memory(4 * sum(map(len, parts)) * dataset.layout.size, nbytes, dataset.name)


def _assemble_zoo(dataset: Dataset, weights: Tensor, tables: Sequence[tuple[str, pa.Table]]) -> Zoo:
    """Make a zoo of weights and tables.

    Args:
        dataset: The config that all states are from.
        weights: (N, P) float32.
        tables: (split, rows) with N rows in all; the split becomes the last column.
    """
    with_split = [rows.append_column("split", pa.array([name] * len(rows), pa.string())) for name, rows in tables]
    return Zoo(
        weights=weights,
        table=pa.concat_tables(with_split).to_pandas(use_threads=False),  # threads gain nothing up to 300,000 rows
        layout=dataset.layout,
        architecture=dataset.architecture,
        images=dataset.info.images,
        dataset=dataset.source,
        config=dataset.config,
        unrecorded=frozenset(n for n, values in dataset.info.recipe.axes.items() if all(v is None for v in values)),
    )
