"""Files from their official servers: whole and with the right checksum, or not there at all."""

import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from .._util import one_line
from ..errors import MissingImagesError

_TIMEOUT = 60  # seconds without a byte, after which a server is given up
_CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Source:
    """A file as its authors publish it."""

    dataset: str  # as people write it
    url: str
    md5: str

    def missing(self, path: Path, reason: object) -> MissingImagesError:
        """The file is neither there nor to be downloaded."""
        return MissingImagesError(
            f"{self.dataset}: {path} is missing, and downloading it from {self.url} failed ({one_line(reason)}); "
            "put it there, or name the folder it lies in with --images-root"
        )

    def damaged(self, what: Path | str, reason: object, *, remove: Path | None = None) -> MissingImagesError:
        """What is there is not what was published; `remove` holds it, if it cannot be had again alone."""
        return MissingImagesError(
            f"{self.dataset}: {what} is damaged ({one_line(reason)}); "
            f"remove {'it' if remove in (what, None) else remove} to get it again from {self.url}"
        )


def fetch(source: Source, path: Path) -> None:
    """Make sure that there is a file at `path`: one that is there is left as it is, a missing one is downloaded.

    Raises:
        MissingImagesError: the download failed or has another checksum; nothing is left behind.
    """
    if path.exists():
        return
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(source.url, partial)
        if wrong := _wrong_md5(partial, source.md5):
            raise OSError(wrong)
        partial.replace(path)
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection open
        raise source.missing(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def fetch_unpacked(source: Source, archive: Path, names: Sequence[str]) -> None:
    """Make sure that the named files of a tar archive lie beside it; what is missing is unpacked, each file whole.

    The archive is downloaded only where a file is missing, and kept.

    Raises:
        MissingImagesError: the archive is missing or damaged, or there is no room for its files.
    """
    missing = {name for name in names if not (archive.parent / name).exists()}
    if not missing:
        return
    fetch(source, archive)
    check_md5(source, archive, source.md5)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name in missing and member.isfile():
                    _unpack(tar, member, archive.parent / member.name)
                    missing.remove(member.name)
                if not missing:
                    return
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise MissingImagesError(
            f"{source.dataset}: cannot unpack {archive} ({one_line(error)}); unpack it there by hand"
        ) from error
    raise source.damaged(archive, f"it holds no {min(missing)}")


def check_md5(source: Source, path: Path, md5: str) -> None:
    """Raise MissingImagesError where a file is not the published one."""
    if wrong := _wrong_md5(path, md5):
        raise source.damaged(path, wrong)


def _wrong_md5(path: Path, md5: str) -> str | None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if found == md5 else f"its MD5 checksum is {found} instead of {md5}"


def _download(url: str, path: Path) -> None:
    with _bars() as bars, urlopen(Request(url, headers={"User-Agent": "modelzoo-datasets"}), timeout=_TIMEOUT) as reply:
        size = reply.headers.get("Content-Length")
        task = bars.add_task(url, total=int(size) if size else None)
        with path.open("wb") as file:
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
                bars.advance(task, len(chunk))
            if size and file.tell() != int(size):
                raise OSError(f"the connection ended after {file.tell():,} of {int(size):,} bytes")


def _bars() -> Progress:
    """A bar for who watches a terminal; these are up to gigabytes."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    content = tar.extractfile(member)
    assert content is not None  # it is a file
    try:
        with content, partial.open("wb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    # Never the same: several may want the same images at once, and the last to rename does no harm.
    return path.with_name(f".{path.name}.{uuid4().hex}.partial")
