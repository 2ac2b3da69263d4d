"""Queries: which rows and columns of a dataset are requested, and their selection in a Parquet file.

A query is checked against the schema of a table, compared with the ranges of row groups, and evaluated row by row.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import ArgumentError, nearest_hint
from .shard import LOCATION_COLUMNS, WEIGHTS, Shard

# (column, operator, value), e.g. ("lr", "<", 1e-3); `in` and `not in` take several values
Filter = tuple[str, str, Any]

KEY_COLUMNS = ("model_id", "epoch")  # always read
_STORAGE_COLUMNS = (WEIGHTS, *LOCATION_COLUMNS, "weights_key")  # say how weights are stored, so no table shows them
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_MEMBERSHIPS = ("in", "not in")
_OPERATORS = (*_COMPARISONS, *_MEMBERSHIPS)


@dataclass(frozen=True)
class Query:
    """The requested rows, for which all filters hold, and their requested columns."""

    filters: tuple[Filter, ...] = ()
    columns: tuple[str, ...] | None = None  # None: all
    requested: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # key column -> values that must exist
    max_models: int | None = None  # keep the first models that have a matching row; None: all

    @classmethod
    def from_arguments(
        cls,
        epochs: Iterable[int] | None = None,
        models: int | Iterable[str] | None = None,
        filters: Iterable[Filter] | None = None,
        columns: Iterable[str] | None = None,
    ) -> "Query":
        """Make a query of the arguments of `load_zoo`, which documents them; iterators are read once.

        Args:
            epochs: The requested epochs; all if None.
            models: Names of models, or the number of models; all if None.
            filters: Tuples (column, operator, value), all of which must hold.
            columns: The requested columns; all if None.

        Raises:
            ArgumentError: An argument has the wrong type, or a filter is malformed.
        """
        requested: dict[str, tuple[Any, ...]] = {}
        if isinstance(epochs, int | np.integer):
            raise ArgumentError(f"epochs must be a sequence of ints, e.g. [{epochs}] or range(21, 26); got {epochs}")
        if epochs is not None:
            requested["epoch"] = tuple(epochs)
        max_models = models if isinstance(models, int) else None
        if max_models is not None and max_models < 1:
            raise ArgumentError(f"models must be a number of models >= 1, or names of models; got {max_models}")
        if models is not None and not isinstance(models, int):
            requested["model_id"] = (models,) if isinstance(models, str) else tuple(models)
        if isinstance(columns, str):
            raise ArgumentError(f"columns must be a sequence of names, e.g. [{columns!r}]; got {columns!r}")
        every = [*((name, "in", values) for name, values in requested.items()), *map(_parse_filter, filters or ())]
        return cls(tuple(every), None if columns is None else tuple(columns), requested, max_models)

    @property
    def selects_every_model(self) -> bool:
        """True if no filter but that of the epochs can exclude a model."""
        return all(name == "epoch" for name, _, _ in self.filters)

    def prune(self, schema: pa.Schema, metadata: pq.FileMetaData, has_checksum: bool) -> list[int]:
        """Return the row groups of a Parquet file that may have a matching row, judged by their statistics.

        Args:
            schema: The columns of the file.
            metadata: Its footer.
            has_checksum: Whether the footer was compared with a checksum; the statistics of others are not decoded,
                because damage would end the process, so all row groups are returned.

        Raises:
            ArgumentError: The schema lacks a column, or has a column that a filter cannot be applied to.
        """
        self._check(schema)
        names = [name for name, _, _ in self.filters] if has_checksum else []
        groups = range(metadata.num_row_groups)
        return [i for i in groups if not names or self._may_match(_column_ranges(metadata.row_group(i), names))]

    def columns_to_read(self, schema: pa.Schema) -> list[str]:
        """Return the columns to read, in the order of the schema: requested columns, keys, filters and locations."""
        shown = {name for name in schema.names if name not in _STORAGE_COLUMNS}
        shown = shown if self.columns is None else {*self.columns}
        needed = {*shown, *KEY_COLUMNS, *LOCATION_COLUMNS} | {name for name, _, _ in self.filters}
        return [name for name in schema.names if name in needed]

    def select(self, table: pa.Table) -> tuple[np.ndarray, pa.Table]:
        """Return the indices of the matching rows, ascending, and these rows with the requested columns.

        A comparison with a missing value does not hold.

        Raises:
            ArgumentError: The table lacks a column, or has a column that a filter cannot be applied to.
        """
        self._check(table.schema)
        shown = {*table.column_names} - {*_STORAGE_COLUMNS} if self.columns is None else {*KEY_COLUMNS, *self.columns}
        rows = table.select([name for name in table.column_names if name in shown])
        if not self.filters:
            return np.arange(table.num_rows), rows
        # An Acero expression takes 1.4 to 4 times the CPU time of these kernels.
        mask = reduce(pc.and_, (_evaluate_filter(entry, table[entry[0]]) for entry in self.filters))
        matches = np.flatnonzero(mask.fill_null(False).to_numpy())
        return matches, rows if len(matches) == len(table) else rows.take(matches)

    def _check(self, schema: pa.Schema) -> None:
        known = [name for name in schema.names if name not in _STORAGE_COLUMNS]
        for name in (*(name for name, _, _ in self.filters), *(self.columns or ())):
            if name not in known:
                raise ArgumentError(f"unknown column {name!r}; {nearest_hint(name, known)}")
        for name, operator, value in self.filters:
            _check_filter_type(name, operator, value, schema.field(name).type)

    def _may_match(self, ranges: Mapping[str, tuple[Any, Any]]) -> bool:
        """Return False if no row can match whose values lie in these ranges, column -> (minimum, maximum)."""
        return all(
            _may_hold(operator, value, *ranges[name]) for name, operator, value in self.filters if name in ranges
        )


@dataclass(frozen=True)
class Selection:
    """The selected rows of a shard."""

    shard: Shard
    rows: np.ndarray  # their indices in the file, ascending
    table: pa.Table  # their requested columns
    locations: pd.DataFrame | None = None  # `LOCATION_COLUMNS` of each row, if the weights are in other files

    def __len__(self) -> int:
        return len(self.rows)

    def slice_rows(self, rows: slice) -> "Selection":
        """Return some of these rows."""
        begin, end, _ = rows.indices(len(self))
        locations = None if self.locations is None else self.locations[begin:end]
        return Selection(self.shard, self.rows[begin:end], self.table.slice(begin, end - begin), locations)

    def iter_groups(self) -> Iterator[tuple[int, slice, np.ndarray]]:
        """Iterate over the row groups with selected rows.

        Yields:
            The index of the row group, the part of the selection in it, and the indices of its rows in the row group.
        """
        offsets = self.shard.row_offsets
        cuts = np.searchsorted(self.rows, offsets)
        for group in np.flatnonzero(np.diff(cuts)).tolist():
            part = slice(int(cuts[group]), int(cuts[group + 1]))
            yield group, part, self.rows[part] - offsets[group]


def select_rows(shard: Shard, query: Query, group: int | None = None) -> Selection:
    """Select the matching rows of a shard, or of one of its row groups, without reading weights."""
    if shard.cache_content is not None:
        return _select_cached(shard, shard.cache_content.table, query, group)
    groups = [group] if group is not None else query.prune(shard.schema, shard.metadata, shard.has_checksum)
    columns = query.columns_to_read(shard.schema)
    table = shard.read(groups, columns)
    matches, rows = query.select(table)
    # Row i of the table that was read is row indices[i] of the file: row groups between may have been skipped.
    counts = np.diff(shard.row_offsets)[groups]
    table_offsets = np.concatenate([[0], np.cumsum(counts)])[:-1]
    indices = np.arange(table.num_rows) + np.repeat(shard.row_offsets[:-1][groups] - table_offsets, counts)
    has_locations = {*LOCATION_COLUMNS} <= {*table.column_names}
    locations = table.select(LOCATION_COLUMNS).take(matches).to_pandas() if has_locations else None
    return Selection(shard, indices[matches], rows, locations)


def _select_cached(shard: Shard, table: pa.Table, query: Query, group: int | None) -> Selection:
    """Select rows of a table in the cache; the selection holds copies."""
    begin, end = (0, len(table)) if group is None else shard.row_offsets[group : group + 2].tolist()
    matches, rows = query.select(table.slice(begin, end - begin))
    every = len(rows) == end - begin  # these rows are views of the file in the cache
    return Selection(shard, begin + matches, rows.take(matches) if every else rows)


def _parse_filter(entry: Any) -> Filter:
    if not isinstance(entry, tuple | list) or len(entry) != 3:
        raise ArgumentError(f"a filter must be (column, operator, value), e.g. ('lr', '<', 1e-3); got {entry!r}")
    name, operator, value = entry
    operator = "==" if operator == "=" else operator
    if operator not in _OPERATORS:
        raise ArgumentError(f"unknown operator {operator!r} in filter {tuple(entry)!r}; known: {', '.join(_OPERATORS)}")
    if operator in _MEMBERSHIPS:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ArgumentError(f"filter {tuple(entry)!r}: {operator!r} needs a sequence of values, got {value!r}")
        value = tuple(value)
    return name, operator, value


def _check_filter_type(name: str, operator: str, value: Any, kind: pa.DataType) -> None:
    """Raise ArgumentError if a value has another kind than the column: 1 == '1' must not silently match nothing."""
    fits: tuple[type, ...]
    if pa.types.is_boolean(kind):
        fits, noun = (bool, np.bool_), "booleans"
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        fits, noun = (int, float, np.integer, np.floating), "numbers"
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        fits, noun = (str,), "strings"
    else:
        raise ArgumentError(f"cannot filter by column {name!r}: it holds {kind}, and filters need single values")
    for single in value if operator in _MEMBERSHIPS else (value,):
        if not isinstance(single, fits) or (isinstance(single, bool) and bool not in fits):
            raise ArgumentError(f"cannot compare column {name!r} with {single!r}: it holds {noun}")


def _evaluate_filter(entry: Filter, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a boolean per row, null where the value is missing."""
    _, operator, value = entry
    if operator in _COMPARISONS:
        if pa.types.is_integer(column.type) and isinstance(value, float | np.floating):
            column = column.cast(pa.float64(), safe=False)  # rounds large integers, as NumPy does
        return _COMPARISONS[operator](column, _to_python(value))
    hits = pc.is_in(column, _to_value_set(value, column.type))
    # A missing value is in no list, but like a comparison, `not in` must not select it.
    return hits if operator == "in" else pc.and_(pc.invert(hits), column.is_valid())


def _to_python(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return float(plain) if type(plain) is int and abs(plain) >= 2**63 else plain  # Arrow has no larger integers


def _to_value_set(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Return the values as an array of this type, without values that the type cannot hold, e.g. 2.5 among integers."""
    plain = [_to_python(value) for value in values]
    with contextlib.suppress(pa.ArrowException, OverflowError):
        return pa.array(plain, kind)
    representable = []
    for value in plain:
        with contextlib.suppress(pa.ArrowException, OverflowError):
            representable.append(pa.scalar(value, kind).as_py())
    return pa.array(representable, kind)


def _may_hold(operator: str, value: Any, minimum: Any, maximum: Any) -> bool:
    if operator == "==":
        return bool(minimum <= value <= maximum)
    if operator == "in":
        return any(minimum <= single <= maximum for single in value)
    if operator in ("<", "<="):
        return bool(minimum < value or (operator == "<=" and minimum == value))
    if operator in (">", ">="):
        return bool(maximum > value or (operator == ">=" and maximum == value))
    return True  # a range cannot exclude != and `not in`


def _column_ranges(group: Any, names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Return (minimum, maximum) of the named columns of a row group (`pq.RowGroupMetaData`), where recorded."""
    ranges = {}
    for i in range(group.num_columns):
        column = group.column(i)
        statistics = column.statistics if column.path_in_schema in names else None
        if statistics is not None and statistics.has_min_max:
            ranges[column.path_in_schema] = (statistics.min, statistics.max)
    return ranges
