"""Rows of a `.npy` array of float32 by groups: mapped where the file lies open on disk, else read front to back."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np

from .._util import one_line
from ..errors import FormatError
from .archives import DAMAGED, Source

_MOST_WAITING = 8_000_000_000  # bytes of rows whose groups are not complete
_ROWS_AT_ONCE = 1_000

Row = np.ndarray[Any, Any]  # (P,) float32


def read_rows(
    source: Source, path: str, shape: tuple[int, int], wanted: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[Row | None]]]:
    """(index of a group, its rows) for every group of row numbers; None for rows that are cut off.

    Raises:
        FormatError: it is no array of so many rows and columns of float32, or too scattered to be read in one go.
    """
    with _behind_header(source, path, shape) as (file, header):
        if (place := source.place(path)) is not None:
            yield from _mapped(place, header, source.sizes[path], shape, wanted)
        else:
            yield from _streamed(file, path, shape, wanted)


def check_rows(source: Source, path: str, shape: tuple[int, int]) -> None:
    """Raise FormatError where a file is no array of so many rows and columns of float32."""
    with _behind_header(source, path, shape):
        pass


@contextmanager
def _behind_header(source: Source, path: str, shape: tuple[int, int]) -> Iterator[tuple[BinaryIO, int]]:
    """An array, open where its rows begin, and how many bytes come before them; raises FormatError for another."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with ExitStack() as opened:
        try:
            file = opened.enter_context(source.stream(path))
            start = file.tell()
            found, by_columns, dtype = readers[np.lib.format.read_magic(file)](file)
        except (*DAMAGED, ValueError, KeyError, TokenError) as error:
            raise FormatError(f"{path} is no array of numpy that is read here: {one_line(error)}") from error
        if by_columns or dtype != np.dtype("<f4") or tuple(found) != shape:
            raise FormatError(f"{path}: expected float32 of shape {shape}, got {dtype} of shape {tuple(found)}")
        yield file, file.tell() - start


def _mapped(
    place: tuple[str, int], header: int, size: int, shape: tuple[int, int], wanted: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[Row | None]]]:
    there = min(shape[0], (size - header) // (4 * shape[1]))
    if not there:
        for index, group in enumerate(wanted):
            yield index, [None for _ in group]
        return
    rows = np.memmap(place[0], dtype="<f4", mode="r", offset=place[1] + header, shape=(there, shape[1]))
    for index, group in enumerate(wanted):
        yield index, [np.array(rows[row]) if row < there else None for row in group]


def _streamed(
    file: BinaryIO, path: str, shape: tuple[int, int], wanted: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[Row | None]]]:
    group_of = {row: index for index, group in enumerate(wanted) for row in group}
    begun: dict[int, dict[int, Row]] = {index: {} for index in range(len(wanted))}
    waiting = 0
    for row, content in enumerate(_each_row(file, shape[1])):
        if (index := group_of.get(row)) is None:
            continue
        begun[index][row] = content
        waiting += content.nbytes
        if len(begun[index]) == len(wanted[index]):
            complete = begun.pop(index)
            waiting -= content.nbytes * len(complete)
            yield index, [complete[number] for number in wanted[index]]
        elif waiting > _MOST_WAITING:
            raise FormatError(f"{path} is too scattered to be read from a compressed archive; unpack it first")
    for index, rows in begun.items():
        yield index, [rows.get(number) for number in wanted[index]]


def _each_row(file: BinaryIO, columns: int) -> Iterator[Row]:
    """Whole rows, up to where the file ends or is damaged."""
    left = b""
    while True:
        try:
            chunk = file.read(4 * columns * _ROWS_AT_ONCE)
        except DAMAGED:  # what comes behind is lost
            return
        if not chunk:
            return
        left += chunk
        whole = len(left) // (4 * columns)
        for row in np.frombuffer(left[: whole * 4 * columns], dtype="<f4").reshape(whole, columns):
            yield np.array(row)
        left = left[whole * 4 * columns :]
