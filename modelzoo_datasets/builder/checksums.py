"""Checksums of a dataset folder, in the format of `sha256sum -c`."""

import re
from collections.abc import Iterator
from pathlib import Path

from .._util import file_sha256
from ..errors import FormatError
from ..zoo import write_bytes

CHECKSUMS_FILE = "checksums.sha256"
_UNLISTED = ("README.md", CHECKSUMS_FILE)  # the text of a card may be mended, on the Hub too
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_checksums(folder: Path) -> None:
    """List every file of a dataset folder but its card; hidden ones are no part of it."""
    lines = [f"{file_sha256(folder / path)}  {path}\n" for path in data_files(folder)]
    write_bytes(folder / CHECKSUMS_FILE, "".join(lines).encode())


def read_checksums(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of what a folder should hold; raises FormatError where its list is missing or malformed."""
    path = folder / CHECKSUMS_FILE
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot read {path}: {error}") from error
    found = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise FormatError(f"{path} is no list of checksums: {line[:80]!r}")
        found[match[2]] = match[1]
    return found


def data_files(folder: Path) -> Iterator[str]:
    """The files that are listed, in their order."""
    for path in sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        if path.as_posix() not in _UNLISTED and not any(part.startswith(".") for part in path.parts):
            yield path.as_posix()
