"""Decoded weights, kept: reading Parquet costs several times what copying its numbers does, but only once.

The weights of a Parquet file that was read whole lie as one safetensors file in a cache folder, under the name of what
they were decoded from: path, size and times of the file. A file that was changed has another name; what is kept under
the old one is never read again, and goes with what was used longest ago when the cache is full.

MODELZOO_CACHE         the folder; `modelzoo-datasets/weights` in the user's cache folder if not set
MODELZOO_CACHE_BYTES   how much may lie there, 20 GB if not set; 0 keeps nothing
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import DiskFullError, FormatError
from ..states.files import NewFile

_SMALLEST = 8_000_000  # bytes: less than this is decoded sooner than a file is found and opened
_MOST = 20_000_000_000
_SPARE = 5_000_000_000  # bytes of the disk that are left to others
_ABANDONED = 24 * 3600.0  # seconds after which a file in the making is of a process that was killed


def cache_folder() -> Path:
    """Where decoded weights are kept."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("MODELZOO_CACHE") or root / "modelzoo-datasets" / "weights")


def most_bytes() -> int:
    """How many bytes may be kept.

    Raises:
        FormatError: MODELZOO_CACHE_BYTES is not a number of bytes.
    """
    text = os.environ.get("MODELZOO_CACHE_BYTES", "").strip()
    if text and not text.isdecimal():
        raise FormatError(f"MODELZOO_CACHE_BYTES must be a number of bytes, got {text!r}")
    return int(text) if text else _MOST


def room_for(size: int) -> bool:
    """Whether so many bytes more may be kept, when what was used longest ago has gone; raises OSError."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return shutil.disk_usage(folder).free >= size + _SPARE and _made_room(folder, size)


@dataclass(frozen=True)
class Kept:
    """The decoded weights (n, P) of one Parquet file, kept or to be kept."""

    source: Path
    identity: str  # of its content, as long as nobody sets a clock back
    shape: tuple[int, int]

    @classmethod
    def of(cls, source: Path, shape: tuple[int, int]) -> "Kept | None":
        """What there is or may be of a file; None where it is too small to gain anything, or nothing is kept."""
        if not most_bytes() or 4 * shape[0] * shape[1] < _SMALLEST:
            return None
        return cls(source, _identity(source), shape)

    @property
    def path(self) -> Path:
        """The file in the cache."""
        return cache_folder() / f"{hashlib.sha256(self.header).hexdigest()[:32]}.safetensors"

    @cached_property
    def header(self) -> bytes:
        """What a safetensors file of these weights begins with; numbers follow at a multiple of 8 bytes."""
        count = 4 * self.shape[0] * self.shape[1]
        tensor = {"dtype": "F32", "shape": self.shape, "data_offsets": [0, count]}
        text = json.dumps({"__metadata__": {"decoded from": self.identity}, "weights": tensor}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def _size(self) -> int:
        return len(self.header) + 4 * self.shape[0] * self.shape[1]

    def there(self) -> bool:
        """Whether it can be read; if so it counts as used now."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_size == self._size:
                os.utime(self.path)
                return True
        return False

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` (n, P) with these rows, ascending; OSError where the file is gone or was cut meanwhile."""
        row_bytes = 4 * self.shape[1]
        ends = np.append(np.flatnonzero(np.diff(rows) != 1) + 1, len(rows)).tolist()
        with self.path.open("rb", buffering=0) as file:
            begin = 0
            for end in ends:  # rows that lie one behind the other are read at once
                file.seek(len(self.header) + int(rows[begin]) * row_bytes)
                rest = out[begin:end].data.cast("B")
                while rest:
                    if not (count := file.readinto(rest)):
                        raise OSError(f"{self.path} is too short")
                    rest = rest[count:]
                begin = end

    def begin(self) -> "Keeping | None":
        """Begin to write it; None where there is no room."""
        try:
            return Keeping(self) if room_for(self._size) else None
        except (OSError, DiskFullError):
            return None


class Keeping:
    """Decoded weights on their way into the cache, in place once all are there; what fails here fails no load."""

    def __init__(self, kept: Kept) -> None:
        """Begin an empty file; raises OSError or DiskFullError."""
        self._kept, self._lock, self._missing = kept, threading.Lock(), kept.shape[0]
        # Two processes may be at it: each writes a file of its own, and the last one stays.
        self._path = kept.path.with_name(f"{kept.path.stem}-{uuid.uuid4().hex}")
        self._file: NewFile | None = NewFile(self._path)
        self._write(0, kept.header)

    def add(self, first: int, rows: np.ndarray) -> None:
        """Write rows (n, P) that begin with this one; every row once."""
        with self._lock:
            offset = len(self._kept.header) + 4 * first * rows.shape[1]
            self._write(offset, np.ascontiguousarray(rows).data.cast("B"))
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
            if self._file is None or _identity(self._kept.source) != self._kept.identity:
                return self.discard()
            self._file.place()
            self._file = None
            self._path.replace(self._kept.path)
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
    """Whether that many bytes more may be kept, when what was used longest ago has gone."""
    entries = sorted(((path.stat(), path) for path in folder.iterdir()), key=lambda entry: entry[0].st_mtime)
    room = most_bytes() - size
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
