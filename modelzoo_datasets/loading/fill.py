"""Copies the weights of selected rows into one tensor, a row group per thread.

N states of P numbers; n of them in a row group.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import FormatError
from ..hub import RemoteFile
from ..zoo import read_states
from .cache import CacheWriter, remove_damaged
from .cached_shard import CachedShard, DamagedEntryError
from .query import Selection
from .shard import WEIGHTS, Shard

_CHUNK_BYTES = 16_000_000  # one task copies this many bytes of decoded weights
_MIN_TASK_BYTES = 2_000_000  # fewer bytes are copied before a thread has started
_MAX_THREADS = 8  # memory is no faster for more

_Task = Callable[[], None]


def fill_weights(
    selections: Sequence[Selection], out: Tensor, files: Mapping[str, Path | RemoteFile], *, cache: bool
) -> None:
    """Fill a tensor with the weights of all selected rows, one selection after the other.

    Args:
        selections: The rows, N in all.
        out: A contiguous float32 tensor (N, P).
        files: Name -> file, for weights that are stored outside of the Parquet files.
        cache: Whether to add Parquet files that are decoded whole to the cache.

    Raises:
        FormatError: A file is damaged.
        HubError: A file is on the Hub, and the Hub cannot be reached.
    """
    while (damaged := _try_fill(selections, out, files, cache)) is not None:
        for selection in selections:
            if selection.shard.cache_content is damaged:
                selection.shard.forget_cache()


def _try_fill(
    selections: Sequence[Selection], out: Tensor, files: Mapping[str, Path | RemoteFile], cache: bool
) -> CachedShard | None:
    """Fill a tensor as `fill_weights` does, or return an entry of the cache that turned out to be damaged."""
    writers: list[CacheWriter] = []
    try:
        _run_tasks(_list_tasks(selections, out, files, cache, writers))
    except DamagedEntryError as error:
        assert error.shard is not None
        remove_damaged(error.shard.path, error)
        return error.shard
    finally:
        for writer in writers:
            writer.discard()
    return None


def _list_tasks(
    selections: Sequence[Selection],
    out: Tensor,
    files: Mapping[str, Path | RemoteFile],
    cache: bool,
    writers: list[CacheWriter],
) -> list[_Task]:
    """Return the work of `fill_weights`, and append the writers of new entries of the cache."""
    rows, begin = out.numpy(), 0
    tasks: list[_Task] = []
    for selection in selections:
        target = slice(begin, begin + len(selection))
        begin = target.stop
        if selection.locations is not None:
            tasks += _read_tasks(selection, files, out[target])
        elif len(selection):
            cached = selection.shard.cache_content
            if cached is not None and cached.weights.shape[1] == out.shape[1]:
                tasks += _copy_tasks(cached, selection.rows, rows[target])
                continue
            groups = list(selection.iter_groups())
            whole = len(groups) == selection.shard.metadata.num_row_groups
            writer = _open_writer(selection.shard, out.shape[1]) if cache and whole else None
            writers += [writer] if writer is not None else []
            for group, part, indices in groups:
                decoded = rows[target][part]
                tasks.append(partial(_decode_group, selection.shard, group, indices, decoded, writer))
    return tasks


def _run_tasks(tasks: Sequence[_Task]) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if min(cores, len(tasks)) < 2:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(min(cores, len(tasks), _MAX_THREADS)) as pool:
        running = [pool.submit(task) for task in tasks]
        try:
            for future in running:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read_tasks(selection: Selection, files: Mapping[str, Path | RemoteFile], out: Tensor) -> Iterator[_Task]:
    """Yield one task per state that is stored outside of the Parquet file."""
    assert selection.locations is not None
    for i, (name, offset, nbytes) in enumerate(selection.locations.itertuples(index=False)):
        yield partial(_read_state, files[name], int(offset), int(nbytes), out[i : i + 1])


def _read_state(file: Path | RemoteFile, offset: int, nbytes: int, out: Tensor) -> None:
    if isinstance(file, Path):
        return read_states([(file, offset, nbytes)], out)
    if nbytes != out.nbytes:
        raise FormatError(
            f"{file.path} of {file.repo_id}: expected states of {out.nbytes} bytes, as layout.json says, but its table "
            f"says {nbytes}; try another revision, or ask its authors to build it again"
        )
    out.numpy()[0] = np.frombuffer(file.read(offset, offset + nbytes), "<f4")


def _open_writer(shard: Shard, num_parameters: int) -> CacheWriter | None:
    """Return a writer for a shard that will be decoded whole, or None if the cache does not take it."""
    if shard.entry is None:
        return None
    columns = [name for name in shard.schema.names if name != WEIGHTS]
    table = shard.read(range(shard.metadata.num_row_groups), columns)
    return shard.entry.open_writer(table, num_parameters)


def _copy_tasks(shard: CachedShard, rows: np.ndarray, target: np.ndarray) -> Iterator[_Task]:
    if target.nbytes < _MIN_TASK_BYTES:
        return _copy_checked_rows(shard, rows, target)
    step = max(1, _CHUNK_BYTES // target[0].nbytes)
    for begin in range(0, len(rows), step):
        chunk = slice(begin, begin + step)
        yield partial(_copy_checked_rows, shard, rows[chunk], target[chunk])


def _copy_checked_rows(shard: CachedShard, rows: np.ndarray, out: np.ndarray) -> None:
    """Do as `_copy_rows` from the cache; raises DamagedEntryError."""
    shard.check_rows(rows)  # at once, because hashing many blocks in a row switches threads less often
    _copy_rows(shard.weights, rows, out)


def _copy_rows(weights: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (n, P) with the rows of these ascending indices."""
    if len(rows) == rows[-1] - rows[0] + 1:
        out[:] = weights[rows[0] : rows[-1] + 1]
    else:
        np.take(weights, rows, axis=0, out=out, mode="clip")  # the default mode copies into a buffer first


def _decode_group(shard: Shard, group: int, rows: np.ndarray, out: np.ndarray, writer: CacheWriter | None) -> None:
    """Fill `out` (n, P) with rows of one row group, given by their ascending indices within it."""
    weights = shard.clone().read_weights(group, out.shape[1])
    _copy_rows(weights, rows, out)
    if writer is not None:
        writer.add(int(shard.row_offsets[group]), weights)
