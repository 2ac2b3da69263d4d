"""Threads that write states while the next ones are trained.

One thread writes all states of a model, in order. `submit` waits only when `MAX_PENDING_BYTES` are not on disk yet. The
next call raises the first failure, and writes that had not begun by then are dropped.
"""

import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_THREADS = 2
MAX_PENDING_BYTES = 500_000_000  # states that may wait for the disk


class WriterPool:
    """Two threads that write. `submit` returns at once, `close` waits for the rest. Call both from one thread only."""

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
