"""The cache of decoded Parquet files: decoding a file costs many times a copy of its numbers, so it is done once.

Every Parquet file that was read whole has one safetensors file in the cache folder, named by a hash of the path, size
and times of its source. The file holds three memory-mapped tensors: `table`, an Arrow stream of all columns except the
weights, `weights`, and `hashes`: of everything up to the weights, then of every block of weights. A changed source
hashes to another name, so a stale entry is never read. A damaged entry is deleted with a line, and its source decoded
again. When the cache is full, the least recently used entries are deleted.

MODELZOO_CACHE         the folder; `modelzoo-datasets/weights` in the user's cache folder by default
MODELZOO_CACHE_BYTES   the maximum size of the cache in bytes; 20 GB by default, and 0 turns the cache off
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from .._util import user_cache_folder
from ..errors import ArgumentError, DiskFullError
from ..zoo import AtomicFile, SafetensorsHeader, is_private
from .block_hashes import hash_blocks, rows_per_block
from .cached_shard import CachedShard, DamagedEntryError, encode_head

_log = logging.getLogger(__name__)
_FORMAT = "table, weights and hashes"  # part of every hash: releases with another format read other files
_FILE_NAME = re.compile(  # an entry, a partial file, and a partial file of an earlier release
    r"[0-9a-f]{32}\.safetensors|\.[0-9a-f]{32}\.safetensors\.\d+-[0-9a-f]{8}\.partial"
    r"|[0-9a-f]{32}-[0-9a-f]{32}|\.[0-9a-f]{32}-[0-9a-f]{32}\.partial"
)
_MIN_BYTES = 8_000_000  # smaller weights are decoded faster than a cache file is found and opened
_DEFAULT_MAX_BYTES = 20_000_000_000
_RESERVED_BYTES = 5_000_000_000  # left free on the disk for other programs
_ABANDONED_SECONDS = 24 * 3600.0  # an unfinished file of this age belongs to a process that was killed


def cache_folder() -> Path:
    """Return the folder of the cache, which may not exist yet."""
    return Path(os.environ.get("MODELZOO_CACHE") or user_cache_folder("weights"))


def is_cache_used() -> bool:
    """Tell whether the cache is turned on, and its folder private; why it is not private is logged.

    Raises:
        ArgumentError: MODELZOO_CACHE_BYTES is not a number of bytes.
    """
    return max_cache_bytes() > 0 and is_private(cache_folder())


def remove_damaged(path: Path, reason: object) -> None:
    """Delete an entry that is damaged, with a line."""
    _log.warning("%s in the cache is damaged (%s); it is removed and made again", path, reason)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def is_cache_file(path: Path) -> bool:
    """Tell by its name whether a file belongs to the cache; the user may have chosen a folder that holds others."""
    return _FILE_NAME.fullmatch(path.name) is not None


def max_cache_bytes() -> int:
    """Return the maximum size of the cache in bytes.

    Raises:
        ArgumentError: MODELZOO_CACHE_BYTES is not a number of bytes.
    """
    text = os.environ.get("MODELZOO_CACHE_BYTES", "").strip()
    if text and not text.isdecimal():
        raise ArgumentError(f"MODELZOO_CACHE_BYTES must be a number of bytes, e.g. 20000000000; got {text!r}")
    return int(text) if text else _DEFAULT_MAX_BYTES


def make_room(nbytes: int) -> bool:
    """Delete the least recently used entries until the cache has room for a new file.

    Args:
        nbytes: The size of the new file.

    Returns:
        False if the file does not fit into the cache or onto the disk.

    Raises:
        OSError: The folder cannot be made or listed.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return shutil.disk_usage(folder).free >= nbytes + _RESERVED_BYTES and _evict_entries(folder, nbytes)


@dataclass(frozen=True)
class CacheEntry:
    """The place of a Parquet file in the cache, whether or not its entry exists."""

    source: Path
    identity: str  # identifies the content of the source, unless somebody sets a clock back

    @classmethod
    def from_file(cls, source: Path) -> "CacheEntry | None":
        """Return the entry of a file as it is now, or None if the cache is turned off."""
        return cls(source, _identify_content(source)) if is_cache_used() else None

    @property
    def path(self) -> Path:
        """The path of the entry in the cache."""
        return cache_folder() / f"{hashlib.sha256(f'{_FORMAT} {self.identity}'.encode()).hexdigest()[:32]}.safetensors"

    def read(self) -> CachedShard | None:
        """Map the entry and mark it as recently used; return None if it is missing or damaged.

        Its weights are checked when they are copied.
        """
        try:
            shard = CachedShard.open(self.path)
            os.utime(self.path)
        except OSError:
            return None
        except DamagedEntryError as error:
            remove_damaged(self.path, error)
            return None
        return shard

    def open_writer(self, table: pa.Table, num_parameters: int) -> "CacheWriter | None":
        """Create the entry of a table, to which all weights (n, P) are added later.

        Args:
            table: All rows of the source, without their weights.
            num_parameters: P, the numbers of a state.

        Returns:
            The writer, or None if the weights are too small for a gain or the cache has no room for them.
        """
        nbytes = 4 * len(table) * num_parameters
        if nbytes < _MIN_BYTES:
            return None
        try:
            head = encode_head(self.identity, table, num_parameters)
            size = SafetensorsHeader.parse(head).file_size
            return CacheWriter(self, head, len(table), num_parameters) if make_room(size) else None
        except (OSError, DiskFullError):
            return None


class CacheWriter:
    """Writes an entry of the cache, visible to readers once all rows are there; its errors never fail a load."""

    def __init__(self, entry: CacheEntry, head: bytes, num_rows: int, num_parameters: int) -> None:
        """Begin the file of an entry.

        Args:
            entry: The entry to write.
            head: The file up to the weights.
            num_rows: The number of rows of weights to come.
            num_parameters: P, the numbers of a row.

        Raises:
            OSError: The file cannot be created.
            DiskFullError: The disk has no room for the head.
        """
        self._entry, self._lock, self._missing, self._weights_offset = entry, threading.Lock(), num_rows, len(head)
        self._end = len(head) + 4 * num_rows * num_parameters
        self._block_bytes = 4 * num_parameters * rows_per_block(4 * num_parameters)
        # Two processes may write the same entry: each has its own partial file, and the last one to finish stays.
        self._file: AtomicFile | None = AtomicFile(entry.path)
        self._write(0, head)

    def add(self, first_row: int, rows: np.ndarray) -> None:
        """Write rows (n, P) from `first_row` on; every row must be written exactly once."""
        with self._lock:
            self._write(self._weights_offset + 4 * first_row * rows.shape[1], np.ascontiguousarray(rows).data.cast("B"))
            self._missing -= len(rows)
            if not self._missing:
                self._publish()

    def _write(self, offset: int, content: bytes | memoryview) -> None:
        if self._file is not None:
            try:
                self._file.write(content, offset)
            except (OSError, DiskFullError):
                self.discard()

    def _publish(self) -> None:
        """Move the file into place, unless its source was replaced while it was decoded."""
        try:
            if self._file is None or _identify_content(self._entry.source) != self._entry.identity:
                return self.discard()
            self._file.write(self._hash_content(self._file), self._end)
            self._file.commit()
            self._file = None
        except (OSError, DiskFullError):
            self.discard()

    def _hash_content(self, file: AtomicFile) -> bytes:
        """Return the tensor `hashes` of the file as it is now."""
        with file.map() as content:
            head, weights = content[: self._weights_offset], content[self._weights_offset : self._end]
            hashes = hash_blocks(head, len(head)), hash_blocks(weights, self._block_bytes)
            head.release()
            weights.release()
        return np.concatenate(hashes).tobytes()

    def discard(self) -> None:
        """Delete everything that was not published."""
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            if file is not None:
                file.discard()


def _identify_content(source: Path) -> str:
    """Return a text that changes with the content of a file; links of the Hub's cache resolve to a content hash."""
    real = source.resolve()
    stat = real.stat()
    # Copying tools may set the time of modification (mtime), but not that of the last change of any kind (ctime).
    return f"{real} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _evict_entries(folder: Path, nbytes: int) -> bool:
    """Delete the least recently used entries until `nbytes` more fit; return False if they never will.

    Only files with a name of this cache are deleted: the user may have chosen a folder that holds other files.
    """
    own = (path for path in folder.iterdir() if is_cache_file(path))
    entries = sorted(((path.stat(), path) for path in own), key=lambda entry: entry[0].st_mtime)
    room = max_cache_bytes() - nbytes
    if room < 0:
        return False
    newest = max((stat.st_mtime for stat, _ in entries), default=0.0)
    total = sum(stat.st_size for stat, _ in entries)
    for stat, path in entries:
        unfinished = path.suffix != ".safetensors"
        if unfinished and newest - stat.st_mtime < _ABANDONED_SECONDS:
            continue
        if total > room or unfinished:
            path.unlink(missing_ok=True)
            total -= stat.st_size
    return total <= room
