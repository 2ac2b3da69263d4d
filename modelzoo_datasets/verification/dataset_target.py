"""The configs of a dataset folder as targets of a verification: reads their Parquet files strictly.

P numbers of a state, K states of a row group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .._util import SPLITS, one_line
from ..builder import BYTE_RANGE_FIELDS, TableSchema
from ..errors import FormatError
from ..loading import Shard
from ..zoo import ZOO_FILE, DatasetInfo, ZooInfo
from .check import Check
from .target import Key, StoredState, Target
from .trajectory_checks import REMEDY as REMEDY
from .trajectory_checks import TrajectoryFiles

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
    problem = None
    if info.recipe.config != name:
        problem = f"config {name!r} holds the values of {info.recipe.config!r}"
    elif info.weights is None:
        problem = f"'weights' of {name} must be inline or files, got None"
    if problem:
        raise FormatError(f"{path / ZOO_FILE} is not what modelzoo-build writes: {problem}; {REMEDY}")
    columns, members = TableSchema.from_info(info), info.members(path / ZOO_FILE)
    shards = _Shards(columns)
    for split in SPLITS:
        shards.open_split(path / name, split)
    files: TrajectoryFiles | None = None
    if columns.weights == "files":
        files = TrajectoryFiles.from_tables(path, name, info.layout, shards.read_locations())
    target = Target(
        info=info,
        members=members,
        table=shards.read_table(),
        readers=files.readers() if files else [partial(shards.read_states, *group) for group in shards.groups],
        read_weights=(files or shards).read_weights,
        locate=(files or shards).locate,
        suggest_repair=lambda model_id: REMEDY,
    )
    num_files, problems = (files.count, files.problems) if files else (0, [])
    return DatasetConfig(
        path=path,
        name=name,
        columns=columns,
        target=target,
        scalars={split: pa.concat_tables(tables) for split, tables in shards.scalars.items()},
        files=Check(f"{name}: files", shards.num_files + num_files, shards.problems + problems),
    )


@dataclass
class _Shards:
    """The Parquet files of one config."""

    columns: TableSchema
    num_files: int = 0
    groups: list[tuple[Path, int]] = field(default_factory=list)  # file, row group: one reader each
    places: dict[Key, tuple[Path, int]] = field(default_factory=dict)
    scalars: dict[str, list[pa.Table]] = field(default_factory=dict)  # split -> rows without weights by row group
    locations: dict[str, list[pa.Table]] = field(default_factory=dict)  # split -> files of weights by row group
    problems: list[str] = field(default_factory=list)

    def open_split(self, folder: Path, split: str) -> None:
        """Read the tables of all files of a split, and report files that cannot be read."""
        files = sorted(folder.glob(f"{split}-*.parquet"))
        if files != [folder / f"{split}-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]:
            names = ", ".join(path.name for path in files)
            self.problems.append(f"{folder}: {names} are not all the files of {split}; {REMEDY}")
        for path in files:
            self.num_files += 1
            try:
                self._open_file(path, split)
            except (OSError, pa.ArrowException) as error:
                self.problems.append(f"cannot read {path}: {one_line(error)}; {REMEDY}")

    def _open_file(self, path: Path, split: str) -> None:
        extra = [column.name for column in BYTE_RANGE_FIELDS] if self.columns.weights == "files" else []
        index, expected = self.columns.index.names, self.columns.full
        with pq.ParquetFile(path) as file:
            if not (schema := file.schema_arrow).equals(expected):
                difference = describe_difference(schema, expected) or f"its columns must be {_describe(expected)}"
                self.problems.append(f"{path}: {difference}; {REMEDY}")
                return
            tables = [file.read_row_group(group, [*index, *extra]) for group in range(file.num_row_groups)]
        if empty := [name for name in (*_REQUIRED, *extra) if any(table[name].null_count for table in tables)]:
            self.problems.append(f"{path}: column {empty[0]!r} must have a value in every row; {REMEDY}")
            return
        for group, table in enumerate(tables):
            self.groups.append((path, group))
            self.scalars.setdefault(split, []).append(table.select(index))
            self.locations.setdefault(split, []).append(table.select(["model_id", "epoch", *extra]))
            self.places |= dict.fromkeys(_read_keys(table), (path, group))

    def read_table(self) -> pd.DataFrame:
        """Return every row without its weights, with its split."""
        frames = [table.to_pandas().assign(split=split) for split, tables in self.scalars.items() for table in tables]
        empty = self.columns.index.empty_table().to_pandas().assign(split="")
        table: pd.DataFrame = pd.concat(frames, ignore_index=True) if frames else empty
        return table

    def read_locations(self) -> dict[str, pd.DataFrame]:
        """Return split -> model, epoch and the location of the weights of each row."""
        return {split: pa.concat_tables(tables).to_pandas() for split, tables in self.locations.items()}

    def read_states(self, path: Path, group: int) -> Iterator[StoredState]:
        """Read the states of one row group."""
        try:
            keys, weights = self._read_group(path, group)
        except FormatError as error:
            for key in (key for key, place in self.places.items() if place == (path, group)):
                yield StoredState(*key, None, problem=f"cannot read {key[0]} epoch {key[1]}: {error}")
            return
        for key, row in zip(keys, weights, strict=True):
            yield StoredState(*key, row)

    def locate(self, model_id: str, epoch: int) -> str:
        """Name a state with its file."""
        return f"{model_id} epoch {epoch}" + (f" ({place[0]})" if (place := self.places.get((model_id, epoch))) else "")

    def read_weights(self, model_id: str, epoch: int) -> Tensor:
        """Read the weights (P,) of one state; raises FormatError."""
        keys, weights = self._read_group(*self.places[model_id, epoch])
        return weights[keys.index((model_id, epoch))].clone()

    def _read_group(self, path: Path, group: int) -> tuple[list[Key], Tensor]:
        """Read the keys of the K states of a row group and their weights (K, P); raises FormatError."""
        shard = Shard(path, str(path))
        weights = shard.read_weights(group, self.columns.num_parameters)
        return _read_keys(shard.read([group], ["model_id", "epoch"])), torch.tensor(weights)


def _read_keys(table: pa.Table) -> list[Key]:
    return list(zip(table["model_id"].to_pylist(), table["epoch"].to_pylist(), strict=True))


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
