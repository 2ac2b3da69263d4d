"""Parquet files, kept decoded: reading one costs many times what copying its numbers does, but only once.

A Parquet file that was read whole lies as one safetensors file in a cache folder, under the name of what it was decoded
from: path, size and times of the file. It holds `table`, all columns but the weights as an Arrow stream, and `weights`;
both are mapped, so no more is read than the rows that are wanted. A file that was changed has another name; what is
kept under the old one is never read again, and goes with what was used longest ago when the cache is full.

MODELZOO_CACHE         the folder; `modelzoo-datasets/weights` in the user's cache folder if not set
MODELZOO_CACHE_BYTES   how much may lie there, 20 GB if not set; 0 keeps nothing
"""

import contextlib
import hashlib
import json
import mmap
import os
import re
import shutil
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from .._util import user_cache_folder
from ..errors import DiskFullError, FormatError
from ..zoo import NewFile

_FORMAT = "table and weights"  # part of the names: what another release kept in another way is not taken for it
_OWN = re.compile(r"[0-9a-f]{32}\.safetensors|[0-9a-f]{32}-[0-9a-f]{32}|\.[0-9a-f]{32}-[0-9a-f]{32}\.partial")
_SMALLEST = 8_000_000  # bytes: less than this is decoded sooner than a file is found and opened
_MOST = 20_000_000_000
_SPARE = 5_000_000_000  # bytes of the disk that are left to others
_ABANDONED = 24 * 3600.0  # seconds after which a file in the making is of a process that was killed


def cache_folder() -> Path:
    """Where decoded weights are kept."""
    return Path(os.environ.get("MODELZOO_CACHE") or user_cache_folder("weights"))


def max_cache_bytes() -> int:
    """How many bytes may be kept.

    Raises:
        FormatError: MODELZOO_CACHE_BYTES is not a number of bytes.
    """
    text = os.environ.get("MODELZOO_CACHE_BYTES", "").strip()
    if text and not text.isdecimal():
        raise FormatError(f"MODELZOO_CACHE_BYTES must be a number of bytes, got {text!r}")
    return int(text) if text else _MOST


def make_room(size: int) -> bool:
    """Whether so many bytes more may be kept, when what was used longest ago has gone; raises OSError."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return shutil.disk_usage(folder).free >= size + _SPARE and _made_room(folder, size)


@dataclass(frozen=True)
class CachedShard:
    """One Parquet file decoded, mapped: rows are to be copied from it, as other processes may delete it."""

    table: pa.Table  # all columns but the weights
    weights: np.ndarray  # (n, P) float32


@dataclass(frozen=True)
class CacheEntry:
    """The place in the cache of one Parquet file, whether or not there is anything."""

    source: Path
    identity: str  # of its content, as long as nobody sets a clock back

    @classmethod
    def of(cls, source: Path) -> "CacheEntry | None":
        """The place of a file as it is now; None where nothing is kept."""
        return cls(source, _identity(source)) if max_cache_bytes() else None

    @property
    def path(self) -> Path:
        """The file in the cache."""
        return cache_folder() / f"{hashlib.sha256(f'{_FORMAT} {self.identity}'.encode()).hexdigest()[:32]}.safetensors"

    def read(self) -> CachedShard | None:
        """What is kept, which counts as used now; None where there is nothing, or it is not whole."""
        try:
            with self.path.open("rb") as file:
                content = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            begin = 8 + int.from_bytes(content[:8], "little")
            table, weights = (json.loads(content[8:begin].to_pybytes())[name] for name in ("table", "weights"))
            places = [[begin + offset for offset in tensor["data_offsets"]] for tensor in (table, weights)]
            numbers = np.frombuffer(content[slice(*places[1])], "<f4").reshape(weights["shape"])
            rows = pa.ipc.open_stream(content[slice(*places[0])]).read_all()
            rows.validate()
            os.utime(self.path)
        except (OSError, ValueError, LookupError, TypeError, pa.ArrowException):
            return None
        return CachedShard(rows, numbers) if len(rows) == len(numbers) and places[1][1] == len(content) else None

    def begin(self, table: pa.Table, parameters: int) -> "CacheWriter | None":
        """Begin to write it, the weights (n, P) of all rows of the table to come; None where it is not worth it.

        That is where it is too small to gain anything, or there is no room.
        """
        nbytes = 4 * len(table) * parameters
        if nbytes < _SMALLEST:
            return None
        try:
            begin = _begin(self.identity, table, parameters)
            return CacheWriter(self, begin, len(table)) if make_room(len(begin) + nbytes) else None
        except (OSError, DiskFullError):
            return None


def _begin(identity: str, table: pa.Table, parameters: int) -> bytes:
    """All of a safetensors file but the weights, which follow at a multiple of 64 bytes, as does the table in it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    rows = sink.getvalue().to_pybytes()
    rows += bytes(-len(rows) % 64)  # behind its end mark, where no reader looks
    end = len(rows) + 4 * len(table) * parameters
    tensors = {
        "__metadata__": {"decoded from": identity},
        "table": {"dtype": "U8", "shape": [len(rows)], "data_offsets": [0, len(rows)]},
        "weights": {"dtype": "F32", "shape": [len(table), parameters], "data_offsets": [len(rows), end]},
    }
    text = json.dumps(tensors).encode()
    text += b" " * (-(8 + len(text)) % 64)
    start: bytes = len(text).to_bytes(8, "little") + text + rows
    return start


class CacheWriter:
    """Decoded weights on their way into the cache, in place once all are there; what fails here fails no load."""

    def __init__(self, entry: CacheEntry, begin: bytes, rows: int) -> None:
        """Begin a file with all that comes before the weights of so many rows; raises OSError or DiskFullError."""
        self._entry, self._lock, self._missing, self._first = entry, threading.Lock(), rows, len(begin)
        # Two processes may be at it: each writes a file of its own, and the last one stays.
        self._path = entry.path.with_name(f"{entry.path.stem}-{uuid.uuid4().hex}")
        self._file: NewFile | None = NewFile(self._path)
        self._write(0, begin)

    def add(self, first: int, rows: np.ndarray) -> None:
        """Write rows (n, P) that begin with this one; every row once."""
        with self._lock:
            self._write(self._first + 4 * first * rows.shape[1], np.ascontiguousarray(rows).data.cast("B"))
            self._missing -= len(rows)
            if not self._missing:
                self._place()

    def _write(self, offset: int, content: bytes | memoryview) -> None:
        if self._file is not None:
            try:
                self._file.write(content, offset)
            except (OSError, DiskFullError):
                self.discard()

    def _place(self) -> None:
        """Unless the file that it was decoded from is another one by now."""
        try:
            if self._file is None or _identity(self._entry.source) != self._entry.identity:
                return self.discard()
            self._file.place()
            self._file = None
            self._path.replace(self._entry.path)
        except (OSError, DiskFullError):
            self.discard()

    def discard(self) -> None:
        """Leave nothing behind of what is not in place."""
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            if file is not None:
                file.discard()
            self._path.unlink(missing_ok=True)


def _identity(source: Path) -> str:
    """Which content a path has: one of the Hub's cache leads to a file that is named by its content."""
    real = source.resolve()
    found = real.stat()
    # The time of the last change of any kind is nothing that copying tools set.
    return f"{real} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _made_room(folder: Path, size: int) -> bool:
    """Whether that many bytes more may be kept, when what was used longest ago has gone.

    Nothing goes that has no name of this cache: the folder may be one that holds other things.
    """
    own = (path for path in folder.iterdir() if _OWN.fullmatch(path.name))
    entries = sorted(((path.stat(), path) for path in own), key=lambda entry: entry[0].st_mtime)
    room = max_cache_bytes() - size
    if room < 0:
        return False
    newest = max((stat.st_mtime for stat, _ in entries), default=0.0)
    total = sum(stat.st_size for stat, _ in entries)
    for stat, path in entries:
        in_the_making = path.suffix != ".safetensors"
        if in_the_making and newest - stat.st_mtime < _ABANDONED:
            continue
        if total > room or in_the_making:
            path.unlink(missing_ok=True)
            total -= stat.st_size
    return total <= room
