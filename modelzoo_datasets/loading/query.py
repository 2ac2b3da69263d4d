"""Which rows and columns are asked for: checked against a table, decided for row groups, decided for rows."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import FormatError, nearest_hint

Filter = tuple[str, str, Any]  # column, operator, value: ("lr", "<", 1e-3); for `in` and `not in` several values

KEYS = ("model_id", "epoch")  # columns that are always read
WEIGHTS = "weights"
PLACE = (
    "weights_file",
    "offset",
    "nbytes",
)  # instead of weights too big for a cell: which bytes of which file they are
_NOT_SHOWN = (WEIGHTS, *PLACE, "weights_key")  # how the weights are stored is not of the states
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_OPERATORS = (*_COMPARISONS, "in", "not in")


@dataclass(frozen=True)
class Query:
    """What is asked for: all filters hold for a row that is wanted."""

    filters: tuple[Filter, ...] = ()
    columns: tuple[str, ...] | None = None  # of the table; all if None
    keys: tuple[Filter, ...] = ()  # those of the filters that name epochs and models, all of which should be there
    first: int | None = None  # of how many models, the first ones that have any such row; of all if None

    @classmethod
    def of(
        cls,
        epochs: Iterable[int] | None,
        models: int | Iterable[str] | None,
        filters: Iterable[Filter] | None,
        columns: Iterable[str] | None,
    ) -> "Query":
        """From the arguments of `load_zoo`; iterators are read once.

        Raises:
            FormatError: a filter is not a column, an operator that there is, and a value for it; or there is one
                where there should be several.
        """
        keys: list[Filter] = []
        if isinstance(epochs, int | np.integer):
            raise FormatError(f"epochs must be several, such as [{epochs}] or range(21, 26), got {epochs}")
        if epochs is not None:
            keys.append(("epoch", "in", tuple(epochs)))
        first = models if isinstance(models, int) else None
        if first is not None and first < 1:
            raise FormatError(f"models must be names of models, or how many, from 1, got {first}")
        if models is not None and not isinstance(models, int):
            keys.append(("model_id", "in", (models,) if isinstance(models, str) else tuple(models)))
        if isinstance(columns, str):
            raise FormatError(f"columns must be several, such as [{columns!r}], got {columns!r}")
        given = [_checked(entry) for entry in filters or ()]
        return cls((*keys, *given), None if columns is None else tuple(columns), tuple(keys), first)

    def more(self, *filters: Filter) -> "Query":
        """Of these rows those for which more filters hold."""
        return replace(self, filters=(*self.filters, *filters))

    @property
    def of_every_model(self) -> bool:
        """Whether every model has rows that are wanted, as far as it has such epochs."""
        return all(name == "epoch" for name, _, _ in self.filters)

    def asked(self, column: str) -> tuple[Any, ...] | None:
        """The values that a key column is to have, if that was said by `epochs` or `models`."""
        return next((value for name, _, value in self.keys if name == column), None)

    def check(self, schema: pa.Schema) -> None:
        """Raise FormatError where a column is not in the table, or a filter cannot be decided for it."""
        known = [name for name in schema.names if name not in _NOT_SHOWN]
        for name in (*(name for name, _, _ in self.filters), *(self.columns or ())):
            if name not in known:
                raise FormatError(f"unknown column {name!r}; {nearest_hint(name, known)}")
        for name, how, value in self.filters:
            _check_type(name, how, value, schema.field(name).type)

    def columns_of(self, schema: pa.Schema) -> list[str]:
        """The columns to read, in the table's order: those asked for, for the filters, and where weights lie."""
        shown = {name for name in schema.names if name not in _NOT_SHOWN} if self.columns is None else {*self.columns}
        needed = {*shown, *KEYS, *PLACE} | {name for name, _, _ in self.filters}
        return [name for name in schema.names if name in needed]

    def shown(self, rows: pa.Table) -> pa.Table:
        """The columns that were asked for alone."""
        asked = {*rows.column_names} - {*_NOT_SHOWN} if self.columns is None else {*KEYS, *self.columns}
        return rows.select([name for name in rows.column_names if name in asked])

    def rows(self, table: pa.Table) -> np.ndarray:
        """The numbers of the rows that are wanted, ascending; a comparison with a missing value does not hold."""
        if not self.filters:
            return np.arange(table.num_rows)
        chosen = reduce(pc.and_, (_holds(entry, table[entry[0]]) for entry in self.filters))
        return np.flatnonzero(chosen.fill_null(False).to_numpy())

    def may_be_in(self, ranges: "dict[str, tuple[Any, Any]]") -> bool:
        """False where no row can be wanted of those whose values lie in these ranges (smallest, largest) by column."""
        return all(_possible(how, value, *ranges[name]) for name, how, value in self.filters if name in ranges)


def _checked(entry: Any) -> Filter:
    if not isinstance(entry, tuple | list) or len(entry) != 3:
        raise FormatError(f"a filter is (column, operator, value), such as ('lr', '<', 1e-3), got {entry!r}")
    name, how, value = entry
    how = "==" if how == "=" else how
    if how not in _OPERATORS:
        raise FormatError(f"unknown operator {how!r} in filter {tuple(entry)!r}; known: {', '.join(_OPERATORS)}")
    if how in ("in", "not in"):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise FormatError(f"filter {tuple(entry)!r}: {how!r} takes several values, got {value!r}")
        value = tuple(value)
    return name, how, value


def _check_type(name: str, how: str, value: Any, kind: pa.DataType) -> None:
    """Values are compared with such of their own kind alone: else an empty result would tell that 1 is not '1'."""
    fits: tuple[type, ...]
    if pa.types.is_boolean(kind):
        fits, words = (bool, np.bool_), "true or false"
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        fits, words = (int, float, np.integer, np.floating), "numbers"
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        fits, words = (str,), "text"
    else:
        raise FormatError(f"column {name!r} holds {kind} and cannot be filtered by; only single values can")
    for single in value if how in ("in", "not in") else (value,):
        if not isinstance(single, fits) or (isinstance(single, bool) and bool not in fits):
            raise FormatError(f"column {name!r} holds {words}, and cannot be compared with {single!r}")


def _holds(entry: Filter, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """For each row whether a filter holds; true or not, or missing where the value is."""
    _, how, value = entry
    if how in _COMPARISONS:
        if pa.types.is_integer(column.type) and isinstance(value, float | np.floating):
            column = column.cast(pa.float64(), safe=False)  # of large integers the nearest, as NumPy has it
        return _COMPARISONS[how](column, _plain(value))
    found = pc.is_in(column, _members(value, column.type))
    # A missing value is in no list, and as with the comparisons, that is no reason to choose it.
    return found if how == "in" else pc.and_(pc.invert(found), column.is_valid())


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return float(plain) if type(plain) is int and abs(plain) >= 2**63 else plain  # Arrow has no larger integers


def _members(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """As a column of this kind, without those that no value of it can equal, such as 2.5 among integers."""
    plain = [_plain(value) for value in values]
    with contextlib.suppress(pa.ArrowException, OverflowError):
        return pa.array(plain, kind)
    members = []
    for value in plain:
        with contextlib.suppress(pa.ArrowException, OverflowError):
            members.append(pa.scalar(value, kind).as_py())
    return pa.array(members, kind)


def _possible(how: str, value: Any, smallest: Any, largest: Any) -> bool:
    if how == "==":
        return bool(smallest <= value <= largest)
    if how == "in":
        return any(smallest <= single <= largest for single in value)
    if how in ("<", "<="):
        return bool(smallest < value or (how == "<=" and smallest == value))
    if how in (">", ">="):
        return bool(largest > value or (how == ">=" and largest == value))
    return True  # a range says little of what is not equal


def ranges_of(group: Any, names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Smallest and largest value by column, of those of a row group (`pq.RowGroupMetaData`) that have them recorded."""
    found = {}
    for i in range(group.num_columns):
        column = group.column(i)
        statistics = column.statistics if column.path_in_schema in names else None
        if statistics is not None and statistics.has_min_max:
            found[column.path_in_schema] = (statistics.min, statistics.max)
    return found
