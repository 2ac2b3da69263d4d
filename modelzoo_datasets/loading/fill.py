"""The weights of chosen rows into one tensor, by as many threads as there are cores, a row group in each."""

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
from .cache import CacheWriter
from .query import WEIGHTS
from .shard import Selection, Shard, weights_of

_PIECE = 16_000_000  # bytes of decoded weights that a thread copies at once
_LITTLE = 2_000_000  # bytes that are copied sooner than a thread has begun
_MOST_THREADS = 8  # memory is no faster for more

_Task = Callable[[], None]


def fill(parts: Sequence[Selection], out: Tensor, files: Mapping[str, Path | RemoteFile], *, keep: bool) -> None:
    """Fill a contiguous float32 tensor (N, P) with the weights of all parts, one behind the other.

    Args:
        files: where those files are that rows name, of weights that lie in files of their own.
        keep: what has to be decoded whole.

    Raises:
        FormatError: a file is damaged.
    """
    rows, begin, keeping = out.numpy(), 0, []
    tasks: list[_Task] = []
    for part in parts:
        target = rows[begin : begin + len(part)]
        begin += len(part)
        if part.places is not None:
            tasks += _reads(part, files, out[begin - len(part) : begin])
        elif len(part):
            kept = part.shard.kept
            if kept is not None and kept.weights.shape[1] == out.shape[1]:
                tasks += _copies(kept.weights, part.rows, target)
            else:
                new = _begun(part, out.shape[1]) if keep else None
                keeping += [new] if new is not None else []
                tasks += _decodes(part, target, new)
    try:
        _run(tasks)
    finally:
        for new in keeping:
            new.discard()


def _run(tasks: Sequence[_Task]) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if min(cores, len(tasks)) < 2:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(min(cores, len(tasks), _MOST_THREADS)) as pool:
        running = [pool.submit(task) for task in tasks]
        try:
            for future in running:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _reads(part: Selection, files: Mapping[str, Path | RemoteFile], out: Tensor) -> Iterator[_Task]:
    """Of weights in files of their own, one state at a time."""
    assert part.places is not None
    for i, (name, offset, nbytes) in enumerate(part.places.itertuples(index=False)):
        yield partial(_read, files[name], int(offset), int(nbytes), out[i : i + 1])


def _read(file: Path | RemoteFile, offset: int, nbytes: int, out: Tensor) -> None:
    if isinstance(file, Path):
        return read_states([(file, offset, nbytes)], out)
    if nbytes != out.nbytes:
        raise FormatError(f"{file.path}: expected states of {out.nbytes} bytes, got {nbytes}")
    out.numpy()[0] = np.frombuffer(file.read(offset, offset + nbytes), "<f4")


def _begun(part: Selection, parameters: int) -> CacheWriter | None:
    """Where to keep the weights; None where that is nowhere, or not all of them are going to be decoded."""
    shard, groups = part.shard, int(part.shard.metadata.num_row_groups)
    if shard.entry is None or len(list(part.by_group())) < groups:
        return None
    columns = [name for name in shard.schema.names if name != WEIGHTS]
    return shard.entry.begin(shard.read(range(groups), columns), parameters)


def _copies(weights: np.ndarray, rows: np.ndarray, target: np.ndarray) -> Iterator[_Task]:
    if target.nbytes < _LITTLE:
        return copy(weights, rows, target)
    step = max(1, _PIECE // target[0].nbytes)
    for begin in range(0, len(rows), step):
        piece = slice(begin, begin + step)
        yield partial(copy, weights, rows[piece], target[piece])


def copy(weights: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (n, P) with rows of weights, by their ascending numbers."""
    if len(rows) == rows[-1] - rows[0] + 1:
        out[:] = weights[rows[0] : rows[-1] + 1]
    else:
        np.take(weights, rows, axis=0, out=out, mode="clip")  # the usual mode makes a copy first


def _decodes(part: Selection, target: np.ndarray, keeping: CacheWriter | None) -> Iterator[_Task]:
    for group, where, within in part.by_group():
        yield partial(decode, part.shard, group, within, target[where], keeping)


def decode(shard: Shard, group: int, within: np.ndarray, out: np.ndarray, keeping: CacheWriter | None = None) -> None:
    """Fill `out` (n, P) with the weights of rows of one row group, given by their ascending numbers within it."""
    weights = weights_of(shard.clone(), group, out.shape[1])
    copy(weights, within, out)
    if keeping is not None:
        keeping.add(int(shard.begins[group]), weights)
