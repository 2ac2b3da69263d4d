"""The files of the cache, listed and checked without the datasets that they were made from."""

from enum import StrEnum
from pathlib import Path

from ..errors import FormatError
from ..zoo import SafetensorsHeader
from .cache import cache_folder, is_cache_file
from .cached_shard import CachedShard, DamagedEntryError
from .cached_tensor import read_cached_tensor


class EntryState(StrEnum):
    """The state of a file of the cache."""

    INTACT = "intact"
    DAMAGED = "damaged"
    UNUSED = "unused"  # an earlier release wrote it, or it was never finished


def list_cache_files() -> list[Path]:
    """Return all files of the cache; other files in its folder are not listed."""
    folder = cache_folder()
    return sorted(path for path in folder.iterdir() if is_cache_file(path)) if folder.is_dir() else []


def check_cache_file(path: Path) -> EntryState:
    """Compare all hashes of a file of the cache; it is not changed."""
    if path.suffix != ".safetensors":
        return EntryState.UNUSED
    try:
        names = SafetensorsHeader.read(path).tensors.keys()
        if "hashes" not in names:
            return EntryState.UNUSED if names in ({"table", "weights"}, {"kept"}) else EntryState.DAMAGED
        if "table" in names:
            CachedShard.open(path).check()
        else:
            read_cached_tensor(path)
    except (FormatError, DamagedEntryError, OSError):
        return EntryState.DAMAGED
    return EntryState.INTACT
