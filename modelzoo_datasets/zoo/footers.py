"""Checksums of the footers of Parquet files.

A footer says where the columns of a file are, and is itself not protected. PyArrow ends the process when it decodes the
column chunks of some damaged footers (docs/upstream.md), so a footer is compared with its checksum before it is parsed.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import FormatError
from .json_files import read_json, write_json
from .plain_files import size_on_disk
from .table_size import TableFile

FOOTERS_FILE = "footers.json"
_END = 8  # bytes behind the metadata: its length, and PAR1


@dataclass(frozen=True)
class Footer:
    """The footer of a Parquet file: the number of bytes at its end, and their SHA-256."""

    nbytes: int
    sha256: str

    @classmethod
    def from_file(cls, path: Path) -> "Footer":
        """Return the footer of a Parquet file that was just written."""
        with path.open("rb") as file:
            file.seek(-_END, io.SEEK_END)
            nbytes = int.from_bytes(file.read(4), "little") + _END
            file.seek(-nbytes, io.SEEK_END)
            return cls(nbytes, hashlib.sha256(file.read()).hexdigest())

    def read(self, file: IO[bytes] | io.RawIOBase) -> pq.FileMetaData:
        """Compare the end of an open Parquet file with this footer, and parse it.

        Raises:
            FormatError: The end of the file is another one.
        """
        file.seek(0, io.SEEK_END)
        size = file.tell()
        file.seek(max(0, size - self.nbytes))
        tail = file.read(self.nbytes) or b""
        if hashlib.sha256(tail).hexdigest() != self.sha256:
            raise FormatError(f"its footer is not the one that {FOOTERS_FILE} lists")
        return pq.read_metadata(pa.BufferReader(tail))


def write_footers(folder: Path) -> None:
    """List the footer of every Parquet file of a dataset folder."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
    footers = {path: Footer.from_file(folder / path) for path in paths}
    write_json(folder / FOOTERS_FILE, {path: vars(footer) for path, footer in footers.items()})


def read_footers(folder: Path) -> Mapping[str, Footer]:
    """Return path -> footer of the Parquet files of a dataset folder; empty for formats that list none.

    Raises:
        FormatError: The list cannot be read, or is malformed.
    """
    path = folder / FOOTERS_FILE
    if not path.is_file():
        return {}
    values = read_json(path)
    try:
        footers = {str(name): Footer(**value) for name, value in values.items()}
        if all(type(f.nbytes) is int and f.nbytes > _END and isinstance(f.sha256, str) for f in footers.values()):
            return footers
    except (AttributeError, TypeError):
        pass
    raise FormatError(f"{path} must list nbytes and sha256 of each Parquet file; build the dataset again")


def open_parquet(path: Path, footer: Footer | None) -> TableFile:
    """Open a Parquet file of a dataset, whose footer is compared first if the dataset lists it.

    Raises:
        FormatError: The footer is another one.
        OSError: The file cannot be read.
        ArrowException: The file is damaged.
    """
    nbytes = size_on_disk(path.stat())
    if footer is None:
        return TableFile(path, nbytes, str(path))
    with path.open("rb") as file:
        metadata = footer.read(file)
    return TableFile(path, nbytes, str(path), metadata, has_checksum=True)
