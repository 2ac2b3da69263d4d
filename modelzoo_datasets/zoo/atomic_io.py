"""Files and folders that appear whole or not at all: written beside, flushed to disk, then renamed into place.

Every write has a partial file of its own, `.NAME.PID-RANDOM.partial`, so that no two writers share one. The lock of an
output (`lock.py`) lets only one process at a time write it, so that its owner can remove what killed writers left.

This module imports neither torch nor pyarrow, so that a command can look at a folder at next to no cost.
"""

import errno
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DiskFullError, FolderInUseError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # no bytes or no inodes left, or a quota used up
_OWN_PARTIAL = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.partial")
_PARTIAL = re.compile(r"\..+\.partial")  # also one of an earlier release


def working_path(path: Path) -> Path:
    """Return the hidden folder beside `path` in which work lies that a later run resumes.

    Raises:
        FolderInUseError: `path` is the current folder, which cannot be renamed into place.
    """
    if path.absolute() == Path.cwd():
        raise FolderInUseError("the current folder cannot be written as a whole; name a new one with --out")
    return path.with_name(f".{path.name}.partial")


def own_partial_path(path: Path) -> Path:
    """Return a new hidden path beside `path`, which no other process and no other call has."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")


def is_partial(path: Path) -> bool:
    """Tell by its name whether a file is one in the making, or what a killed process left of it."""
    return _PARTIAL.fullmatch(path.name) is not None


def remove_abandoned(path: Path) -> None:
    """Remove partial files and folders that killed writers of `path` left beside it; call it with its lock only."""
    with suppress(OSError):
        for other in path.parent.iterdir():
            if (match := _OWN_PARTIAL.fullmatch(other.name)) and match[1] == path.name:
                _remove(other)


def remove_partial_files(folder: Path) -> None:
    """Remove partial files that killed writers left anywhere within a folder; call it with its lock only."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".partial") and is_partial(path := Path(parent, name)):
                path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
        self._path, self._partial = path, own_partial_path(path)
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

    @contextmanager
    def map(self) -> Iterator[memoryview]:
        """Give the bytes that were written so far; release all slices of them before the end."""
        with (
            self._partial.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            yield view

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
    working_path(path)  # refuses the current folder before anything is written
    partial = own_partial_path(path)
    try:
        yield partial
        commit_folder(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def commit_folder(partial: Path, path: Path) -> None:
    """Rename a folder to `path`, where nothing or an empty folder may be."""
    if path.is_dir():
        path.rmdir()
    partial.replace(path)


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
