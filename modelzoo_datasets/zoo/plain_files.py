"""Files of a folder that somebody else made: only plain files are opened, and only inside of the folder.

A named pipe or a device would be read without end, and a link could lead to any file of the reader. This module imports
neither torch nor pyarrow.
"""

import os
import stat
from pathlib import Path

from ..errors import FormatError

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # or opening a named pipe would wait for a writer


def check_plain_file(path: Path, folder: Path | None = None, *, with_blobs: bool = True) -> int:
    """Check that a path is a plain file, before a library opens it, and return its size in bytes.

    Args:
        path: The file.
        folder: The folder that it must lie in; None for a file that the user named.
        with_blobs: See `is_inside`.

    Raises:
        FormatError: It is missing, is a pipe, a device or a folder, or is a link that leads out of the folder.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror or error}") from error
    _require_plain(path, status)
    if folder is not None and not is_inside(path, folder, with_blobs=with_blobs):
        raise FormatError(f"{path} is a link that leads out of {folder}; put the file itself there")
    return status.st_size


def is_inside(path: Path, folder: Path, *, with_blobs: bool = True) -> bool:
    """Return False for a path that links lead out of a folder.

    Args:
        path: The path.
        folder: The folder.
        with_blobs: Files in a snapshot of the Hub's client are links to its `blobs`, beside all snapshots of the repo
            or shared by all repos. They count as inside where files are read, but not where they are published.
    """
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(root):
        return True
    if not with_blobs or root.parent.name != "snapshots":
        return False
    repo = root.parent.parent
    return any(real.is_relative_to(folder / "blobs") for folder in (repo, repo.parent))


def read_plain_file(path: Path, max_bytes: int | None = None) -> bytes:
    """Read a plain file whole.

    Args:
        path: The file.
        max_bytes: The largest size that is read; any size if None.

    Raises:
        FormatError: It is a pipe, a device or a folder, or is larger.
        OSError: It is missing or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | _NONBLOCK | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _require_plain(path, status)
        if max_bytes is not None and status.st_size > max_bytes:
            raise FormatError(f"{path} has {status.st_size:,} bytes, expected at most {max_bytes:,}")
        return file.read()


def check_plain_files(folder: Path) -> None:
    """Check that all visible files of a folder are plain files inside of it, before any of them is opened.

    Raises:
        FormatError: One is a pipe, a device or a socket, or a link that leads out of the folder.
    """
    rest = [folder]
    while rest:
        with os.scandir(rest.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink() and not is_inside(path, folder):
                    raise FormatError(f"{path} is a link that leads out of {folder}; put the file itself there")
                if entry.is_dir(follow_symlinks=False):
                    rest.append(path)
                elif not entry.is_file() and not entry.is_dir():
                    check_plain_file(path)


def size_on_disk(status: os.stat_result) -> int:
    """Return the bytes that a file takes: one with holes can say that it is larger than any disk."""
    return min(status.st_size, 512 * getattr(status, "st_blocks", 1 << 50))


def _require_plain(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no plain file")
        raise FormatError(f"{path} is {kind}, expected a plain file; remove it, or copy its folder again")
