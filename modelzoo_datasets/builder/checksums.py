"""The checksums of a dataset folder, in the format of `sha256sum -c`."""

import re
from collections.abc import Iterator
from pathlib import Path

from .._util import file_sha256
from ..errors import FormatError
from ..zoo import write_bytes

CHECKSUMS_FILE = "checksums.sha256"
_UNLISTED = ("README.md", CHECKSUMS_FILE)  # users may edit the text of a card, also on the Hub
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of every file of a dataset folder but its card and hidden files."""
    lines = [f"{file_sha256(folder / path)}  {path}\n" for path in list_data_files(folder)]
    write_bytes(folder / CHECKSUMS_FILE, "".join(lines).encode())


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the listed SHA-256 of each file of a dataset folder by path.

    Raises:
        FormatError: The list is missing or malformed.
    """
    path = folder / CHECKSUMS_FILE
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot read {path}: {error}") from error
    checksums = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise FormatError(f"{path}: expected lines of a SHA-256, two spaces and a path, got {line[:80]!r}")
        checksums[match[2]] = match[1]
    return checksums


def list_data_files(folder: Path) -> Iterator[str]:
    """Yield the paths of the files that the list of checksums covers, in its order."""
    for path in sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        if path.as_posix() not in _UNLISTED and not any(part.startswith(".") for part in path.parts):
            yield path.as_posix()
