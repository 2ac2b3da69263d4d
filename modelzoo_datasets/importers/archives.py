"""Where originals lie: a folder, a zip or a tar, read file by file; nothing is unpacked, nothing outside is read."""

import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from lzma import LZMAError
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from ..errors import FormatError
from .skip_report import Skipped, SkipReport

Contents = Mapping[str, bytes | Skipped]  # path -> what is there, or why it is not read
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # how a zip begins, with members and without
_ENCRYPTED = 1  # of the flags of a member
# What reading raises where an archive or a compressed file is damaged, encrypted, or packed in a way not known here.
DAMAGED = (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError)
OUTSIDE = "points outside of its folder or archive, or is no plain file"


class Source(Protocol):
    """The files of one original, by their paths below it with '/' between the parts."""

    @property
    def name(self) -> str:
        """Its name without suffixes."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Path -> bytes."""
        ...

    @property
    def refused(self) -> SkipReport:
        """What lies in it but is not read by principle."""
        ...

    def close(self) -> None:
        """Let go of open files."""
        ...

    def read(self, path: str) -> bytes:
        """One small file that describes others; raises Refused."""
        ...

    def stream(self, path: str) -> AbstractContextManager[BinaryIO]:
        """One file of any size, to be read from front to back."""
        ...

    def place(self, path: str) -> tuple[str, int] | None:
        """(path on disk, offset in bytes) at which a file lies as it is; None where it is compressed."""
        ...

    def looked_into(
        self, paths: Sequence[str], look: Callable[[BinaryIO], bytes]
    ) -> Iterator[tuple[str, bytes | Skipped]]:
        """(path, what `look` takes from the front of the file, or why nothing) for every path, as they come."""
        ...

    def groups(self, wanted: Sequence[Sequence[str]]) -> Iterator[tuple[int, Contents]]:
        """(index of a group, its files) for every group of paths, as they come, one group in memory where possible."""
        ...


def safe_path(name: str) -> str | None:
    """The path of a member as it is used here; None where it leads outside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        return None
    return "/".join(parts) or None


def is_litter(path: str) -> bool:
    """Whether a file is what macOS leaves beside those of a user."""
    *folders, name = path.split("/")
    return name.startswith("._") or name == ".DS_Store" or "__MACOSX" in folders


class RandomAccess:
    """What folders and archives that can be read anywhere have in common."""

    name: str
    sizes: Mapping[str, int]
    refused: SkipReport

    def close(self) -> None:
        """Let go of open files."""

    def read(self, path: str) -> bytes:
        """See `Source`."""
        raise NotImplementedError

    def stream(self, path: str) -> AbstractContextManager[BinaryIO]:
        """See `Source`."""
        raise NotImplementedError

    def looked_into(
        self, paths: Sequence[str], look: Callable[[BinaryIO], bytes]
    ) -> Iterator[tuple[str, bytes | Skipped]]:
        """See `Source`."""
        for path in paths:
            try:
                with self.stream(path) as file:
                    found: bytes | Skipped = look(file)
            except Skipped as reason:
                found = reason
            except DAMAGED as error:
                found = Skipped(f"cannot be read: {error}")
            yield path, found

    def groups(self, wanted: Sequence[Sequence[str]]) -> Iterator[tuple[int, Contents]]:
        """See `Source`."""
        for index, paths in enumerate(wanted):
            contents: dict[str, bytes | Skipped] = {}
            for path in paths:
                try:
                    contents[path] = self.read(path)
                except Skipped as reason:
                    contents[path] = reason
            yield index, contents


class FolderSource(RandomAccess):
    """A folder. Symbolic links that lead out of it are refused, as are folders that are links."""

    def __init__(self, folder: Path) -> None:
        self.name, self._folder, self.refused = folder.resolve().name, folder, SkipReport()
        self.sizes = dict(self._walk())

    def _walk(self) -> Iterator[tuple[str, int]]:
        root = self._folder.resolve()
        for place, folders, files in os.walk(self._folder, onerror=self._unreadable):
            folders.sort()
            below = Path(place).relative_to(self._folder)
            for name in folders:
                if (Path(place) / name).is_symlink():
                    self.refused.add(OUTSIDE, (below / name).as_posix())
            for name in files:
                path = Path(place) / name
                known, linked = (below / name).as_posix(), path.is_symlink()
                if (linked and not path.resolve().is_relative_to(root)) or not path.is_file():
                    self.refused.add(OUTSIDE, known)
                else:
                    yield known, path.stat().st_size

    def _unreadable(self, error: OSError) -> None:
        """A folder that cannot be looked into; raises FormatError where it is the original itself."""
        if (folder := Path(error.filename)) == self._folder:
            raise FormatError(f"cannot read {folder}: {error.strerror}") from error
        below = folder.relative_to(self._folder).as_posix()
        self.refused.add(f"is a folder that cannot be read: {error.strerror}", below)

    def stream(self, path: str) -> BinaryIO:
        """See `Source`."""
        return (self._folder / path).open("rb")

    def place(self, path: str) -> tuple[str, int]:
        """See `Source`."""
        return str(self._folder / path), 0

    def read(self, path: str) -> bytes:
        """See `Source`."""
        try:
            return (self._folder / path).read_bytes()
        except OSError as error:
            raise Skipped(f"cannot be read: {error.strerror}") from error


class ZipSource(RandomAccess):
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        """Read its list of members; raises FormatError."""
        self.name, self.refused = path.stem, SkipReport()
        try:
            self._archive = zipfile.ZipFile(path)
        except DAMAGED as error:
            raise FormatError(f"cannot read archive {path}: {error}; download it again") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._archive.infolist():
            if not member.is_dir():
                self._take_in(member)
        self.sizes = {name: member.file_size for name, member in self._members.items()}

    def _take_in(self, member: zipfile.ZipInfo) -> None:
        name, kind = safe_path(member.filename), stat.S_IFMT(member.external_attr >> 16)
        if name is None or kind not in (0, stat.S_IFREG):
            self.refused.add(OUTSIDE, member.filename)
        else:
            self._members[name] = member

    def close(self) -> None:
        """See `RandomAccess`."""
        self._archive.close()

    def stream(self, path: str) -> BinaryIO:
        """See `Source`."""
        member = self._members[path]
        if member.flag_bits & _ENCRYPTED:
            raise RuntimeError("it is encrypted")
        return cast(BinaryIO, self._archive.open(member))

    def place(self, path: str) -> None:
        """See `Source`."""

    def read(self, path: str) -> bytes:
        """See `Source`."""
        member = self._members[path]
        try:
            with self._archive.open(member) as file:
                content = file.read(member.file_size + 1)
        except DAMAGED as error:
            raise Skipped("is damaged in its archive, or encrypted") from error
        if len(content) != member.file_size:
            raise Skipped("is damaged in its archive, or encrypted")
        return content


def open_source(path: Path) -> Source:
    """The originals at this path.

    Raises:
        FormatError: there is nothing, or no folder, zip or tar that can be read.
    """
    from .tar_archives import open_tar

    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        raise FormatError(f"there is no folder or archive {path}")
    with path.open("rb") as file:  # a tar of checkpoints ends as a zip does, so its beginning is asked
        return ZipSource(path) if file.read(4) in _ZIP else open_tar(path)
