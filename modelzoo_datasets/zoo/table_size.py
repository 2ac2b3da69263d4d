"""The rows of a Parquet file, read only if they do not take more memory than the size of the file allows.

A few bytes of a column that is compressed, or encoded by a dictionary, can stand for a billion values. The numbers of
rows are known before; texts are read as dictionaries, which hold each text once, and measured before they are repeated.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import FormatError
from .limits import MAX_COLUMNS, check_memory

_COPIES = 3  # a table is in memory so often while pandas makes one of it
_TEXTS = (pa.string(), pa.large_string())
_REFERENCE = 16  # bytes for a text or a list beside its content


def find_texts(schema: pa.Schema) -> list[str]:
    """Return the columns of texts, which are to be opened with `read_dictionary`."""
    return [
        column.name for column in schema if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ]


def read_measured(
    file: pq.ParquetFile,
    schema: pa.Schema,
    nbytes: int,
    name: str,
    *,
    groups: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
    use_threads: bool = True,
) -> pa.Table:
    """Read rows of a file.

    Args:
        file: The file, opened with the columns of `find_texts` as dictionaries.
        schema: The columns of the file.
        nbytes: The size of the file in bytes.
        name: The file, for messages.
        groups: The row groups to read; all if None.
        columns: The columns to read; all if None.
        use_threads: Whether to decode several columns at a time.

    Raises:
        FormatError: The rows are too many, or have too many columns or too long texts.
        ArrowException: The file is damaged.
    """
    if len(schema) > MAX_COLUMNS:
        raise FormatError(f"{name} has {len(schema):,} columns, expected at most {MAX_COLUMNS:,}")
    metadata = file.metadata
    groups = [*range(metadata.num_row_groups)] if groups is None else [*groups]
    rows = sum(metadata.row_group(i).num_rows for i in groups)
    fields = [column for column in schema if columns is None or column.name in columns]
    needed = rows * sum(_width(column.type) for column in fields)
    check_memory(_COPIES * needed, nbytes, name)
    table = file.read_row_groups(groups, [column.name for column in fields], use_threads=use_threads)
    check_memory(_COPIES * (needed + sum(map(_measure_texts, table.columns))), nbytes, name)
    for place, column in enumerate(table.schema):
        if column.type != (kind := schema.field(column.name).type):
            table = table.set_column(place, column.with_type(kind), table[place].cast(kind))
    return table


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
