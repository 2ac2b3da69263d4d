"""Downloads from official servers: a file is complete with the right checksum, or does not exist."""

import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

from rich.console import Console
from rich.progress import wrap_file

from .._util import one_line
from ..errors import MissingImagesError

_TIMEOUT = 60  # seconds without a byte after which a download fails
_CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Download:
    """A file as its authors publish it."""

    dataset: str  # name of the dataset in messages
    url: str
    md5: str

    def missing_error(self, path: Path, reason: object) -> MissingImagesError:
        """Return the error for a file that is missing and cannot be downloaded."""
        return MissingImagesError(
            f"{self.dataset}: {path} is missing, and downloading it from {self.url} failed ({one_line(reason)}); "
            "put it there, or pass its folder with --images-root"
        )

    def damage_error(self, what: Path | str, reason: object, *, remove: Path | None = None) -> MissingImagesError:
        """Return the error for a file that differs from the published one.

        Args:
            what: The damaged file, or its description.
            reason: How the file differs.
            remove: The file to remove and download again, if it is not `what`.
        """
        return MissingImagesError(
            f"{self.dataset}: {what} is damaged ({one_line(reason)}); "
            f"remove {'it' if remove in (what, None) else remove} to get it again from {self.url}"
        )


def fetch(download: Download, path: Path) -> None:
    """Download a file to `path`, unless a file exists there.

    Raises:
        MissingImagesError: The download failed or has another checksum. No partial file remains.
    """
    if path.exists():
        return
    try:
        with _replace_at_end(path) as partial:
            _download(download.url, partial)
            if mismatch := _compare_md5(partial, download.md5):
                raise OSError(mismatch)
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # or the connection stays open
        raise download.missing_error(path, error) from error


def fetch_unpacked(download: Download, archive: Path, names: Sequence[str]) -> None:
    """Unpack the named files of a tar archive beside it, unless they exist.

    The archive is downloaded only if a file is missing, and is kept.

    Args:
        download: The archive as published.
        archive: The path of the archive on disk.
        names: The names of its members.

    Raises:
        MissingImagesError: The archive is missing or damaged, or the disk is full.
    """
    missing = {name for name in names if not (archive.parent / name).exists()}
    if not missing:
        return
    fetch(download, archive)
    check_md5(download, archive, download.md5)
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
            f"{download.dataset}: cannot unpack {archive} ({one_line(error)}); unpack it there by hand"
        ) from error
    raise download.damage_error(archive, f"it holds no {min(missing)}")


def check_md5(download: Download, path: Path, md5: str) -> None:
    """Raise MissingImagesError if a file is not the published one."""
    if mismatch := _compare_md5(path, md5):
        raise download.damage_error(path, mismatch)


def _compare_md5(path: Path, md5: str) -> str | None:
    """Return how the checksum of a file differs, or None if it is equal."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if actual == md5 else f"its MD5 checksum is {actual} instead of {md5}"


def _download(url: str, path: Path) -> None:
    """Write the content of a URL to a file, with a progress bar in a terminal; downloads have up to gigabytes."""
    console = Console(stderr=True)
    with urlopen(Request(url, headers={"User-Agent": "modelzoo-datasets"}), timeout=_TIMEOUT) as reply:
        size = int(reply.headers.get("Content-Length") or 0)
        bar = wrap_file(reply, size, description=url, console=console, transient=True, disable=not console.is_terminal)
        with bar as content, path.open("wb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
    if size and (received := path.stat().st_size) != size:
        raise OSError(f"the connection ended after {received:,} of {size:,} bytes")


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None  # the member is a regular file
    with content, _replace_at_end(path) as partial, partial.open("wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)


@contextmanager
def _replace_at_end(path: Path) -> Iterator[Path]:
    """Give a path to write to. The file is moved to `path` at the end of the block, and deleted after an error."""
    # A unique name: several processes may download the same file, and each rename is atomic.
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
