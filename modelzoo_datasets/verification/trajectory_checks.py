"""The weights of a config beside its tables: every file is the one that its rows point to, tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from torch import Tensor

from ..builder import BYTE_RANGE_FIELDS
from ..errors import FormatError
from ..weights import Layout
from ..zoo import ByteRange, read_state, trajectory_files, trajectory_header
from .target import Found, Key

REMEDY = "build the dataset again"


@dataclass
class WeightFiles:
    """The files of one config."""

    folder: Path  # of the dataset
    layout: Layout
    count: int = 0  # of files that there must be
    problems: list[str] = field(default_factory=list)
    places: dict[Key, tuple[Path, ByteRange]] = field(default_factory=dict)  # of all states
    sound: dict[str, list[int]] = field(default_factory=dict)  # model -> epochs, of files that can be read

    @classmethod
    def of(cls, folder: Path, config: str, layout: Layout, rows: Mapping[str, pd.DataFrame]) -> "WeightFiles":
        """The files that tables (by split) point to, and what is wrong with them.

        Args:
            rows: model_id, epoch and the columns `BYTE_RANGE_FIELDS`.
        """
        files = cls(folder, layout)
        for split, table in rows.items():
            models = {str(model): part for model, part in table.groupby("model_id", sort=False)}
            paths = trajectory_files(config, split, list(models))
            for model, part in models.items():
                files._take_in(model, part, paths[model])
        known = {path for path, _ in files.places.values()}
        found = (path for path in (folder / "weights" / config).rglob("*") if path.is_file())
        extra = sorted(path for path in found if path not in known)
        files.problems += [f"{path} belongs to no model of {config}; {REMEDY}" for path in extra]
        return files

    def _take_in(self, model: str, rows: pd.DataFrame, file: str) -> None:
        """One file, as the rows of its model must have it."""
        self.count += 1
        epochs = rows["epoch"].tolist()
        header, places = trajectory_header(self.layout, epochs)
        self.places |= {(model, e): (self.folder / file, place) for e, place in zip(epochs, places, strict=True)}
        wanted = [(file, place.key, place.offset, place.nbytes) for place in places]
        for name, values in zip((column.name for column in BYTE_RANGE_FIELDS), zip(*wanted, strict=True), strict=True):
            for epoch, value, found in zip(epochs, values, rows[name].tolist(), strict=True):
                if found != value:
                    self.problems.append(f"{name} of {model} epoch {epoch} is {found!r}, not {value!r}; {REMEDY}")
        if problem := _problem(self.folder / file, header, places):
            self.problems.append(f"{problem}; {REMEDY}")
        else:
            self.sound[model] = epochs

    def parts(self) -> Sequence[Callable[[], Iterator[Found]]]:
        """All states of files that can be read, a file at a time."""
        return [partial(self._states_of, model) for model in self.sound]

    def _states_of(self, model: str) -> Iterator[Found]:
        for epoch in self.sound[model]:
            yield Found(model, epoch, self.weights(model, epoch))

    def where(self, model_id: str, epoch: int) -> str:
        """A state in words, with its file."""
        return f"{model_id} epoch {epoch}" + (f" ({place[0]})" if (place := self.places.get((model_id, epoch))) else "")

    def weights(self, model_id: str, epoch: int) -> Tensor:
        """Weights (P,) of one state; raises FormatError."""
        path, place = self.places[model_id, epoch]
        try:
            return read_state(path, place.offset, place.nbytes)
        except FormatError as error:
            raise FormatError(f"{error}; {REMEDY}") from error


def _problem(path: Path, header: bytes, places: Sequence[ByteRange]) -> str | None:
    """What makes a file another than that of such states."""
    size = places[-1].offset + places[-1].nbytes
    try:
        if (found := path.stat().st_size) != size:
            return f"{path} must have {size:,} bytes, it has {found:,}"
        with path.open("rb") as file:
            same = file.read(len(header)) == header
    except OSError as error:
        return f"cannot read {path}: {error.strerror or error}"
    return None if same else f"{path} does not hold the tensors of its model, epoch by epoch as its rows say"
