"""Decompression of files that somebody else made, into memory or onto the disk, up to a limit."""

import bz2
import gzip
import io
import logging
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..progress import Progress
from ..zoo import memory_limit

_LOGGER = logging.getLogger(__name__)
_CHUNK = 2**16  # bytes read at once: a read that fails loses what it had decompressed before
_MAX_RATIO = 200  # bytes on the disk that a compressed byte may become: text compresses less, a bomb more
_XZ_MEMORY = 500_000_000  # bytes that a decoder may take; `xz -9` needs 65 MB
# Raised by readers of archives and compressed files that are damaged, encrypted, or packed in an unknown way.
DAMAGED = (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError)


class _XzFile(io.RawIOBase):
    """The content of an xz file, as `lzma.open` reads it, with a limit for the memory of the decoder."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._decoder, self._rest = self._make_decoder(), b""

    @staticmethod
    def _make_decoder() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def read1(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        while True:
            if self._decoder.eof:  # the next of several streams, perhaps behind padding
                rest = (self._decoder.unused_data or self._file.read(_CHUNK)).lstrip(b"\0")
                if not rest:
                    return b""
                self._decoder, self._rest = self._make_decoder(), rest
            if self._decoder.needs_input and not self._rest and not (rest := self._file.read(_CHUNK)):
                raise EOFError("the file is cut off")
            elif self._decoder.needs_input and not self._rest:
                self._rest = rest
            chunk = self._decoder.decompress(self._rest, size)
            self._rest = b""
            if chunk:
                return chunk

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


_FORMATS: dict[bytes, Callable[[Path], Any]] = {  # first bytes of a compressed file -> its reader
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": _XzFile,
    b"BZh": bz2.open,
}


def decompress_tar(path: Path, out: Path, progress: Progress) -> bool:
    """Decompress a file as `decompress` does; raises tarfile.TarError for a file that is not compressed."""
    with path.open("rb") as file:
        head = file.read(8)
    for magic, open_compressed in _FORMATS.items():
        if head.startswith(magic):
            with open_compressed(path) as packed:
                return decompress(packed, path.name, path.stat().st_size, out, progress)
    raise tarfile.ReadError("it is neither a tar nor compressed by gzip, bzip2 or xz")


def decompress(packed: Any, name: str, size: int, out: Path, progress: Progress) -> bool:
    """Write decompressed bytes to a file, up to a place where they are damaged.

    Args:
        packed: Reader of the decompressed bytes.
        name: The compressed file, for messages.
        size: Its size in bytes.
        out: The file to write.
        progress: Display of the bytes.

    Returns:
        False where a place is damaged.

    Raises:
        FormatError: The bytes are more than the disk or the limit allow.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    limit, written = min(_MAX_RATIO * size, shutil.disk_usage(out.parent).free), 0
    _LOGGER.info("decompressing %s (%s bytes) into a temporary file beside the output folder", name, f"{size:,}")
    with out.open("wb") as target, progress.start(f"decompressing {name}", None) as task:
        while True:
            try:
                chunk = packed.read1(_CHUNK)
            except DAMAGED:
                return False
            if not chunk:
                return True
            written += len(chunk)
            if written > limit:
                raise FormatError(
                    f"{name} decompresses to more than {limit:,} bytes, the limit of {_MAX_RATIO} times its size or of "
                    "the free disk space; free some space, or unpack it to a plain tar or a folder yourself"
                )
            target.write(chunk)
            task.update(len(chunk))


def gunzip(content: bytes, name: str) -> bytes:
    """Return the content of a gzip file.

    Args:
        content: The compressed bytes.
        name: The file, for the message.

    Raises:
        FormatError: It is larger than a table in a file of this size can be.
    """
    limit = memory_limit(len(content)) // 4  # a table takes several times its text
    with gzip.open(io.BytesIO(content)) as file:
        result: bytes = file.read(limit + 1)
    if len(result) > limit:
        raise FormatError(f"{name} decompresses to more than {limit:,} bytes, the limit for its size; do not trust it")
    return result
