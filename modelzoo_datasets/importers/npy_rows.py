"""Rows of a `.npy` array of float32, in groups: mapped from disk, or read front to back from a compressed archive."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np

from .._util import one_line
from ..errors import FormatError
from .archives import DAMAGED, Source

_MAX_WAITING = 8_000_000_000  # bytes of rows in incomplete groups
_CHUNK_ROWS = 1_000

Row = np.ndarray[Any, Any]  # (P,) float32


def read_rows(
    source: Source, path: str, shape: tuple[int, int], groups: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[Row | None]]]:
    """Read groups of rows.

    Args:
        source: The originals.
        path: The array in it.
        shape: Its expected shape (rows, columns).
        groups: Row numbers of each group.

    Yields:
        Index of a group, and its rows (P,); None for a row that is cut off.

    Raises:
        FormatError: The file is not an array of float32 of this shape, or too scattered to be read in one pass.
    """
    with _open_array(source, path, shape) as (file, header):
        if (place := source.locate(path)) is not None:
            yield from _read_mapped(place, header, source.sizes[path], shape, groups)
        else:
            yield from _read_streamed(file, path, shape, groups)


def check_rows(source: Source, path: str, shape: tuple[int, int]) -> None:
    """Raise FormatError unless a file is an array of float32 of this shape."""
    with _open_array(source, path, shape):
        pass


@contextmanager
def _open_array(source: Source, path: str, shape: tuple[int, int]) -> Iterator[tuple[BinaryIO, int]]:
    """Open an array at its first row; also yield the number of bytes before it. Raises FormatError."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with ExitStack() as opened:
        try:
            file = opened.enter_context(source.stream(path))
            start = file.tell()
            actual, by_columns, dtype = readers[np.lib.format.read_magic(file)](file)
        except (*DAMAGED, ValueError, KeyError, TokenError) as error:
            raise FormatError(f"{path} is not a readable array of numpy: {one_line(error)}") from error
        if by_columns or dtype != np.dtype("<f4") or tuple(actual) != shape:
            raise FormatError(f"{path}: expected float32 of shape {shape}, got {dtype} of shape {tuple(actual)}")
        yield file, file.tell() - start


def _read_mapped(
    place: tuple[str, int], header: int, size: int, shape: tuple[int, int], groups: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[Row | None]]]:
    available = min(shape[0], (size - header) // (4 * shape[1]))
    if not available:
        for index, group in enumerate(groups):
            yield index, [None for _ in group]
        return
    rows = np.memmap(place[0], dtype="<f4", mode="r", offset=place[1] + header, shape=(available, shape[1]))
    for index, group in enumerate(groups):
        yield index, [np.array(rows[row]) if row < available else None for row in group]


def _read_streamed(
    file: BinaryIO, path: str, shape: tuple[int, int], groups: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[Row | None]]]:
    group_by_row = {row: index for index, group in enumerate(groups) for row in group}
    partial: dict[int, dict[int, Row]] = {index: {} for index in range(len(groups))}
    waiting = 0
    for row, content in enumerate(_iterate_rows(file, shape[1])):
        if (index := group_by_row.get(row)) is None:
            continue
        partial[index][row] = content
        waiting += content.nbytes
        if len(partial[index]) == len(groups[index]):
            complete = partial.pop(index)
            waiting -= content.nbytes * len(complete)
            yield index, [complete[number] for number in groups[index]]
        elif waiting > _MAX_WAITING:
            raise FormatError(f"{path} is too scattered to be read from a compressed archive; unpack it first")
    for index, rows in partial.items():
        yield index, [rows.get(number) for number in groups[index]]


def _iterate_rows(file: BinaryIO, columns: int) -> Iterator[Row]:
    """Yield whole rows up to the end of the file or the first damage."""
    rest = b""
    while True:
        try:
            chunk = file.read(4 * columns * _CHUNK_ROWS)
        except DAMAGED:  # everything behind is lost
            return
        if not chunk:
            return
        rest += chunk
        whole = len(rest) // (4 * columns)
        for row in np.frombuffer(rest[: whole * 4 * columns], dtype="<f4").reshape(whole, columns):
            yield np.array(row)
        rest = rest[whole * 4 * columns :]
