"""What was written is read back: every state in a finished file has the hash recorded when it was trained."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import pandas as pd
import pyarrow.parquet as pq

from ..errors import FormatError
from ..zoo import ByteRange, ZooFolder, flush_to_disk, read_state, weights_sha256


class Behind:
    """Does one thing at a time in a thread, while the caller prepares the next; a context manager.

    Handing work over waits for what was handed over before, and raises what that failed of.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Do this next."""
        self._wait()
        self._last = self._pool.submit(work)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()

    def __enter__(self) -> "Behind":
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
    """The weights in a Parquet file are those of these rows; see `_check` for what is raised."""
    flush_to_disk(path)
    _check(path, rows, _hashes_in_table(path), zoo)


def check_trajectory(path: Path, rows: pd.DataFrame, places: Sequence[ByteRange], zoo: ZooFolder) -> None:
    """The states at these places of a file are those of these rows; see `_check` for what is raised."""
    _check(path, rows, (weights_sha256(read_state(path, place.offset, place.nbytes)) for place in places), zoo)


def _hashes_in_table(path: Path) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            (column,) = file.read_row_group(group, ["weights"], use_threads=False).columns
            for chunk in column.chunks:
                for state in chunk.flatten().to_numpy().reshape(len(chunk), -1):
                    yield hashlib.sha256(state).hexdigest()


def _check(path: Path, rows: pd.DataFrame, found: Iterator[str], zoo: ZooFolder) -> None:
    """Raise FormatError for the first state that is not the one trained: the file in the zoo is altered, or ours."""
    wanted = zip(rows["model_id"].tolist(), rows["epoch"].tolist(), rows["sha256"].tolist(), strict=True)
    for (model_id, epoch, recorded), sha256 in zip(wanted, found, strict=True):
        if sha256 == recorded:
            continue
        if weights_sha256(zoo.weights(model_id, epoch)) != recorded:
            raise FormatError(
                f"state {model_id} epoch {epoch} of {zoo.path} is not the one that was trained; "
                f"remove {zoo.place(model_id)} and run {zoo.maker} again"
            )
        raise FormatError(
            f"{path.name} does not hold state {model_id} epoch {epoch} as it was written: "
            "memory or disk are not to be trusted; run the same command again"
        )
