"""The rows of a Parquet file, read only if they do not take more memory than the size of the file allows.

A few bytes of a column that is compressed, or encoded by a dictionary, can stand for a billion values. The numbers of
rows are known before; texts are read as dictionaries, which hold each text once, and measured before they are repeated.
"""

import contextlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import FormatError
from .limits import MAX_COLUMNS, check_memory, memory_limit
from .page_headers import measure_column

_COPIES = 3  # a table is in memory so often while pandas makes one of it
_TEXTS = (pa.string(), pa.large_string())
_LIST_VALUE = 32  # bytes for a number of a list, its levels and its copies; measured: 22 to 27
_MAX_RATIO, _MAX_PAGE = 33_000, 2**31  # bytes of a page for one that is compressed: 32,768 for zstd, fewer for others
_REFERENCE = 16  # bytes for a text or a list beside its content


class TableFile:
    """An open Parquet file, whose rows are read only if the size of the file allows it."""

    def __init__(
        self,
        source: Any,
        nbytes: int,
        name: str,
        metadata: pq.FileMetaData | None = None,
        *,
        has_checksum: bool = False,
        **options: Any,
    ) -> None:
        """Open a file.

        Args:
            source: The path of the file, or the open file.
            nbytes: Its size in bytes.
            name: Its name, for messages.
            metadata: Its footer; read from the file if None.
            has_checksum: Whether the footer was compared with a checksum; column chunks of others are not looked at,
                because damage would end the process, and so their pages are not measured.
            **options: Options of `pq.ParquetFile`.

        Raises:
            ArrowException: The file is damaged.
        """
        self.metadata = pq.read_metadata(source) if metadata is None else metadata
        self.schema: pa.Schema = self.metadata.schema.to_arrow_schema()
        self._source, self._nbytes, self._name, self._has_checksum = source, nbytes, name, has_checksum
        texts = [column.name for column in self.schema if column.type in _TEXTS]
        self._file = pq.ParquetFile(source, metadata=self.metadata, read_dictionary=texts, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(
        self,
        groups: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        *,
        max_rows: int | None = None,
        use_threads: bool = True,
    ) -> pa.Table:
        """Read rows.

        Args:
            groups: The row groups to read; all if None.
            columns: The columns to read; all if None.
            max_rows: Read some of the first rows, at most so many; all if None.
            use_threads: Whether to decode several columns at a time.

        Raises:
            FormatError: The rows are too many, or have too many columns or too long texts.
            ArrowException: The file is damaged.
        """
        if len(self.schema) > MAX_COLUMNS:
            raise FormatError(f"{self._name} has {len(self.schema):,} columns, expected at most {MAX_COLUMNS:,}")
        groups = [*range(self.metadata.num_row_groups)] if groups is None else [*groups]
        rows = sum(self.metadata.row_group(i).num_rows for i in groups)
        rows = rows if max_rows is None else min(rows, max_rows)
        fields = [column for column in self.schema if columns is None or column.name in columns]
        needed = rows * sum(_width(column.type) for column in fields)
        check_memory(_COPIES * needed, self._nbytes, self._name)
        if self._has_checksum:
            check_memory(needed + self._measure_pages(groups, fields), self._nbytes, self._name)
        names = [column.name for column in fields]
        if max_rows is None:
            table = self._file.read_row_groups(groups, names, use_threads=use_threads)
        else:
            batches = self._file.iter_batches(max_rows, groups, names, use_threads=use_threads)
            table = pa.Table.from_batches([*islice(batches, 1)], pa.schema(fields) if not rows else None)
        check_memory(_COPIES * (needed + sum(map(_measure_texts, table.columns))), self._nbytes, self._name)
        for place, column in enumerate(table.schema):
            if column.type != (kind := self.schema.field(column.name).type):
                table = table.set_column(place, column.with_type(kind), table[place].cast(kind))
        return table

    def _measure_pages(self, groups: Sequence[int], fields: Sequence[pa.Field]) -> int:
        """Return the bytes of pages, and of lists of any length, that are in memory while columns are decoded.

        Pages that cannot take half of the limit, as most cannot, are not looked at and count nothing.
        """
        rows = [self.metadata.row_group(i) for i in groups]
        leaves = self._find_leaves([column for column in fields if not _is_list(column.type)])
        listed = self._find_leaves([column for column in fields if _is_list(column.type)])
        # A column has one group in memory at a time.
        pages = sum(max((_bound_pages(group.column(i)) for group in rows), default=0) for i in leaves)
        with _open_source(self._source) as file:

            def measure(group: pq.RowGroupMetaData, i: int) -> tuple[int, int]:
                return measure_column(file, group.column(i))

            is_small = pages <= memory_limit(self._nbytes) // 2
            pages = 0 if is_small else sum(max(measure(group, i)[0] for group in rows) for i in leaves)
            lists = [measure(group, i) for group in rows for i in listed]
        return pages + sum(size + _LIST_VALUE * count for size, count in lists)

    def _find_leaves(self, fields: Sequence[pa.Field]) -> list[int]:
        """Return the columns of the file that some columns of the schema consist of."""
        names, schema = tuple(f"{column.name}." for column in fields), self.metadata.schema
        return [i for i in range(len(schema)) if f"{schema.column(i).path}.".startswith(names)]


def _is_list(kind: pa.DataType) -> bool:
    """Tell whether values of a type hold lists of any length."""
    if pa.types.is_fixed_size_list(kind):
        return _is_list(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_is_list(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_nested(kind))


def _bound_pages(chunk: pq.ColumnChunkMetaData) -> int:
    """Return a bound of the bytes of two decompressed pages, of data and of a dictionary, of a column."""
    ratio = 1 if chunk.compression == "UNCOMPRESSED" else _MAX_RATIO if chunk.compression != "BROTLI" else _MAX_PAGE
    return min(ratio * int(chunk.total_compressed_size), 2 * _MAX_PAGE)


def _open_source(source: Any) -> contextlib.AbstractContextManager[Any]:
    return source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source)


def _width(kind: pa.DataType) -> int:
    """Return the bytes of a value, without the content of texts and lists of any length."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    if pa.types.is_struct(kind):
        return sum(_width(kind.field(i).type) for i in range(kind.num_fields))
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return _REFERENCE


def _measure_texts(column: pa.ChunkedArray) -> int:
    """Return the bytes of all values of a dictionary, each as often as it is repeated."""
    if not pa.types.is_dictionary(column.type):
        return 0
    chunks = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(int(pc.sum(lengths).as_py() or 0) for lengths in chunks)
