"""The configs of a dataset folder as targets of a verification: reads their Parquet files and weights files strictly.

P numbers of a state, K states of a row group.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from .._util import SPLITS, one_line
from ..builder import BYTE_RANGE_FIELDS, TableSchema
from ..errors import FormatError
from ..loading import Shard
from ..weights import Layout
from ..zoo import (
    ZOO_FILE,
    ByteRange,
    DatasetInfo,
    Footer,
    TableFile,
    ZooInfo,
    assign_trajectory_files,
    make_trajectory_header,
    open_parquet,
    read_footers,
    read_state,
)
from .base import Check, Key, StoredState, Target

REMEDY = "build the dataset again"
_REQUIRED = ("model_id", "epoch", "seed", "finite", "sha256")  # columns that must have a value in every row


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One config of a dataset folder, with everything of it that can be read."""

    path: Path  # the dataset folder
    name: str
    columns: TableSchema
    target: Target
    scalars: Mapping[str, pa.Table]  # split -> its rows without weights
    files: Check  # that the files exist, can be read and have the columns of this format
    footers: Mapping[str, Footer]  # by path in the dataset folder; of older formats none


def open_dataset(path: Path) -> tuple[DatasetInfo, list[DatasetConfig]]:
    """Open all configs of a dataset folder.

    Returns:
        The content of its zoo.json, and the configs.

    Raises:
        FormatError: zoo.json is malformed.
    """
    info = DatasetInfo.read(path)
    return info, [_open_config(path, name, zoo) for name, zoo in info.configs.items()]


def _open_config(path: Path, name: str, info: ZooInfo) -> DatasetConfig:
    malformed = f"{path / ZOO_FILE} is not what modelzoo-build writes"
    if info.recipe.config != name:
        raise FormatError(f"{malformed}: config {name!r} holds the values of {info.recipe.config!r}; {REMEDY}")
    if info.weights is None:
        raise FormatError(f"{malformed}: 'weights' of {name} must be inline or files, got None; {REMEDY}")
    shards = _Shards(path, read_footers(path))
    columns = shards.find_columns(path / name, TableSchema.from_info(info))
    for split in SPLITS:
        shards.open_split(path / name, split, columns)
    scalars = shards.concat_tables(columns.index.names)
    tables = scalars or {"": columns.index.empty_table()}
    weights: _Shards | TrajectoryFiles = shards
    files = Check(f"{name}: files", shards.num_files, shards.problems)
    if info.weights == "files":
        locations = shards.concat_tables(["model_id", "epoch", *(column.name for column in BYTE_RANGE_FIELDS)])
        weights = TrajectoryFiles.from_tables(path, name, info.layout, locations)
        files = Check(files.name, files.n + weights.count, files.problems + weights.problems)
    target = Target(
        info=info,
        members=info.members(path / ZOO_FILE),
        table=pd.concat([_to_frame(table, split, columns) for split, table in tables.items()], ignore_index=True),
        readers=weights.readers(),
        read_weights=weights.read_weights,
        find_path=weights.find_path,
        suggest_repair=lambda model_id: REMEDY,
    )
    return DatasetConfig(
        path=path, name=name, columns=columns, target=target, scalars=scalars, files=files, footers=shards.footers
    )


def _to_frame(table: pa.Table, split: str, columns: TableSchema) -> pd.DataFrame:
    """Return the rows of a split; columns that nothing recorded have no values."""
    empty: dict[str, Any] = dict.fromkeys(columns.absent)
    frame: pd.DataFrame = table.to_pandas().assign(split=split, **empty)
    return frame


@dataclass(frozen=True)
class _RowGroup:
    path: Path
    number: int
    split: str
    table: pa.Table  # all columns but the weights
    num_parameters: int  # P
    footer: Footer | None

    @property
    def keys(self) -> list[Key]:
        return list(zip(self.table["model_id"].to_pylist(), self.table["epoch"].to_pylist(), strict=True))

    def read_states(self) -> Iterator[StoredState]:
        """Read the states of the row group."""
        try:
            weights = self.read_weights()
        except FormatError as error:
            for model_id, epoch in self.keys:
                yield StoredState(model_id, epoch, None, problem=f"cannot read {model_id} epoch {epoch}: {error}")
            return
        for key, row in zip(self.keys, weights, strict=True):
            yield StoredState(*key, row)

    def read_weights(self) -> Tensor:
        """Read the weights (K, P) of the row group; raises FormatError."""
        shard = Shard(self.path, str(self.path), footer=self.footer)
        return torch.tensor(shard.read_weights(self.number, self.num_parameters))


@dataclass
class _Shards:
    """The Parquet files of one config."""

    folder: Path  # the dataset folder
    footers: Mapping[str, Footer]
    num_files: int = 0
    groups: list[_RowGroup] = field(default_factory=list)
    places: dict[Key, _RowGroup] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def find_columns(self, config: Path, columns: TableSchema) -> TableSchema:
        """Return the columns as the first file of a config that can be read has them."""
        for path in sorted(config.glob("*.parquet")):
            with contextlib.suppress(OSError, pa.ArrowException, FormatError), self._open(path) as file:
                return columns.as_stored(file.schema)
        return columns

    def _open(self, path: Path) -> TableFile:
        return open_parquet(path, self._find_footer(path))

    def _find_footer(self, path: Path) -> Footer | None:
        return self.footers.get(path.relative_to(self.folder).as_posix())

    def open_split(self, folder: Path, split: str, columns: TableSchema) -> None:
        """Read the tables of all files of a split, and report files that cannot be read."""
        files = sorted(folder.glob(f"{split}-*.parquet"))
        if files != [folder / f"{split}-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]:
            names = ", ".join(path.name for path in files)
            self.problems.append(f"{folder}: {names} are not all the files of {split}; {REMEDY}")
        for path in files:
            self.num_files += 1
            try:
                self._open_file(path, split, columns)
            except (OSError, pa.ArrowException, FormatError) as error:
                self.problems.append(f"cannot read {path}: {one_line(error)}; {REMEDY}")

    def _open_file(self, path: Path, split: str, columns: TableSchema) -> None:
        extra = [column.name for column in BYTE_RANGE_FIELDS] if columns.weights == "files" else []
        with self._open(path) as file:
            if not (schema := file.schema).equals(columns.full):
                difference = describe_difference(schema, columns.full)
                difference = difference or f"its columns must be {_describe(columns.full)}"
                self.problems.append(f"{path}: {difference}; {REMEDY}")
                return
            names = [*columns.index.names, *extra]
            tables = [file.read([number], names) for number in range(file.metadata.num_row_groups)]
        if empty := [name for name in (*_REQUIRED, *extra) if any(table[name].null_count for table in tables)]:
            self.problems.append(f"{path}: column {empty[0]!r} must have a value in every row; {REMEDY}")
            return
        for number, table in enumerate(tables):
            footer = self._find_footer(path)
            self.groups.append(_RowGroup(path, number, split, table, columns.num_parameters, footer))
            self.places |= dict.fromkeys(self.groups[-1].keys, self.groups[-1])

    def concat_tables(self, columns: Sequence[str]) -> dict[str, pa.Table]:
        """Return split -> some columns of all of its rows."""
        tables: dict[str, list[pa.Table]] = {}
        for group in self.groups:
            tables.setdefault(group.split, []).append(group.table.select(columns))
        return {split: pa.concat_tables(parts) for split, parts in tables.items()}

    def readers(self) -> Sequence[Callable[[], Iterator[StoredState]]]:
        """Return one reader per row group."""
        return [group.read_states for group in self.groups]

    def find_path(self, model_id: str, epoch: int) -> Path | None:
        """Return the file of a state."""
        group = self.places.get((model_id, epoch))
        return None if group is None else group.path

    def read_weights(self, model_id: str, epoch: int) -> Tensor:
        """Read the weights (P,) of one state; raises FormatError."""
        group = self.places[model_id, epoch]
        return group.read_weights()[group.keys.index((model_id, epoch))].clone()


def describe_difference(schema: pa.Schema, expected: pa.Schema) -> str | None:
    """Describe the first column whose name or type is not as expected, None if there is none."""
    for column in expected:
        if column.name not in schema.names:
            return f"it has no column {column.name!r}"
        if (kind := schema.field(column.name).type) != column.type:
            return f"column {column.name!r} must be {column.type}, it is {kind}"
    extra = [name for name in schema.names if name not in expected.names]
    return f"column {extra[0]!r} is unexpected" if extra else None


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{column.name} ({column.type}{'' if column.nullable else ' not null'})" for column in schema)


@dataclass
class TrajectoryFiles:
    """The weights files of one config, a trajectory each."""

    folder: Path  # the dataset folder
    layout: Layout
    count: int = 0  # files that there must be
    problems: list[str] = field(default_factory=list)
    places: dict[Key, tuple[Path, ByteRange]] = field(default_factory=dict)
    sound: dict[str, list[int]] = field(default_factory=dict)  # model -> epochs, for files that can be read

    @classmethod
    def from_tables(
        cls, folder: Path, config: str, layout: Layout, tables: Mapping[str, pa.Table]
    ) -> "TrajectoryFiles":
        """Find the files that tables locate, and the problems with them.

        Args:
            folder: the dataset folder.
            config: the name of the config.
            layout: the layout of a state.
            tables: split -> model_id, epoch and the columns `BYTE_RANGE_FIELDS`.
        """
        files = cls(folder, layout)
        for split, table in tables.items():
            models = {str(model): part for model, part in table.to_pandas().groupby("model_id", sort=False)}
            paths = assign_trajectory_files(config, split, list(models))
            for model, part in models.items():
                files._add_model(model, part, paths[model])
        known = {path for path, _ in files.places.values()}
        present = (path for path in (folder / "weights" / config).rglob("*") if path.is_file())
        extra = sorted(path for path in present if path not in known)
        files.problems += [f"{path} belongs to no model of {config}; {REMEDY}" for path in extra]
        return files

    def _add_model(self, model: str, rows: pd.DataFrame, file: str) -> None:
        """Compare the rows of a model, and the header of its file, with those that the layout gives."""
        self.count += 1
        epochs = rows["epoch"].tolist()
        header, ranges = make_trajectory_header(self.layout, epochs)
        self.places |= {(model, e): (self.folder / file, place) for e, place in zip(epochs, ranges, strict=True)}
        names = [column.name for column in BYTE_RANGE_FIELDS]
        expected = pd.DataFrame([(file, place.key, place.offset, place.nbytes) for place in ranges], columns=names)
        for name in names:
            for epoch, value, recorded in zip(epochs, expected[name].tolist(), rows[name].tolist(), strict=True):
                if recorded != value:
                    difference = f"{name} of {model} epoch {epoch} must be {value!r}, got {recorded!r}"
                    self.problems.append(f"{difference}; {REMEDY}")
        if problem := _find_problem(self.folder / file, header, ranges):
            self.problems.append(f"{problem}; {REMEDY}")
        else:
            self.sound[model] = epochs

    def readers(self) -> Sequence[Callable[[], Iterator[StoredState]]]:
        """Return one reader per file that can be read."""
        return [partial(self._read_model, model) for model in self.sound]

    def _read_model(self, model: str) -> Iterator[StoredState]:
        for epoch in self.sound[model]:
            yield StoredState(model, epoch, self.read_weights(model, epoch))

    def find_path(self, model_id: str, epoch: int) -> Path | None:
        """Return the file of a state."""
        place = self.places.get((model_id, epoch))
        return None if place is None else place[0]

    def read_weights(self, model_id: str, epoch: int) -> Tensor:
        """Read the weights (P,) of one state; raises FormatError."""
        path, place = self.places[model_id, epoch]
        try:
            return read_state(path, place.offset, place.nbytes)
        except FormatError as error:
            raise FormatError(f"{error}; {REMEDY}") from error


def _find_problem(path: Path, header: bytes, ranges: Sequence[ByteRange]) -> str | None:
    """Return how a file differs from that of such states, None if it does not."""
    expected = ranges[-1].offset + ranges[-1].nbytes
    try:
        if (size := path.stat().st_size) != expected:
            return f"{path} must have {expected:,} bytes, it has {size:,}"
        with path.open("rb") as file:
            is_same = file.read(len(header)) == header
    except OSError as error:
        return f"cannot read {path}: {error.strerror or error}"
    return None if is_same else f"{path} does not hold the tensors of its model, epoch by epoch as its rows say"
