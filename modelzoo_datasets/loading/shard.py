"""One Parquet file of a split, on this machine or on the Hub: its rows by row group, no more read than is asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import FormatError, ModelZooError
from ..hub import RangeReader, RemoteFile
from .cache import CachedShard, CacheEntry
from .query import PLACE, WEIGHTS, Query, ranges_of


@dataclass
class Shard:
    """A Parquet file; its footer is read once. Threads take a `clone` each."""

    file: Path | RemoteFile
    name: str  # of the files it is one of, for messages
    cache: bool = False  # whether to read and keep it decoded

    def clone(self) -> "Shard":
        """The same file, opened anew, with the footer that is known already; on the Hub itself, for one thread."""
        if not isinstance(self.file, Path):
            return self
        other = Shard(self.file, self.name)
        other.__dict__["metadata"] = self.metadata
        return other

    @cached_property
    def entry(self) -> CacheEntry | None:
        """Its place in the cache; None where it has none. To be asked before anything is read: of what is read then."""
        return CacheEntry.of(self.file) if self.cache and isinstance(self.file, Path) else None

    @cached_property
    def kept(self) -> CachedShard | None:
        """What the cache has of it."""
        return self.entry.read() if self.entry is not None else None

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        """The footer: where each column of each row group lies, and between which values."""
        with self._told():
            if isinstance(self.file, Path):
                return pq.read_metadata(self.file)
            return pq.ParquetFile(self._source).metadata

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self.metadata.schema.to_arrow_schema()

    @cached_property
    def begins(self) -> np.ndarray:
        """Number of the first row of each row group, and behind them the number of rows."""
        counts = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def groups(self, wanted: Query) -> list[int]:
        """The row groups that may have a row that is wanted, by the ranges of their values."""
        wanted.check(self.schema)
        names = [name for name, _, _ in wanted.filters]
        every = range(self.metadata.num_row_groups)
        return (
            [i for i in every if wanted.may_be_in(ranges_of(self.metadata.row_group(i), names))] if names else [*every]
        )

    def read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Some columns of some row groups.

        Raises:
            FormatError: the file is damaged.
            HubError: it is on the Hub, which cannot be reached.
        """
        with self._told():
            if len(groups):
                self.fetch_ahead(groups, columns)
            # Threads of pyarrow that call into Python can hang the interpreter when it ends (apache/arrow#45214): it
            # gets none where a file is read through Python.
            table = self._reader.read_row_groups(list(groups), list(columns), use_threads=isinstance(self.file, Path))
        return table.replace_schema_metadata(None)

    def fetch_ahead(self, groups: Sequence[int], columns: Sequence[str]) -> None:
        """Of a file on the Hub, get the bytes of these columns of these row groups in one request."""
        if isinstance(self._source, RangeReader):
            self._source.fetch_ahead(*self._stretch(groups, columns))

    @cached_property
    def _source(self) -> Path | RangeReader:
        return self.file if isinstance(self.file, Path) else self.file.open()

    @cached_property
    def _reader(self) -> pq.ParquetFile:
        # Weights have no redundancy: what is damaged would be decoded to other numbers, without the checksums.
        return pq.ParquetFile(self._source, metadata=self.metadata, pre_buffer=False, page_checksum_verification=True)

    def _stretch(self, groups: Sequence[int], columns: Sequence[str]) -> tuple[int, int]:
        """The bytes [begin, end) of the file that hold these columns of these row groups, and what lies between."""
        places = []
        for group in (self.metadata.row_group(i) for i in groups):
            for column in (group.column(i) for i in range(group.num_columns)):
                if column.path_in_schema.split(".")[0] in columns:
                    begin = column.dictionary_page_offset or column.data_page_offset
                    begin = min(begin, column.data_page_offset)
                    places.append((begin, begin + column.total_compressed_size))
        return min(begin for begin, _ in places), max(end for _, end in places)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ModelZooError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise FormatError(f"cannot read {self.name}: {error}") from error


@dataclass(frozen=True)
class Selection:
    """Rows of a shard that are wanted."""

    shard: Shard
    rows: np.ndarray  # their numbers in the file, ascending
    table: pa.Table  # of each the columns that were asked for
    places: pd.DataFrame | None = None  # of weights that are in files of their own: `PLACE` of each row

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, which: slice) -> "Selection":
        """Some of these rows."""
        begin, end, _ = which.indices(len(self))
        places = None if self.places is None else self.places[begin:end]
        return Selection(self.shard, self.rows[begin:end], self.table.slice(begin, end - begin), places)

    def by_group(self) -> Iterator[tuple[int, slice, np.ndarray]]:
        """Row groups that have any: number, which of the rows chosen, and their numbers within the row group."""
        begins = self.shard.begins
        cuts = np.searchsorted(self.rows, begins)
        for group in np.flatnonzero(np.diff(cuts)).tolist():
            part = slice(int(cuts[group]), int(cuts[group + 1]))
            yield group, part, self.rows[part] - begins[group]


def select_rows(shard: Shard, wanted: Query, group: int | None = None) -> Selection:
    """The wanted rows of a shard, or of one row group of it, without their weights."""
    if shard.kept is not None:
        return _choose_kept(shard, shard.kept.table, wanted, group)
    among = shard.groups(wanted) if group is None else [group]
    read = shard.read(among, wanted.columns_of(shard.schema))
    kept = wanted.rows(read)
    counts = np.diff(shard.begins)[among]
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    numbers = np.arange(read.num_rows) + np.repeat(shard.begins[:-1][among] - first, counts)
    rows = read if len(kept) == read.num_rows else read.take(kept)
    places = rows.select(PLACE).to_pandas() if {*PLACE} <= {*rows.column_names} else None
    return Selection(shard, numbers[kept], wanted.shown(rows), places)


def _choose_kept(shard: Shard, table: pa.Table, wanted: Query, group: int | None) -> Selection:
    """Of a table in the cache: what is given is a copy."""
    wanted.check(table.schema)
    begin, end = (0, len(table)) if group is None else shard.begins[group : group + 2].tolist()
    numbers = begin + wanted.rows(table.slice(begin, end - begin))
    return Selection(shard, numbers, wanted.shown(table).take(numbers))


def weights_of(shard: Shard, group: int, parameters: int) -> np.ndarray:
    """The weights (n, P) of a row group, a view of Arrow's memory.

    Raises:
        FormatError: the file is damaged, or its weights are not P numbers each.
    """
    kind = shard.schema.field(WEIGHTS).type if WEIGHTS in shard.schema.names else None
    found = (kind.list_size, kind.value_type) if kind is not None and pa.types.is_fixed_size_list(kind) else None
    if found != (parameters, pa.float32()):
        raise FormatError(
            f"{shard.name}: expected weights of {parameters} float32 numbers, as layout.json has them, "
            f"got {'no weights' if kind is None else kind}; build the dataset again"
        )
    column = shard.read([group], [WEIGHTS])[WEIGHTS]
    numbers = (column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()).flatten()
    if column.null_count or numbers.null_count:
        raise FormatError(f"{shard.name}: some weights are missing; build the dataset again")
    rows: np.ndarray = numbers.to_numpy(zero_copy_only=True).reshape(-1, parameters)
    return rows
