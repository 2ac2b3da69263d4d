"""Checks of weights that are stored beside the tables: every file is the one that its rows locate, tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from torch import Tensor

from ..builder import BYTE_RANGE_FIELDS
from ..errors import FormatError
from ..weights import Layout
from ..zoo import ByteRange, assign_trajectory_files, make_trajectory_header, read_state
from .target import Key, StoredState

REMEDY = "build the dataset again"


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
        cls, folder: Path, config: str, layout: Layout, tables: Mapping[str, pd.DataFrame]
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
            models = {str(model): part for model, part in table.groupby("model_id", sort=False)}
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
        expected = [(file, place.key, place.offset, place.nbytes) for place in ranges]
        for name, values in zip(
            (column.name for column in BYTE_RANGE_FIELDS), zip(*expected, strict=True), strict=True
        ):
            for epoch, value, recorded in zip(epochs, values, rows[name].tolist(), strict=True):
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

    def locate(self, model_id: str, epoch: int) -> str:
        """Name a state with its file."""
        return f"{model_id} epoch {epoch}" + (f" ({place[0]})" if (place := self.places.get((model_id, epoch))) else "")

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
