"""Read a complete zoo folder: zoo.json, tables, and the weights of any state."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from ..architectures import Architecture
from ..errors import FormatError
from ..weights import Layout
from .atomic_io import read_table, read_tensors
from .bulk_read import fill_from_files, fill_from_pack, match
from .info import ZooInfo
from .packed import pack_rows, read_pack
from .paths import MODELS_FILE, STATES_FILE, VARIATIONAL, pack_path, require_zoo_file, state_name, state_path


def weights_sha256(weights: Tensor) -> str:
    """SHA-256 of a weight vector (P,) as little-endian float32: the same for the state file and the dataset row."""
    # Of the memory itself wherever it is like that.
    return hashlib.sha256(np.ascontiguousarray(weights.numpy(), "<f4").data).hexdigest()


@dataclass(frozen=True)
class ZooFolder:
    """A zoo on disk, as `modelzoo-generate` leaves it."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "ZooFolder":
        """Check that this is a complete zoo folder of this format; raises FormatError."""
        require_zoo_file(path, "zoo folder")
        folder = cls(path)
        _ = folder.info  # which checks it
        if not (path / STATES_FILE).is_file():
            raise FormatError(f"{path} is not complete; run its {folder.maker} command again")
        return folder

    @cached_property
    def info(self) -> ZooInfo:
        """The content of zoo.json."""
        return ZooInfo.read(self.path)

    @cached_property
    def models(self) -> pd.DataFrame:
        """One row per model: id, seed, split, every hyper-parameter."""
        return self._table(MODELS_FILE)

    @cached_property
    def states(self) -> pd.DataFrame:
        """One row per state: model, epoch, metrics, sha256."""
        return self._table(STATES_FILE)

    def _table(self, name: str) -> pd.DataFrame:
        try:
            return read_table(self.path / name)
        except FormatError as error:
            raise FormatError(f"{error}; remove it and run {self.maker} again to make it anew") from error

    @property
    def architecture(self) -> Architecture:
        """The architecture of all its models."""
        return self.info.find_architecture()

    @cached_property
    def layout(self) -> Layout:
        """The layout of all its weight vectors."""
        return self.info.layout

    @property
    def imported(self) -> bool:
        """Whether its models were trained elsewhere."""
        return self.info.imported is not None

    @property
    def maker(self) -> str:
        """The command that wrote it."""
        return "modelzoo-import" if self.imported else "modelzoo-generate"

    @property
    def packed(self) -> bool:
        """Whether the states are stacked in packed files."""
        return self.info.packed

    def weights(self, model_id: str, epoch: int) -> Tensor:
        """Weights (P,) of one state, read from its file; raises FormatError if it is unreadable or of other shapes."""
        path = self._path(model_id, epoch)
        state = self._read(path, model_id, epoch)
        if self.packed:
            state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{VARIATIONAL}.")}
        slots = match(list(state), self.layout)
        if slots is None:
            count = len(self.layout.slots)
            raise FormatError(f"{path} holds {len(state)} tensors, a state of {self.path} has {count}")
        try:
            return self.layout.pack({slot.name: state[key] for key, slot in slots.items()})
        except FormatError as error:
            raise FormatError(f"{path} is no state of {self.path}: {error}") from error

    def trajectory(self, model_id: str, epochs: Sequence[int], out: Tensor) -> None:
        """Put the weights of states, by ascending epochs, into `out` (E, P); raises FormatError as `weights` does."""
        if not self._filled(model_id, epochs, out):
            for row, epoch in zip(out, epochs, strict=True):
                row.copy_(self.weights(model_id, epoch))

    def _filled(self, model_id: str, epochs: Sequence[int], out: Tensor) -> bool:
        if not self.packed:
            return fill_from_files(self.place(model_id), [state_name(epoch) for epoch in epochs], self.layout, out)
        path = self._path(model_id, epochs[0])
        try:
            first, count = self._rows_in(path, model_id)
        except FormatError:
            return False
        places = [self._place_in_pack(model_id, epoch) for epoch in epochs]
        in_a_row = places == list(range(places[0], places[0] + len(places)))
        if not in_a_row or places[0] < 0 or places[-1] >= count:
            return False
        return fill_from_pack(path, first + places[0], self.layout, out)

    def variational(self, model_id: str, epoch: int) -> dict[str, Tensor]:
        """Unpruned weights and log sigma² of one state of a sparsified twin, by name; raises FormatError."""
        if self.info.variational_layout is None:
            raise FormatError(f"{self.path} holds no sparsified twins")
        state = self._read(self._path(model_id, epoch, VARIATIONAL), model_id, epoch)
        if not self.packed:
            return state
        prefix = f"{VARIATIONAL}."
        return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

    def place(self, model_id: str) -> Path:
        """The folder or file in which the states of a model lie."""
        return self._path(model_id, 0) if self.packed else self._path(model_id, 0).parent

    def _path(self, model_id: str, epoch: int, kind: str = "states") -> Path:
        if not self.packed:
            return state_path(self.path, model_id, epoch, kind)
        if model_id not in self._index:
            raise FormatError(f"{self.path} has no model {model_id!r}")
        return pack_path(self.path, self._index[model_id], self.info.models_per_file or 1)

    @cached_property
    def _index(self) -> dict[str, int]:
        return dict(zip(self.models["model_id"], self.models["index"], strict=True))

    def _read(self, path: Path, model_id: str, epoch: int) -> dict[str, Tensor]:
        try:
            if not self.packed:
                return read_tensors(path)
            first, count = self._rows_in(path, model_id)
            place = self._place_in_pack(model_id, epoch)
            if not 0 <= place < count:
                raise FormatError(f"cannot read packed states {path}: it has no epoch {epoch} of {model_id}")
            return {name: rows[0] for name, rows in read_pack(path, first + place, 1).items()}
        except FormatError as error:
            raise FormatError(f"{error}; run {self.maker} again to restore it") from error

    def _rows_in(self, path: Path, model_id: str) -> tuple[int, int]:
        """First row and number of rows of a model in a packed file."""
        if path not in self._packs:
            self._packs[path] = pack_rows(path)
        return self._packs[path].get(model_id, (0, 0))

    def _place_in_pack(self, model_id: str, epoch: int) -> int:
        """Which of the states of its model a state is; -1 for one that is not there."""
        if not self.imported:  # then all epochs are there
            return epoch
        return self._places.get((model_id, epoch), -1)

    @cached_property
    def _places(self) -> dict[tuple[str, int], int]:
        place = self.states.groupby("model_id")["epoch"].rank().astype(int) - 1
        return dict(zip(zip(self.states["model_id"], self.states["epoch"], strict=True), place, strict=True))

    @cached_property
    def _packs(self) -> dict[Path, dict[str, tuple[int, int]]]:
        return {}
