"""Small functions that several rooms need: text, names, versions, checksums, cache folders and prefetching.

This module imports neither torch nor numpy, so that a `--help` costs next to nothing.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import platformdirs

_T = TypeVar("_T")

SPLITS = ("train", "validation", "test")
METRIC_PREFIX = {"train": "train", "validation": "val", "test": "test"}  # split -> prefix of its columns, `val_acc`
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_INVALID_ON_HUB = re.compile(r"[<>:/\\|?*]|^data$")


def one_line(error: object) -> str:
    """Return the text of an error on one line, or the name of its class where it has no text.

    Args:
        error: An exception, or any object whose text may contain line breaks.
    """
    return " ".join(str(error).split()) or type(error).__name__


def natural_key(text: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that compares runs of digits as numbers, so that layer 9 comes before layer 10."""
    parts = (part for part in re.split(r"(\d+)", text) if part)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def versions() -> dict[str, str]:
    """Return the versions of the packages that can change the bits of a training: this one and torch."""
    return {name: version(name) for name in ("modelzoo-datasets", "torch")}


def format_versions(numbers: Mapping[str, str]) -> str:
    """Return package versions as text, e.g. "modelzoo-datasets 0.1.0, torch 2.15.0"."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_recipe_name(name: str) -> bool:
    """Tell whether a name consists of ASCII letters, digits, `_`, `.` and `-`, and begins with a letter or digit."""
    return _NAME.fullmatch(name) is not None


def is_config_name(name: str) -> bool:
    """Tell whether a config may have this name; the ending `_index` is reserved for the table without weights."""
    return is_recipe_name(name) and not name.endswith("_index")


def is_config_name_on_hub(name: str) -> bool:
    """Tell whether `datasets` and the Hub accept this name of a config, which may come from another tool."""
    return _INVALID_ON_HUB.search(name) is None


def user_cache_folder(name: str) -> Path:
    """Return a cache folder of this package, e.g. `~/.cache/modelzoo-datasets/NAME` on Linux; it may not exist yet.

    Args:
        name: `images`, `weights` (decoded Parquet files) or `native` (compiled kernels).
    """
    return platformdirs.user_cache_path("modelzoo-datasets", appauthor=False) / name


def prefetch(items: Iterator[_T]) -> Iterator[_T]:
    """Yield the same items, while a background thread makes the next one.

    Args:
        items: Any items but None. At most one is made ahead of the one in use.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item
