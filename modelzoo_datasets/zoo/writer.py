"""Write a zoo folder state by state: a kill at any moment loses at most the models in training."""

import dataclasses
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from ..errors import FolderInUseError
from ..recipes import Member
from .atomic_io import remove_partial_files, translate_disk_errors
from .backends import FileStore, PackedStore, StateStore
from .info import ZooInfo, find_difference
from .json_files import read_json, write_json
from .lock import OutputLock
from .paths import MODELS_FILE, PROGRESS, STATES_FILE, ZOO_FILE, check_zoo_folder
from .tables import (
    Row,
    count_epochs,
    list_epochs,
    make_state_row,
    make_tables,
    read_state_rows,
    write_record,
    write_table,
)

_THREADS = 2  # in a `WriterPool`
MAX_PENDING_BYTES = 500_000_000  # states that may wait for the disk


class ZooWriter:
    """A zoo folder in the making: it lists the models that it holds, takes others, and completes the tables.

    Use it as a context manager: until it ends, no other process can write to the folder. Threads write the states.
    """

    def __init__(self, folder: Path, info: ZooInfo, lock: OutputLock | None = None) -> None:
        """Create the folder, or resume one that holds the very same zoo.

        Args:
            folder: The zoo folder.
            info: The zoo, with its storage.
            lock: The lock of the folder, where the caller holds it already; it is released with the writer.

        Raises:
            FolderInUseError: The folder holds other files or another zoo (another recipe, other images or another
                version of a library), or another process is writing to it.
        """
        self.folder = folder
        self._info = info
        with translate_disk_errors(folder):
            check_zoo_folder(folder)
        self._lock = lock or OutputLock(folder)
        try:
            self._claim()
            self._store: StateStore = (PackedStore if info.is_packed else FileStore)(folder, info)
        except BaseException:
            self._lock.release()
            raise
        self.pool = WriterPool()
        self._rows: dict[str, list[Row]] = {}

    def _claim(self) -> None:
        zoo_file = self.folder / ZOO_FILE
        check_zoo_folder(self.folder)  # again, now that no other process can write to it
        with translate_disk_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
        if not zoo_file.is_file():
            write_json(zoo_file, self._info.to_json())
        stored = read_json(zoo_file)
        if isinstance(stored, dict) and stored.get("images_sha256") == "" and self._info.images_sha256:
            known = stored | {"images_sha256": self._info.images_sha256}
            if find_difference(known, self._info) is None:  # the images were not there when it was begun
                write_json(zoo_file, stored := known)
        if difference := find_difference(stored, self._info):
            name, stored, value = difference
            if name == "storage":
                raise FolderInUseError(
                    f"{self.folder} stores its states as {_shorten(stored)}, not {_shorten(value)}; "
                    f"choose another --out, or --storage {stored}"
                )
            raise FolderInUseError(
                f"{self.folder} holds another zoo: its {name} is {_shorten(stored)}, not {_shorten(value)}; "
                "choose another --out"
            )
        remove_partial_files(self.folder)

    def __enter__(self) -> "ZooWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.pool.close()
            else:
                self.pool.abandon()
        finally:
            self._store.discard()
            self._lock.release()

    def find_finished(self, members: Sequence[Member]) -> set[str]:
        """Return the ids of the models whose states are all there; raises FormatError for a damaged table of states."""
        counts = count_epochs(read_state_rows(self.folder))
        return {m.model_id for m in members if _has_rows(m, counts) and self._store.holds(m)}

    def add(
        self,
        member: Member,
        epoch: int,
        weights: Tensor,  # (P,)
        metrics: Mapping[str, float],
        recall: Tensor,  # (C,)
        variational: Tensor | None = None,  # (Q,)
    ) -> None:
        """Write the next state of a model, soon; the last state also writes the record that makes the model finished.

        Do not change the tensors afterwards.

        Args:
            member: The model.
            epoch: The epochs that it was trained for; they must ascend.
            weights: Its weights (P,).
            metrics: Metric -> value.
            recall: Recall on test images by class (C,).
            variational: For a sparsified twin its unpruned weights and log sigma² (Q,).

        Raises:
            ModelZooError: An earlier write failed, for example with DiskFullError.
        """
        size = weights.nbytes + (0 if variational is None else variational.nbytes)

        def write() -> None:
            rows = self._rows.setdefault(member.model_id, [])
            rows.append(make_state_row(member.model_id, epoch, weights, metrics, recall))
            self._store.write(member, epoch, weights, variational)
            if epoch == member.epochs[-1]:
                self._store.finish(member)
                write_record(self.folder, member.model_id, self._rows.pop(member.model_id))

        self.pool.submit(member.model_id, size, write)

    def list_epochs(self) -> dict[str, tuple[int, ...]]:
        """List the epochs of every finished model; raises FormatError for a damaged table of states."""
        return list_epochs(read_state_rows(self.folder))

    def complete(self, members: Sequence[Member], *, lost_epochs: Mapping[str, Sequence[int]] | None = None) -> None:
        """Write both tables for all finished models, then remove the records that they replace.

        No state can be added afterwards.

        Args:
            members: All models of the grid, in its order.
            lost_epochs: For an imported zoo, model_id -> epochs whose states turned out to be lost.

        Raises:
            ModelZooError: A write failed, for example with DiskFullError.
        """
        self.pool.close()
        progress = self.folder / PROGRESS
        if not progress.is_dir() and all((self.folder / name).is_file() for name in (MODELS_FILE, STATES_FILE)):
            return  # nothing was added, so a complete zoo stays as it is, even on a full disk
        values = dataclasses.replace(self._info, lost_epochs=lost_epochs or {}).to_json()
        if read_json(self.folder / ZOO_FILE) != values:
            write_json(self.folder / ZOO_FILE, values)
        states = read_state_rows(self.folder)
        counts = count_epochs(states)
        present = [member for member in members if _has_rows(member, counts)]
        self._store.complete(present)
        models, states = make_tables(present, states)
        write_table(self.folder / MODELS_FILE, models)
        write_table(self.folder / STATES_FILE, states)
        if progress.is_dir():
            for record in progress.iterdir():
                record.unlink()
            progress.rmdir()


def _has_rows(member: Member, counts: Mapping[str, int]) -> bool:
    return counts.get(member.model_id) == len(member.epochs)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class WriterPool:
    """Two threads that write states while the next ones are trained; one thread writes all states of a model, in order.

    `submit` waits only when `MAX_PENDING_BYTES` are not on disk yet, `close` waits for all. The next call raises the
    first failure, and writes that had not begun by then are dropped. Call all methods from one thread only.
    """

    def __init__(self) -> None:
        self._threads = [ThreadPoolExecutor(1, f"writer-{i}") for i in range(_THREADS)]
        self._changed = threading.Condition()
        self._pending = 0  # bytes
        self._error: BaseException | None = None
        self.seconds_writing = 0.0  # sum over all threads
        self.seconds_waiting = 0.0  # spent by the caller in `submit`

    def submit(self, key: str, size: int, write: Callable[[], None]) -> None:
        """Write soon, after all earlier writes of the same key; raises the first failure so far.

        Args:
            key: Writes of one key keep their order.
            size: Bytes in memory until the write is done.
            write: Does the write.
        """
        begin = time.perf_counter()
        with self._changed:
            # A write larger than the limit waits until nothing else is pending.
            while self._error is None and self._pending and self._pending + size > MAX_PENDING_BYTES:
                self._changed.wait()
            self._raise()
            self._threads[zlib.crc32(key.encode()) % _THREADS].submit(self._run, size, write)
            self._pending += size
        self.seconds_waiting += time.perf_counter() - begin

    def _run(self, size: int, write: Callable[[], None]) -> None:
        begin = time.perf_counter()
        try:
            if self._error is None:
                write()
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._pending -= size
                self.seconds_writing += time.perf_counter() - begin
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """Wait for all writes so far; raises the first failure."""
        for done in [thread.submit(lambda: None) for thread in self._threads]:
            done.result()
        self._raise()

    def close(self) -> None:
        """Wait for all writes and end the threads; raises the first failure."""
        self.abandon()
        self._raise()

    def abandon(self) -> None:
        """Do as `close`, without raising failures. Ctrl-C meanwhile drops the writes that have not begun."""
        try:
            self._join()
        except BaseException as error:
            self._fail(error)
            self._join()  # no thread may still write when the lock on the folder is released
            raise

    def _join(self) -> None:
        for thread in self._threads:
            thread.shutdown(wait=True)
