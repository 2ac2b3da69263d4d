"""The members of a tar archive by name, read by `tarfile` from a file that answers no request of a hostile header.

A header says how long the next header is, and where it begins. With a negative size, `tarfile` reads the same header
without end; with a huge one, it asks for memory of that size.
"""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import FormatError

_MAX_BLOCK = 1_000_000  # bytes of an extended header: a name of 4 kB and attributes need far less
_MAX_GLOBAL_KEYS = 100  # values that hold for all members behind them, such as a comment; each member copies them


class _HeaderFile:
    """An archive as `tarfile` reads headers: in small blocks, from front to back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)  # its position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_BLOCK:
            raise tarfile.ReadError(f"a header has a block of {size:,} bytes")
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        if not self._file.tell() - 1 <= offset < 2**63:  # tarfile reads the byte before a header to see that it exists
            raise tarfile.ReadError("a header leads out of the archive, or back to one that was read")
        return self._file.seek(offset)


def list_tar_members(path: Path, add: Callable[[tarfile.TarInfo], None]) -> bool:
    """List the members of a tar that is not compressed.

    Args:
        path: The archive.
        add: Called with each member, in the order of the archive.

    Returns:
        False where a place is damaged, so that the members behind it are missing.

    Raises:
        tarfile.TarError: The first header is damaged, so that the file is no tar.
    """
    with path.open("rb") as file:
        try:
            archive = tarfile.open(fileobj=_HeaderFile(file), mode="r:")  # noqa: SIM115
        except tarfile.TarError:
            raise
        except Exception as error:  # hostile headers make tarfile raise almost anything
            raise tarfile.ReadError(str(error)) from error
        try:
            for member in archive:
                if len(archive.pax_headers) > _MAX_GLOBAL_KEYS:
                    return False
                add(member)
                archive.members = []  # type: ignore[attr-defined]  # or it would keep all of them
        except FormatError:
            raise
        except Exception:
            return False
    return True
