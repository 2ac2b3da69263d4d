"""One Parquet file of a split, local or on the Hub: reads only the requested row groups and columns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .._util import one_line
from ..errors import FormatError, HubError
from ..hub import RangeReader, RemoteFile
from ..zoo import Footer, TableFile, size_on_disk
from .cache import CacheEntry
from .cached_shard import CachedShard

WEIGHTS = "weights"
LOCATION_COLUMNS = ("weights_file", "offset", "nbytes")  # the byte range of weights that are stored in other files


@dataclass
class Shard:
    """A Parquet file whose footer is read once; it is not thread-safe, so every thread takes its own `clone()`."""

    file: Path | RemoteFile
    name: str  # to name the file in messages
    cache: bool = False  # whether to read the decoded file from the cache, and to add it
    footer: Footer | None = None  # the footer that the dataset lists; of older formats None

    @property
    def has_checksum(self) -> bool:
        """True if the footer is compared with a checksum, so that its statistics can be used."""
        return self.footer is not None

    def clone(self) -> "Shard":
        """Return the same file, opened again without reading its footer; a file on the Hub is returned itself."""
        if not isinstance(self.file, Path):
            return self
        other = Shard(self.file, self.name, footer=self.footer)
        other.__dict__ |= {"metadata": self.metadata, "schema": self.schema, "nbytes": self.nbytes}
        return other

    @cached_property
    def entry(self) -> CacheEntry | None:
        """The entry in the cache, or None; ask for it before anything is read, because it identifies the content."""
        return CacheEntry.from_file(self.file) if self.cache and isinstance(self.file, Path) else None

    @cached_property
    def cache_content(self) -> CachedShard | None:
        """The decoded file in the cache, if it is there."""
        return self.entry.read() if self.entry is not None else None

    def forget_cache(self) -> None:
        """Read the file itself from now on, because its entry in the cache is damaged."""
        self.__dict__["cache_content"] = None

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        """The footer: offsets and statistics of every column of every row group.

        `column` and `statistics` of a footer without checksum must not be used: damage would end the process.
        """
        with self._translate_errors():
            if self.footer is None:
                return pq.ParquetFile(self._source).metadata
            if isinstance(self._source, RangeReader):
                return self.footer.read(self._source)
            with self._source.open("rb") as file:
                return self.footer.read(file)

    @cached_property
    def nbytes(self) -> int:
        """The size of the file in bytes."""
        return count_file_bytes(self.file)

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self.metadata.schema.to_arrow_schema()

    @cached_property
    def row_offsets(self) -> np.ndarray:
        """The index of the first row of each row group, followed by the number of rows."""
        counts = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Read some columns of some row groups.

        Raises:
            FormatError: The file is damaged.
            HubError: The file is on the Hub, and the Hub cannot be reached.
        """
        with self._translate_errors():
            if not len(groups):  # pyarrow 18 cannot read no row group
                schema = self.schema.remove_metadata()
                return schema.empty_table().select([name for name in schema.names if name in columns])
            self.fetch_ahead(groups, columns)
            # If pyarrow's threads call into Python, they can hang the interpreter at its exit (apache/arrow#45214), so
            # remote files, which are read through Python, are read without them.
            table = self._reader.read(groups, columns, use_threads=isinstance(self.file, Path))
        return table.replace_schema_metadata(None)

    def read_weights(self, group: int, num_parameters: int) -> np.ndarray:
        """Read the weights (n, P) of a row group as a view of Arrow's memory.

        Args:
            group: The index of the row group.
            num_parameters: P, the numbers of a state.

        Raises:
            FormatError: The file is damaged, or its weights do not have P float32 numbers each.
            HubError: The file is on the Hub, and the Hub cannot be reached.
        """
        kind = self.schema.field(WEIGHTS).type if WEIGHTS in self.schema.names else None
        shape = (kind.list_size, kind.value_type) if kind is not None and pa.types.is_fixed_size_list(kind) else None
        if shape != (num_parameters, pa.float32()):
            raise FormatError(
                f"{self.name}: expected weights of {num_parameters} float32 numbers, as layout.json says, "
                f"got {'no weights' if kind is None else kind}; build the dataset again"
            )
        column = self.read([group], [WEIGHTS])[WEIGHTS]
        numbers = (column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()).flatten()
        if column.null_count or numbers.null_count:
            count = column.null_count or numbers.null_count
            raise FormatError(f"{self.name}: expected weights in every row, got {count} nulls; build the dataset again")
        rows: np.ndarray = numbers.to_numpy(zero_copy_only=True).reshape(-1, num_parameters)
        return rows

    def fetch_ahead(self, groups: Sequence[int], columns: Sequence[str]) -> None:
        """Fetch the bytes of these columns of these row groups in one request, if the file is on the Hub."""
        if isinstance(self._source, RangeReader):
            self._source.fetch_ahead(*self._byte_range(groups, columns))

    @cached_property
    def _source(self) -> Path | RangeReader:
        return self.file if isinstance(self.file, Path) else self.file.open()

    @cached_property
    def _reader(self) -> TableFile:
        # Weights have no redundancy: without checksums, a flipped bit would decode to another number unnoticed.
        options = {"has_checksum": self.has_checksum, "pre_buffer": False, "page_checksum_verification": True}
        return TableFile(self._source, self.nbytes, self.name, self.metadata, **options)

    def _byte_range(self, groups: Sequence[int], columns: Sequence[str]) -> tuple[int, int]:
        """Return the smallest range [begin, end) of bytes that holds these columns of these row groups."""
        if not self.has_checksum:
            return 0, self.nbytes
        ranges = []
        for group in (self.metadata.row_group(i) for i in groups):
            for column in (group.column(i) for i in range(group.num_columns)):
                if column.path_in_schema.split(".")[0] in columns:
                    begin = min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset)
                    ranges.append((begin, begin + column.total_compressed_size))
        return min(begin for begin, _ in ranges), max(end for _, end in ranges)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except HubError:
            raise
        except (OSError, pa.ArrowException, FormatError) as error:
            again = "build the dataset again" if isinstance(self.file, Path) else "load it again"
            raise FormatError(
                f"cannot read {self.name}: expected an intact Parquet file, got {one_line(error)!r}; "
                f"{again}, or copy the file again"
            ) from error


def count_file_bytes(file: Path | RemoteFile) -> int:
    """Return the size of a file in bytes; the holes of a local file count nothing."""
    return size_on_disk(file.stat()) if isinstance(file, Path) else file.size
