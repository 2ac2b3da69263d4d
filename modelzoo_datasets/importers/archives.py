"""Sources of originals: a folder, a zip or a tar, read file by file; nothing outside of them is read.

A compressed tar, and a large array in a zip, are first decompressed into a temporary file, because only that can be
read anywhere.
"""

import os
import re
import stat
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import FormatError
from ..progress import Progress
from ..zoo import check_memory, size_on_disk
from .base import Skipped, SkipReport
from .compression import DAMAGED, decompress, decompress_tar
from .tar_index import list_tar_members

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # first bytes of a zip, with members and without
_ENCRYPTED = 1  # flag of a member of a zip
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Python reads members of other methods without a limit
_CHUNK = 2**20  # bytes read at once
_COPIES = 4  # a file is in memory so often while it is read: itself, decoded, checked, packed
_BYTES_PER_MEMBER = 500  # memory for the path, the place and the size of a file
OUTSIDE = "points outside of its folder or archive, or is no plain file"


class Source(ABC):
    """The files of one original, by their paths below it with '/' between the parts."""

    name: str  # without path and suffixes
    sizes: dict[str, int]  # path -> bytes
    nbytes: int  # the whole source on the disk, compressed if it is
    skipped: SkipReport  # files that are never read: links, devices, paths that lead outside

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Close open files."""

    def read(self, path: str) -> bytes:
        """Return the content of one file; raises Skipped, also for a file that is too large for such a source."""
        try:
            check_memory(_COPIES * self.sizes[path], self.nbytes, path)
        except FormatError as error:
            raise Skipped("is larger than the size of the whole source allows") from error
        return self._read(path)

    @abstractmethod
    def _read(self, path: str) -> bytes:
        """Return the content of one file, whose size was checked; raises Skipped."""

    @abstractmethod
    def stream(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open one file of any size, to be read from front to back."""

    @abstractmethod
    def locate(self, path: str) -> tuple[Path, int]:
        """Return (path on disk, offset in bytes) of the content of a file; it ends earlier where it is cut off."""


def make_safe_path(name: str) -> str | None:
    """Return the name of a member as a path below its source; None for a path that leads outside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        return None
    return "/".join(parts) or None


def is_litter(path: str) -> bool:
    """Return True for files that macOS leaves beside those of a user."""
    *folders, name = path.split("/")
    return name.startswith("._") or name == ".DS_Store" or "__MACOSX" in folders


class FolderSource(Source):
    """A folder. Symbolic links that lead out of it are skipped, and so are folders that are links."""

    def __init__(self, folder: Path) -> None:
        """List the files of a folder; raises FormatError where it cannot be read."""
        self.name, self._folder, self.skipped = folder.resolve().name, folder, SkipReport()
        self.nbytes, self.sizes = 0, {}
        for key, status in self._walk():
            self.sizes[key] = status.st_size
            self.nbytes += size_on_disk(status)

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        root = self._folder.resolve()
        for place, folders, files in os.walk(self._folder, onerror=self._report_unreadable):
            folders.sort()
            below = Path(place).relative_to(self._folder)
            for name in folders:
                if (Path(place) / name).is_symlink():
                    self.skipped.add(OUTSIDE, (below / name).as_posix())
            for name in files:
                path = Path(place) / name
                key, is_link = (below / name).as_posix(), path.is_symlink()
                if (is_link and not path.resolve().is_relative_to(root)) or not path.is_file():
                    self.skipped.add(OUTSIDE, key)
                else:
                    yield key, path.stat()

    def _report_unreadable(self, error: OSError) -> None:
        """Count a folder that cannot be listed; raise FormatError where it is the source itself."""
        if (folder := Path(error.filename)) == self._folder:
            raise FormatError(f"cannot read {folder}: {error.strerror}") from error
        below = folder.relative_to(self._folder).as_posix()
        self.skipped.add(f"is a folder that cannot be read: {error.strerror}", below)

    def stream(self, path: str) -> BinaryIO:
        return (self._folder / path).open("rb")

    def locate(self, path: str) -> tuple[Path, int]:
        return self._folder / path, 0

    def _read(self, path: str) -> bytes:
        try:
            return (self._folder / path).read_bytes()
        except OSError as error:
            raise Skipped(f"cannot be read: {error.strerror}") from error


class ZipSource(Source):
    """A zip archive."""

    def __init__(self, path: Path, temporary: Path, progress: Progress) -> None:
        """List the members of an archive; raises FormatError.

        Args:
            path: The archive.
            temporary: File for the content of the member that is located last.
            progress: Display of the bytes.
        """
        self.name, self.skipped, self.nbytes = path.stem, SkipReport(), size_on_disk(path.stat())
        self._temporary, self._progress = temporary, progress
        try:
            self._archive = zipfile.ZipFile(path)
        except DAMAGED as error:
            raise FormatError(f"cannot read archive {path}: {error}; download it again") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in (member for member in self._archive.infolist() if not member.is_dir()):
            name, kind = make_safe_path(member.filename), stat.S_IFMT(member.external_attr >> 16)
            if name is None or kind not in (0, stat.S_IFREG):
                self.skipped.add(OUTSIDE, member.filename)
            else:
                self._members[name] = member
        self.sizes = {name: member.file_size for name, member in self._members.items()}

    def close(self) -> None:
        self._archive.close()

    def stream(self, path: str) -> BinaryIO:
        member = self._members[path]
        if member.flag_bits & _ENCRYPTED:
            raise RuntimeError("it is encrypted")
        if member.compress_type not in _METHODS:
            raise RuntimeError("it is packed by another method than deflate")
        return cast(BinaryIO, self._archive.open(member))

    def locate(self, path: str) -> tuple[Path, int]:
        with self.stream(path) as packed:
            decompress(packed, path, self._members[path].compress_size, self._temporary, self._progress)
        return self._temporary, 0

    def _read(self, path: str) -> bytes:
        content = bytearray()
        with suppress(*DAMAGED), self.stream(path) as file:
            while chunk := file.read(_CHUNK):  # at once, a member that lies about its size would be decompressed whole
                content += chunk
            if len(content) == self.sizes[path]:
                return bytes(content)
        raise Skipped("is damaged in its archive, or encrypted")


class TarSource(Source):
    """A tar archive; one that is compressed is decompressed into a temporary file."""

    def __init__(self, path: Path, temporary: Path, progress: Progress) -> None:
        """List the members of an archive, up to a place where it is damaged.

        Args:
            path: The archive.
            temporary: File for the decompressed archive.
            progress: Display of the bytes.

        Raises:
            tarfile.TarError: The content is no tar.
            FormatError: The content is larger than the disk or the limit allow.
        """
        self.name, self.skipped = re.sub(r"(\.tar)?\.(gz|xz|bz2)$|\.(tar|tgz|txz)$", "", path.name), SkipReport()
        self._path, self.nbytes = path, size_on_disk(path.stat())
        self._places: dict[str, tuple[int, int]] = {}
        try:
            is_whole = list_tar_members(path, self._add)
        except tarfile.TarError:
            is_whole = decompress_tar(path, temporary, progress)
            self._path = temporary
            is_whole &= list_tar_members(temporary, self._add)
        if not is_whole:
            self.skipped.add("is cut off or damaged, so the files behind that place are missing", path.name)
        self._file = self._path.open("rb")
        self.sizes = {name: size for name, (_, size) in self._places.items()}

    def _add(self, member: tarfile.TarInfo) -> None:
        name = make_safe_path(member.name)
        if name is None or not (member.isdir() or (member.isreg() and not member.issparse())):
            self.skipped.add(OUTSIDE, member.name)
        elif not member.isdir():
            self._places[name] = (member.offset_data, member.size)
            if len(self._places) % 10_000 == 0:
                check_memory(_BYTES_PER_MEMBER * len(self._places), self.nbytes, self.name)

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def stream(self, path: str) -> Iterator[BinaryIO]:
        with self._path.open("rb") as file:
            file.seek(self._places[path][0])
            yield file

    def locate(self, path: str) -> tuple[Path, int]:
        return self._path, self._places[path][0]

    def _read(self, path: str) -> bytes:
        offset, size = self._places[path]
        if offset + size > self._path.stat().st_size:
            raise Skipped("comes behind the place where its archive is cut off or damaged")
        self._file.seek(offset)
        return self._file.read(size)


def open_source(path: Path, temporary: Path, progress: Progress) -> Source:
    """Open the originals at a path.

    Args:
        path: A folder, or a zip or tar archive.
        temporary: File for decompressed content, which the caller removes; one that is there is replaced.
        progress: Display of the bytes that are decompressed.

    Raises:
        FormatError: The path is no folder, zip or tar that can be read.
    """
    if path.is_dir():
        return FolderSource(path)
    with path.open("rb") as file:  # a tar of checkpoints ends as a zip does, so only the beginning tells
        is_zip = file.read(4) in _ZIP
    try:
        return (ZipSource if is_zip else TarSource)(path, temporary, progress)
    except tarfile.TarError as error:
        raise FormatError(
            f"{path} is no folder, zip or tar archive that can be read: {error}; download it again"
        ) from error
