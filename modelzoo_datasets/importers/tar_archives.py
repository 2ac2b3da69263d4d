"""Tar archives: plain ones are read anywhere, compressed ones from front to back as often as needed."""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, cast

from ..errors import FormatError
from .archives import DAMAGED, OUTSIDE, Contents, RandomAccess, Source, safe_path
from .skip_report import Skipped, SkipReport

_CUT_OFF = "comes behind the place where its archive is cut off or damaged"
_DESCRIPTIONS = (
    ".json",
    ".csv",
    ".csv.gz",
    ".parquet",
)  # what is kept of a compressed archive when it is looked through
_LARGEST_DESCRIPTION = 64_000_000  # bytes
_MOST_WAITING = 4_000_000_000  # bytes of files whose groups are not complete


def open_tar(path: Path) -> Source:
    """A tar archive, compressed or not; raises FormatError where it is none."""
    try:
        with tarfile.open(path, "r:"):
            return TarSource(path)
    except tarfile.TarError:
        pass
    try:
        with tarfile.open(path, "r|*"):
            return CompressedTarSource(path)
    except DAMAGED as error:
        raise FormatError(f"{path} is no folder, zip or tar archive that can be read: {error}") from error


def _name_of(path: Path) -> str:
    name = path.name
    for suffix in (".gz", ".xz", ".bz2", ".tgz", ".txz", ".tar"):
        name = name.removesuffix(suffix)
    return name


def _members(archive: tarfile.TarFile, refused: SkipReport) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Plain files in the order of the archive, up to where it is damaged."""
    try:
        for member in archive:
            name = safe_path(member.name)
            if name is None or not (member.isdir() or (member.isreg() and not member.issparse())):
                refused.add(OUTSIDE, member.name)
            elif not member.isdir():
                yield name, member
            archive.members = []  # type: ignore[attr-defined]  # or it would keep all of them
    except DAMAGED:
        refused.add(f"what {_CUT_OFF}", archive.name if isinstance(archive.name, str) else "archive")


class TarSource(RandomAccess):
    """A tar archive that is not compressed."""

    def __init__(self, path: Path) -> None:
        """Read its list of members."""
        self.name, self.refused, self._path = _name_of(path), SkipReport(), path
        self._places: dict[str, tuple[int, int]] = {}
        with tarfile.open(path, "r:") as archive:
            for name, member in _members(archive, self.refused):
                self._places[name] = (member.offset_data, member.size)
        self._file = path.open("rb")
        self.sizes = {name: size for name, (_, size) in self._places.items()}

    def close(self) -> None:
        """See `RandomAccess`."""
        self._file.close()

    @contextmanager
    def stream(self, path: str) -> Iterator[BinaryIO]:
        """See `Source`."""
        with self._path.open("rb") as file:
            file.seek(self._places[path][0])
            yield file

    def place(self, path: str) -> tuple[str, int]:
        """See `Source`."""
        return str(self._path), self._places[path][0]

    def read(self, path: str) -> bytes:
        """See `Source`."""
        offset, size = self._places[path]
        self._file.seek(offset)
        content = self._file.read(size)
        if len(content) != size:
            raise Skipped(_CUT_OFF)
        return content


class CompressedTarSource:
    """A compressed tar archive. It is looked through once, then read once more for each pass."""

    def __init__(self, path: Path) -> None:
        """Look through it; what describes the models is kept in memory."""
        self.name, self.refused = _name_of(path), SkipReport()
        self._path = path
        self._kept: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        with self._open() as archive:
            for name, member in _members(archive, self.refused):
                self.sizes[name] = member.size
                if name.endswith(_DESCRIPTIONS) and member.size <= _LARGEST_DESCRIPTION:
                    self._keep(archive, name, member)

    def _open(self) -> tarfile.TarFile:
        mode: Literal["r|*"] = "r|*"
        return tarfile.open(self._path, mode)

    def _keep(self, archive: tarfile.TarFile, name: str, member: tarfile.TarInfo) -> None:
        content = _content(archive, member)
        if not isinstance(content, Skipped):
            self._kept[name] = content

    def close(self) -> None:
        """See `Source`."""
        self._kept.clear()

    @contextmanager
    def stream(self, path: str) -> Iterator[BinaryIO]:
        """See `Source`."""
        with self._open() as archive:
            for name, member in _members(archive, SkipReport()):
                if name == path:
                    yield cast(BinaryIO, archive.extractfile(member))
                    return
        raise FormatError(f"{self._path} has no {path}; download it again")

    def place(self, path: str) -> None:
        """See `Source`."""

    def read(self, path: str) -> bytes:
        """See `Source`."""
        if path not in self._kept:
            raise Skipped(f"is larger than {_LARGEST_DESCRIPTION // 1_000_000} MB, or damaged")
        return self._kept[path]

    def looked_into(
        self, paths: Sequence[str], look: Callable[[BinaryIO], bytes]
    ) -> Iterator[tuple[str, bytes | Skipped]]:
        """See `Source`. In the order of the archive, at the end what is behind a place where it is damaged."""
        missing = dict.fromkeys(paths)
        with self._open() as archive:
            for name, member in _members(archive, SkipReport()):
                if name in missing:
                    del missing[name]
                    yield name, _looked_into(archive, member, look)
        yield from ((path, Skipped(_CUT_OFF)) for path in missing)

    def groups(self, wanted: Sequence[Sequence[str]]) -> Iterator[tuple[int, Contents]]:
        """See `Source`. In the order of the archive, as far as groups are complete; at the end the others.

        Raises:
            FormatError: groups lie so scattered that too much would have to wait in memory.
        """
        group_of = {path: index for index, paths in enumerate(wanted) for path in paths}
        begun: dict[int, dict[str, bytes | Skipped]] = {index: {} for index in range(len(wanted))}
        waiting = 0
        with self._open() as archive:
            for name, member in _members(archive, SkipReport()):
                if (index := group_of.get(name)) not in begun or index is None:
                    continue
                begun[index][name] = _content(archive, member)
                waiting += member.size
                if len(begun[index]) == len(wanted[index]):
                    waiting -= sum(self.sizes[path] for path in wanted[index])
                    yield index, begun.pop(index)
                elif waiting > _MOST_WAITING:
                    raise FormatError(f"{self._path} is too scattered to be read compressed; unpack it to a plain tar")
        for index, contents in begun.items():
            yield index, {path: contents.get(path, Skipped(_CUT_OFF)) for path in wanted[index]}


def _looked_into(
    archive: tarfile.TarFile, member: tarfile.TarInfo, look: Callable[[BinaryIO], bytes]
) -> bytes | Skipped:
    try:
        return look(cast(BinaryIO, archive.extractfile(member)))
    except Skipped as reason:
        return reason
    except DAMAGED:
        return Skipped(_CUT_OFF)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | Skipped:
    try:
        file = archive.extractfile(member)
        content = file.read() if file else b""
    except DAMAGED:
        return Skipped(_CUT_OFF)
    return content if len(content) == member.size else Skipped(_CUT_OFF)
