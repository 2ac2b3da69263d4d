"""Files and folders that appear whole or not at all: written beside, flushed to disk, then renamed into place.

A lock on a folder lets only one process at a time write to it.

This module imports neither torch nor pyarrow, so that a command can look at a folder at next to no cost.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DiskFullError, FolderInUseError

try:
    import fcntl
except ImportError:  # Windows: two writers are not detected
    fcntl = None  # type: ignore[assignment]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # no bytes or no inodes left, or a quota used up


def partial_path(path: Path) -> Path:
    """Return the hidden path at which a file or folder is written before it is renamed to `path`.

    Raises:
        FolderInUseError: `path` is the current folder, which cannot be renamed into place.
    """
    if path.absolute() == Path.cwd():
        raise FolderInUseError("the current folder cannot be written as a whole; name a new one with --out")
    return path.with_name(f".{path.name}.partial")


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Name the file in the error of a failed write.

    Raises:
        DiskFullError: the disk is full.
        OSError: the write failed for any other reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DiskFullError(
                f"the disk is full: no room for {path}; make room there and run the same command again to go on"
            ) from error
        error.filename = error.filename or str(path)
        raise


class AtomicFile:
    """A file in the making: `commit` puts it in place, flushed to disk; `discard` leaves the old file as it was.

    All methods raise DiskFullError where the disk is full.
    """

    def __init__(self, path: Path) -> None:
        """Begin an empty file beside `path`, and make the folders above it."""
        self._path, self._partial = path, partial_path(path)
        with translate_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("wb", buffering=0)

    def write(self, content: bytes | memoryview, offset: int | None = None) -> None:
        """Write at an offset in bytes, or where the last write ended."""
        rest = memoryview(content)
        with translate_disk_errors(self._path):
            self._reopen()
            if offset is not None:
                self._file.seek(offset)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]

    def suspend(self) -> None:
        """Close the file until the next write, which must name its offset: many files may be in the making."""
        with translate_disk_errors(self._path):
            self._file.close()

    def _reopen(self) -> None:
        if self._file.closed:
            self._file = self._partial.open("r+b", buffering=0)

    def commit(self) -> None:
        """Put the file in place whole; a kill at any moment leaves the old file or the new one."""
        with translate_disk_errors(self._path):
            self._reopen()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self._path)

    def discard(self) -> None:
        """Remove the new file."""
        try:
            self._file.close()
        finally:
            self._partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty hidden folder to write into; rename it to `path` at the end, or remove it after an error.

    Raises:
        FolderInUseError: `path` is the current folder.
        OSError: `path` is a folder that is not empty.
    """
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        commit_folder(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def commit_folder(path: Path) -> None:
    """Rename the folder at `partial_path(path)` to `path`, where nothing or an empty folder may be."""
    if path.is_dir():
        path.rmdir()
    partial_path(path).replace(path)


def flush_to_disk(path: Path) -> None:
    """Wait until a file that another library wrote is on the disk."""
    with translate_disk_errors(path), path.open("rb") as file:
        os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes) -> None:
    """Put a file in place whole; a kill at any moment leaves the old file or the new one."""
    file = AtomicFile(path)
    try:
        file.write(content)
        file.commit()
    except BaseException:
        file.discard()
        raise


class FolderLock:
    """A lock that is held from its creation until `release`, or until the process ends in any way.

    It locks the folder itself. The package `filelock` would lock a file instead, in the folder or beside it, which
    cannot be removed safely afterwards: zoo folders would hold a file that is none of theirs.
    """

    def __init__(self, folder: Path) -> None:
        """Acquire the lock; raises FolderInUseError where another process holds it."""
        self._handle: int | None = None
        if fcntl is None:
            return
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise FolderInUseError(
                f"another process is writing {folder}; wait until it ends, or choose another --out"
            ) from None
        except OSError:  # the file system has no locks: two writers are not detected
            os.close(handle)
            return
        self._handle = handle

    def release(self) -> None:
        """Let other processes write to the folder."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
