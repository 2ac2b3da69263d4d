"""CSV tables of somebody else, measured before pandas makes a table of them."""

import io
from typing import Any

import pandas as pd

from ..errors import FormatError
from ..zoo import MAX_COLUMNS, check_memory

# The default of pandas 2 misses the last bit of a number; pandas 3 reads it, and warns of the option.
_EXACT: dict[str, Any] = {} if int(pd.__version__.split(".")[0]) > 2 else {"float_precision": "round_trip"}
_BYTES_PER_CELL = 64  # memory for a short text
_BYTES_PER_HOLE = 10  # memory for a cell that a row does not have


def parse_csv(content: bytes, nbytes: int, name: str, **options: Any) -> pd.DataFrame:
    """Parse a CSV file.

    Args:
        content: The file, decompressed.
        nbytes: Its size in bytes before.
        name: The file, for messages.
        **options: Options of `pandas.read_csv`.

    Raises:
        FormatError: It has more columns or cells than a file of this size can have.
        ValueError: It is malformed.
    """
    rows, cells = content.count(b"\n") + 1, content.count(b",")
    columns = _count_columns(content)
    if columns > MAX_COLUMNS:
        raise FormatError(f"{name} has about {columns:,} columns, expected at most {MAX_COLUMNS:,}")
    needed = 2 * len(content) + _BYTES_PER_CELL * (cells + rows) + _BYTES_PER_HOLE * rows * columns
    check_memory(needed, nbytes, name)
    table: pd.DataFrame = pd.read_csv(io.BytesIO(content), **_EXACT, **options)
    return table


def _count_columns(content: bytes) -> int:
    """Return the columns of the first two rows, which decide those of the table; commas in quotes count too."""
    first = []
    for line in io.BytesIO(content):
        if line.strip():
            first.append(line.count(b",") + 1)
        if len(first) == 2:
            break
    return max(first, default=0)
