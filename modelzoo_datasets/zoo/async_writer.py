"""Threads that write while the next states are trained.

What belongs together is written in order by one thread. Handing work over only waits when the disk has fallen behind by
`MOST_WAITING` bytes; the first failure is raised at the next call, and nothing that had not begun is written after it.
"""

import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_THREADS = 2
MOST_WAITING = 500_000_000  # bytes of states that may wait for the disk


class WriterPool:
    """`submit` returns at once; `close` waits for the rest. To be used from one thread."""

    def __init__(self) -> None:
        self._threads = [ThreadPoolExecutor(1, f"writer-{i}") for i in range(_THREADS)]
        self._room = threading.Condition()
        self._waiting = 0  # bytes
        self._error: BaseException | None = None
        self.seconds_writing = 0.0  # over all threads
        self.seconds_waited = 0.0  # that `submit` kept its caller

    def submit(self, key: str, size: int, write: Callable[[], None]) -> None:
        """Write soon, after everything of the same key; `size` in bytes. Raises the first failure so far."""
        begin = time.perf_counter()
        with self._room:
            # What is larger than the limit has its turn when nothing else waits.
            while self._error is None and self._waiting and self._waiting + size > MOST_WAITING:
                self._room.wait()
            self._raise()
            self._threads[zlib.crc32(key.encode()) % _THREADS].submit(self._run, size, write)
            self._waiting += size
        self.seconds_waited += time.perf_counter() - begin

    def _run(self, size: int, write: Callable[[], None]) -> None:
        begin = time.perf_counter()
        try:
            if self._error is None:
                write()
        except BaseException as error:
            self._fail(error)
        finally:
            with self._room:
                self._waiting -= size
                self.seconds_writing += time.perf_counter() - begin
                self._room.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._room:
            self._error = self._error or error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """Wait until everything handed over so far is written; raises the first failure."""
        for done in [thread.submit(lambda: None) for thread in self._threads]:
            done.result()
        self._raise()

    def close(self) -> None:
        """Wait until everything is written; raises the first failure."""
        self.abandon()
        self._raise()

    def abandon(self) -> None:
        """Finish what was handed over, keep failures to oneself; Ctrl-C meanwhile drops what has not begun."""
        try:
            self._join()
        except BaseException as error:
            self._fail(error)
            self._join()  # no thread may still write when the folder is let go
            raise

    def _join(self) -> None:
        for thread in self._threads:
            thread.shutdown(wait=True)
