"""Headers of the pages of a Parquet file: what PyArrow would allocate for a column, before it does.

A page says in its own header, in Thrift's compact protocol, how many bytes it has when it is decompressed and how many
values it holds. PyArrow believes it, and keeps one page of each column: 60 KB can take gigabytes. The footer says
nothing about pages.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from ..errors import FormatError

_HEADER_BYTES = 16_384  # headers with texts as smallest and largest value are below
_NUMBERS = (4, 5, 6)  # types of Thrift: i16, i32, i64
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 7, 8, 12
_UNCOMPRESSED, _COMPRESSED = 2, 3  # fields of a page header
_DATA, _DICTIONARY = (5, 8), 7  # its fields for the header of a data page of version 1 or 2, and of a dictionary
_VALUES = 1  # field of these


def measure_column(file: Any, chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Return the bytes of the pages that are in memory at the same time, and the values of all pages.

    Args:
        file: The open file.
        chunk: The column in one row group, of a footer that was compared with its checksum.

    Raises:
        FormatError: A header is damaged.
    """
    begin = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
    dictionary = largest = values = 0
    try:
        for header in _iter_headers(file, begin, begin + chunk.total_compressed_size):
            if _DICTIONARY in header:
                dictionary = max(dictionary, header[_UNCOMPRESSED])
            else:
                largest = max(largest, header[_UNCOMPRESSED])
                values += sum(header[kind][_VALUES] for kind in _DATA if kind in header)
    except (ValueError, IndexError, KeyError, RecursionError, TypeError) as error:
        raise FormatError("a page header is damaged") from error
    return dictionary + largest, values


def _iter_headers(file: Any, position: int, end: int) -> Iterator[dict[int, Any]]:
    while position < end:
        file.seek(position)
        header, length = _read_struct(file.read(min(_HEADER_BYTES, end - position)), 0)
        if header[_COMPRESSED] < 0:
            raise ValueError("a negative size")
        yield header
        position += length + header[_COMPRESSED]


def _read_struct(content: bytes, position: int) -> tuple[dict[int, Any], int]:
    """Return the numbers and structs of a struct by field, and the position behind it."""
    fields: dict[int, Any] = {}
    number = 0
    while kind := content[position]:
        position += 1
        if delta := kind >> 4:
            number += delta
        else:
            number, position = _read_number(content, position)
        kind &= 15
        if kind in _NUMBERS:
            fields[number], position = _read_number(content, position)
        elif kind == _STRUCT:
            fields[number], position = _read_struct(content, position)
        elif kind == _BINARY:
            length, position = _read_varint(content, position)
            position += length
        elif kind in (_BYTE, _DOUBLE):
            position += 1 if kind == _BYTE else 8
        elif kind not in (_TRUE, _FALSE):  # lists and maps are in no page header
            raise ValueError("an unexpected type")
    return fields, position + 1


def _read_number(content: bytes, position: int) -> tuple[int, int]:
    value, position = _read_varint(content, position)
    return (value >> 1) ^ -(value & 1), position


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := content[position]) >= 128:
        value |= (byte & 127) << shift
        shift += 7
        position += 1
    return value | byte << shift, position + 1
