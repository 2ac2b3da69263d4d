"""modelzoo-cache: list, verify and clear the caches of this user."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .._util import user_cache_folder
from ..errors import ArgumentError, FolderInUseError, unknown
from .app import Version, entry_point, new_app
from .display import print_table

CACHES = ("weights", "native", "cuda", "images")
_CLEARED = ("weights", "native", "cuda")  # without a name: what costs seconds to make again, and no download
_FAILED = 1  # exit status
_CONTENT = {
    "weights": "decoded files, measurements",
    "native": "compiled kernels",
    "cuda": "self-checks of GPUs",
    "images": "downloaded image datasets",
}
app = new_app("List, verify and clear the caches of this user.")
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[CACHE]...", help=f"{', '.join(CACHES)}.", show_default=False)
]


@dataclass(frozen=True)
class _Cache:
    """A cache folder and those of its files that are ours."""

    name: str
    folder: Path
    files: list[Path]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return sum(path.lstat().st_size for path in self.files)


@app.callback(epilog="Example: modelzoo-cache list")
def _common(version: Version = False) -> None:
    """List, verify and clear the caches of this user.

    Caches hold nothing that cannot be made or downloaded again.
    """


@app.command("list", epilog="Example: modelzoo-cache list")
def list_command(names: Names = None) -> None:
    """List the caches with their folders, numbers of files and sizes."""
    rows = [
        {
            "cache": cache.name,
            "folder": str(cache.folder),
            "files": f"{len(cache.files):,}",
            "MB": _megabytes(cache.size),
            "content": _CONTENT[cache.name],
        }
        for cache in _open_caches(names or CACHES)
    ]
    _print_rows(rows)


@app.command("verify", epilog="Example: modelzoo-cache verify")
def verify_command(names: Names = None) -> None:
    """Compare the hashes of all cached files. Nothing is changed: a damaged file is made again when it is needed.

    Exit status 0: no file is damaged. 1: a file is damaged, and named on stderr.
    """
    rows, damaged = [], []
    for cache in _open_caches(names or CACHES):
        check = _find_check(cache.name)
        states = {path: check(path) for path in cache.files} if check is not None else {}
        damaged += [path for path, state in states.items() if state == "damaged"]
        counts = {state: list(states.values()).count(state) for state in ("intact", "damaged", "unused")}
        is_loaded = check is None and cache.files  # images have published checksums
        note = _CONTENT[cache.name] if states else "checked when loaded" if is_loaded else "nothing to check"
        rows.append({"cache": cache.name, **counts, "note": note})
    _print_rows(rows)
    for path in damaged:
        typer.echo(f"modelzoo-cache: {path} is damaged; it is made again when it is needed", err=True)
    if damaged:
        raise typer.Exit(_FAILED)


@app.command("clear", epilog="Example: modelzoo-cache clear weights")
def clear_command(names: Names = None) -> None:
    """Delete the files of caches: of all but the downloaded images, unless caches are named.

    Other files in the folders stay.
    """
    for cache in _open_caches(names or _CLEARED):
        size = cache.size
        for path in cache.files:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        print(f"{cache.folder}: {len(cache.files):,} files deleted, {_megabytes(size)} MB")


def _open_caches(names: Sequence[str]) -> list[_Cache]:
    for name in names:
        if name not in CACHES:
            raise ArgumentError(unknown("cache", name, CACHES))
    return [_open_cache(name) for name in names]


def _open_cache(name: str) -> _Cache:
    if name == "weights":
        from ..loading import cache_folder, list_cache_files

        return _Cache(name, cache_folder(), list_cache_files())
    folder = user_cache_folder(name)
    if name == "images" and folder.is_symlink():
        raise FolderInUseError(f"{folder} is a link to {folder.resolve()}, which is left alone; look there yourself")
    patterns = {"native": ("*.so", ".building-*/*"), "cuda": ("self-check-*.json",), "images": ("**/*",)}[name]
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_symlink() or path.is_file()}
    return _Cache(name, folder, sorted(files))


def _find_check(name: str) -> Callable[[Path], str] | None:
    """Return the function that tells the state of a file of a cache; None for files that are checked otherwise."""
    if name == "weights":
        from ..loading import check_cache_file

        return check_cache_file
    if name == "native":
        from ..engines import check_library

        return check_library
    if name == "cuda":
        from ..engines import check_result

        return check_result
    return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _print_rows(rows: Sequence[dict[str, Any]]) -> None:
    import pandas as pd

    print_table(pd.DataFrame(rows))


main = entry_point(app)
