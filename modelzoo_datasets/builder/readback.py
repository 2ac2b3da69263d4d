"""Read back every written file: each state in it must have the hash that was recorded when it was trained."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import pandas as pd
import pyarrow.parquet as pq

from ..errors import FormatError
from ..zoo import ByteRange, ZooFolder, flush_to_disk, hash_weights, read_state


class BackgroundChecker:
    """Runs one check at a time in a thread, while the caller writes the next file; a context manager.

    A check that fails raises its error from the next call of `submit`, or at the end of the `with` block.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[None] | None = None

    def submit(self, check: Callable[[], None]) -> None:
        """Wait for the previous check, then start this one."""
        self._wait()
        self._future = self._pool.submit(check)

    def _wait(self) -> None:
        if self._future is not None:
            self._future.result()

    def __enter__(self) -> "BackgroundChecker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._wait()
        finally:
            self._pool.shutdown()


def check_table(path: Path, rows: pd.DataFrame, zoo: ZooFolder) -> None:
    """Check that a Parquet file contains the weights of some rows.

    Args:
        path: The file, which is flushed to disk first.
        rows: The rows of the file in their order.
        zoo: The zoo that they come from.

    Raises:
        FormatError: A state differs from the trained one.
    """
    flush_to_disk(path)
    _check_hashes(path, rows, _hash_table(path), zoo)


def check_trajectory(path: Path, rows: pd.DataFrame, byte_ranges: Sequence[ByteRange], zoo: ZooFolder) -> None:
    """Check that a file of weights contains the states of some rows.

    Args:
        path: The file.
        rows: The rows of one model.
        byte_ranges: The place of each row's state in the file.
        zoo: The zoo that they come from.

    Raises:
        FormatError: A state differs from the trained one.
    """
    states = (read_state(path, byte_range.offset, byte_range.nbytes) for byte_range in byte_ranges)
    _check_hashes(path, rows, map(hash_weights, states), zoo)


def _hash_table(path: Path) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            (column,) = file.read_row_group(group, ["weights"], use_threads=False).columns
            for chunk in column.chunks:
                for state in chunk.flatten().to_numpy().reshape(len(chunk), -1):
                    yield hashlib.sha256(state).hexdigest()


def _check_hashes(path: Path, rows: pd.DataFrame, hashes: Iterator[str], zoo: ZooFolder) -> None:
    """Raise FormatError for the first wrong state, and tell whether the zoo or the written file is damaged."""
    recorded_hashes = zip(rows["model_id"].tolist(), rows["epoch"].tolist(), rows["sha256"].tolist(), strict=True)
    for (model_id, epoch, recorded), sha256 in zip(recorded_hashes, hashes, strict=True):
        if sha256 == recorded:
            continue
        if hash_weights(zoo.weights(model_id, epoch)) != recorded:
            raise FormatError(
                f"state {model_id} epoch {epoch} of {zoo.path} differs from the state that was trained; "
                f"delete {zoo.states_path(model_id)} and run {zoo.maker} again"
            )
        raise FormatError(
            f"state {model_id} epoch {epoch} in {path.name} differs from what was written, which points to faulty "
            "memory or a faulty disk; run the same command again"
        )
