"""Where the pages of a Parquet file lie: what its offset index says, which pyarrow writes but does not show.

Structures and field numbers are those of parquet.thrift (apache/parquet-format), in Thrift's compact protocol.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import FormatError

_MAGIC = b"PAR1"
_ROW_GROUPS, _COLUMNS = 4, 1  # fields of FileMetaData, RowGroup
_INDEX_OFFSET, _INDEX_LENGTH = 4, 5  # of ColumnChunk
_LOCATIONS, _PAGE_OFFSET, _PAGE_BYTES, _FIRST_ROW = 1, 1, 2, 3  # of OffsetIndex, PageLocation


@dataclass(frozen=True)
class Page:
    """One data page of one column."""

    offset: int  # in the file
    nbytes: int  # compressed, with its header
    first_row: int  # in its row group


def pages_of(path: Path, row_group: int) -> list[list[Page]] | None:
    """The pages of every column of a row group, None where a column has no offset index; raises FormatError."""
    with path.open("rb") as file:
        try:
            footer = _Compact(_footer(file)).struct()
            chunks = footer[_ROW_GROUPS][row_group][_COLUMNS]
            if not all(_INDEX_OFFSET in chunk for chunk in chunks):
                return None
            return [_pages(file, chunk[_INDEX_OFFSET], chunk[_INDEX_LENGTH]) for chunk in chunks]
        except (LookupError, struct.error, TypeError) as error:
            raise FormatError(f"{path} has a footer or page index that cannot be read ({error!r})") from error


def _footer(file: BinaryIO) -> bytes:
    file.seek(-8, 2)
    length, magic = struct.unpack("<I4s", file.read(8))
    if magic != _MAGIC:
        raise LookupError("no Parquet file")
    file.seek(-8 - length, 2)
    return file.read(length)


def _pages(file: BinaryIO, offset: int, length: int) -> list[Page]:
    file.seek(offset)
    found = _Compact(file.read(length)).struct()[_LOCATIONS]
    return [Page(page[_PAGE_OFFSET], page[_PAGE_BYTES], page[_FIRST_ROW]) for page in found]


class _Compact:
    """Values of Thrift's compact protocol, structs as {field number: value}."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            step = kind >> 4  # from the number of the last field; 0: the number itself follows
            number = number + step if step else self._zigzag()
            fields[number] = self._value(kind & 15)
        return fields

    def _value(self, kind: int) -> Any:
        match kind:
            case 1 | 2:  # true, false: in the kind itself
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._zigzag()
            case 7:
                return struct.unpack("<d", self._take(8))[0]
            case 8:
                return self._take(self._varint())
            case 9 | 10:
                return self._list()
            case 12:
                return self.struct()
        raise LookupError(f"kind {kind} of Thrift")

    def _list(self) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self._varint()
        return [self._byte() == 1 if kind in (1, 2) else self._value(kind) for _ in range(size)]

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _take(self, n: int) -> bytes:
        self._at += n
        return self._content[self._at - n : self._at]

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
