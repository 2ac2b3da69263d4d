"""A dataset folder as subjects, one per config: its Parquet files, read strictly."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .._util import SPLITS
from ..builder import BYTE_RANGE_FIELDS, TableSchema
from ..errors import FormatError
from ..zoo import ZOO_FILE, DatasetInfo, ZooInfo
from .check import Check
from .target import Found, Key, Target
from .trajectory_checks import REMEDY as REMEDY
from .trajectory_checks import WeightFiles

_FILLED = ("model_id", "epoch", "seed", "finite", "sha256")  # columns without which no state is known


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One config of a dataset folder, as far as its files can be read."""

    path: Path  # of the dataset folder
    name: str
    columns: TableSchema
    subject: Target
    scalars: Mapping[str, pa.Table]  # split -> all its rows without weights
    files: Check  # whether they are there, can be read and have the columns of this format


def open_dataset(path: Path) -> tuple[DatasetInfo, list[DatasetConfig]]:
    """Open all configs of a dataset folder, with the content of its zoo.json.

    Raises:
        FormatError: zoo.json is malformed.
    """
    info = DatasetInfo.read(path)
    return info, [_open_config(path, name, zoo) for name, zoo in info.configs.items()]


def _open_config(path: Path, name: str, info: ZooInfo) -> DatasetConfig:
    if info.recipe.config != name:
        problem = f"config {name!r} holds the values of {info.recipe.config!r}"
        raise FormatError(f"{path / ZOO_FILE} is not what modelzoo-build writes: {problem}; {REMEDY}")
    if info.weights is None:
        problem = f"'weights' of {name} must be inline or files, got None"
        raise FormatError(f"{path / ZOO_FILE} is not what modelzoo-build writes: {problem}; {REMEDY}")
    layout, columns = info.layout, TableSchema.from_info(info)
    members, shards = info.members(path / ZOO_FILE), _Shards(columns)
    for split in SPLITS:
        shards.open(path / name, split)
    files = WeightFiles.of(path, name, layout, shards.places_in_files()) if columns.weights == "files" else None
    subject = Target(
        info=info,
        members=members,
        table=shards.table(),
        parts=files.parts() if files else [partial(shards.states_of, *group) for group in shards.groups],
        weights=(files or shards).weights,
        where=(files or shards).where,
        remedy=lambda model_id: REMEDY,
    )
    return DatasetConfig(
        path=path,
        name=name,
        columns=columns,
        subject=subject,
        scalars={split: pa.concat_tables(tables) for split, tables in shards.scalars.items()},
        files=_files_check(name, shards, files),
    )


def _files_check(name: str, shards: "_Shards", files: WeightFiles | None) -> Check:
    beside = (files.count, files.problems) if files else (0, [])
    return Check(f"{name}: files", shards.files + beside[0], shards.problems + beside[1])


@dataclass
class _Shards:
    """The Parquet files of one config, opened one after the other."""

    columns: TableSchema
    files: int = 0
    groups: list[tuple[Path, int]] = field(default_factory=list)  # file, row group: as many states as are read at once
    places: dict[Key, tuple[Path, int]] = field(default_factory=dict)
    scalars: dict[str, list[pa.Table]] = field(default_factory=dict)  # split -> per row group, without weights
    beside: dict[str, list[pa.Table]] = field(default_factory=dict)  # split -> per row group, where the weights lie
    problems: list[str] = field(default_factory=list)

    def open(self, folder: Path, split: str) -> None:
        """Take in all files of a split that can be read, and say what is wrong with the others."""
        found = sorted(folder.glob(f"{split}-*.parquet"))
        wanted = [folder / f"{split}-{i:05d}-of-{len(found):05d}.parquet" for i in range(len(found))]
        if found != wanted:
            names = ", ".join(path.name for path in found)
            self.problems.append(f"{folder}: {names} are not all the files of {split}; {REMEDY}")
        for path in found:
            self.files += 1
            try:
                self._take_in(path, split)
            except (OSError, pa.ArrowException) as error:
                self.problems.append(f"cannot read {path}: {error}; {REMEDY}")

    def _take_in(self, path: Path, split: str) -> None:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(self.columns.full):
                self.problems.append(f"{path}: {_difference(file.schema_arrow, self.columns.full)}; {REMEDY}")
                return
            beside = [column.name for column in BYTE_RANGE_FIELDS] if self.columns.weights == "files" else []
            tables = [file.read_row_group(g, [*self.columns.index.names, *beside]) for g in range(file.num_row_groups)]
        if empty := [name for name in (*_FILLED, *beside) if any(table[name].null_count for table in tables)]:
            self.problems.append(f"{path}: column {empty[0]!r} must have a value in every row; {REMEDY}")
            return
        for group, table in enumerate(tables):
            self.groups.append((path, group))
            self.scalars.setdefault(split, []).append(table.select(self.columns.index.names))
            self.beside.setdefault(split, []).append(table.select(["model_id", "epoch", *beside]))
            for key in zip(table["model_id"].to_pylist(), table["epoch"].to_pylist(), strict=True):
                self.places[key] = (path, group)

    def table(self) -> pd.DataFrame:
        """Every row without its weights, with its split."""
        frames = [table.to_pandas().assign(split=split) for split, tables in self.scalars.items() for table in tables]
        empty = self.columns.index.empty_table().to_pandas().assign(split="")
        table: pd.DataFrame = pd.concat(frames, ignore_index=True) if frames else empty
        return table

    def places_in_files(self) -> dict[str, pd.DataFrame]:
        """By split model, epoch and where the weights lie, row by row."""
        return {split: pa.concat_tables(tables).to_pandas() for split, tables in self.beside.items()}

    def states_of(self, path: Path, group: int) -> Iterator[Found]:
        """The states of one row group."""
        try:
            keys, weights = self._read(path, group)
        except (OSError, pa.ArrowException) as error:
            yield from (
                Found(*key, None, problem=f"cannot read {key[0]} epoch {key[1]} in {path}: {error}; {REMEDY}")
                for key, place in self.places.items()
                if place == (path, group)
            )
            return
        for key, row in zip(keys, weights, strict=True):
            yield Found(*key, row)

    def where(self, model_id: str, epoch: int) -> str:
        """A state in words, with its file."""
        return f"{model_id} epoch {epoch}" + (f" ({place[0]})" if (place := self.places.get((model_id, epoch))) else "")

    def weights(self, model_id: str, epoch: int) -> Tensor:
        """Weights (P,) of one state; raises FormatError."""
        path, group = self.places[model_id, epoch]
        try:
            keys, weights = self._read(path, group)
        except (OSError, pa.ArrowException) as error:
            raise FormatError(f"cannot read {path}: {error}; {REMEDY}") from error
        return weights[keys.index((model_id, epoch))].clone()

    def _read(self, path: Path, group: int) -> tuple[list[Key], Tensor]:
        """Keys of the K states of a row group, and their weights (K, P)."""
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group, ["model_id", "epoch", "weights"])
        keys = list(zip(table["model_id"].to_pylist(), table["epoch"].to_pylist(), strict=True))
        rows = table["weights"].combine_chunks().flatten().to_numpy()
        return keys, torch.tensor(rows).view(len(keys), self.columns.num_parameters)


def _difference(found: pa.Schema, wanted: pa.Schema) -> str:
    """The first column in which two schemas differ."""
    for name in wanted.names:
        if name not in found.names:
            return f"it has no column {name!r}"
        if not found.field(name).equals(wanted.field(name)):
            return f"column {name!r} must be {wanted.field(name).type}, it is {found.field(name).type}"
    if extra := [name for name in found.names if name not in wanted.names]:
        return f"column {extra[0]!r} is none of this format"
    return f"its columns must be in the order {', '.join(wanted.names)}"
