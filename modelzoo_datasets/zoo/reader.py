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
from .bulk_read import fill_from_files, fill_from_pack, match_slots
from .info import ZooInfo
from .packed import read_pack, read_pack_index
from .paths import MODELS_FILE, STATES_FILE, VARIATIONAL, pack_path, require_zoo_file, state_name, state_path
from .tensor_io import read_table, read_tensors


def hash_weights(weights: Tensor) -> str:
    """Return the SHA-256 of a weight vector (P,) as little-endian float32, which zoo and dataset folders record."""
    # No copy is made of memory that is like that already.
    return hashlib.sha256(np.ascontiguousarray(weights.numpy(), "<f4").data).hexdigest()


@dataclass(frozen=True)
class ZooFolder:
    """A complete zoo on disk, as `modelzoo-generate` and `modelzoo-import` write it."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "ZooFolder":
        """Open a folder; raises FormatError unless it is a complete zoo folder of this format."""
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
        """The table with one row per model: id, seed, split and hyperparameters."""
        return self._read_table(MODELS_FILE)

    @cached_property
    def states(self) -> pd.DataFrame:
        """The table with one row per state: model, epoch, metrics and hash."""
        return self._read_table(STATES_FILE)

    def _read_table(self, name: str) -> pd.DataFrame:
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
    def is_imported(self) -> bool:
        """True if its models were trained elsewhere."""
        return self.info.import_info is not None

    @property
    def maker(self) -> str:
        """The command that wrote it."""
        return "modelzoo-import" if self.is_imported else "modelzoo-generate"

    @property
    def is_packed(self) -> bool:
        """True if the states are stacked in packed files."""
        return self.info.is_packed

    def weights(self, model_id: str, epoch: int) -> Tensor:
        """Read the weights (P,) of one state; raises FormatError where the file is unreadable or has other tensors."""
        path = self._path(model_id, epoch)
        state = self._read(path, model_id, epoch)
        if self.is_packed:
            state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{VARIATIONAL}.")}
        slots = match_slots(list(state), self.layout)
        if slots is None:
            count = len(self.layout.slots)
            raise FormatError(f"{path} holds {len(state)} tensors, a state of {self.path} has {count}")
        try:
            return self.layout.pack({slot.name: state[key] for key, slot in slots.items()})
        except FormatError as error:
            raise FormatError(f"{path} is no state of {self.path}: {error}") from error

    def read_trajectory(self, model_id: str, epochs: Sequence[int], out: Tensor) -> None:
        """Read the states of one model.

        Args:
            model_id: The model.
            epochs: E epochs, ascending.
            out: A float32 tensor (E, P), filled row by row.

        Raises:
            FormatError: A file is unreadable or has other tensors.
        """
        if not self._read_at_once(model_id, epochs, out):
            for row, epoch in zip(out, epochs, strict=True):
                row.copy_(self.weights(model_id, epoch))

    def _read_at_once(self, model_id: str, epochs: Sequence[int], out: Tensor) -> bool:
        if not self.is_packed:
            names = [state_name(epoch) for epoch in epochs]
            return fill_from_files(self.states_path(model_id), names, self.layout, out)
        path = self._path(model_id, epochs[0])
        try:
            first, count = self._rows_in(path, model_id)
        except FormatError:
            return False
        rows = [self._row_in_pack(model_id, epoch) for epoch in epochs]
        if rows != list(range(rows[0], rows[0] + len(rows))) or rows[0] < 0 or rows[-1] >= count:
            return False
        return fill_from_pack(path, first + rows[0], self.layout, out)

    def read_variational(self, model_id: str, epoch: int) -> dict[str, Tensor]:
        """Read unpruned weights and log sigma² of one state of a sparsified twin, by name; raises FormatError."""
        if self.info.variational_layout is None:
            raise FormatError(f"{self.path} holds no sparsified twins")
        state = self._read(self._path(model_id, epoch, VARIATIONAL), model_id, epoch)
        if not self.is_packed:
            return state
        prefix = f"{VARIATIONAL}."
        return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

    def states_path(self, model_id: str) -> Path:
        """Return the folder or packed file that holds the states of a model."""
        return self._path(model_id, 0) if self.is_packed else self._path(model_id, 0).parent

    def _path(self, model_id: str, epoch: int, kind: str = "states") -> Path:
        if not self.is_packed:
            return state_path(self.path, model_id, epoch, kind)
        if model_id not in self._index:
            raise FormatError(f"{self.path} has no model {model_id!r}")
        return pack_path(self.path, self._index[model_id], self.info.models_per_file or 1)

    @cached_property
    def _index(self) -> dict[str, int]:
        return dict(zip(self.models["model_id"], self.models["index"], strict=True))

    def _read(self, path: Path, model_id: str, epoch: int) -> dict[str, Tensor]:
        try:
            if not self.is_packed:
                return read_tensors(path)
            first, count = self._rows_in(path, model_id)
            row = self._row_in_pack(model_id, epoch)
            if not 0 <= row < count:
                raise FormatError(f"cannot read packed states {path}: it has no epoch {epoch} of {model_id}")
            return {name: rows[0] for name, rows in read_pack(path, first + row, 1).items()}
        except FormatError as error:
            raise FormatError(f"{error}; run {self.maker} again to restore it") from error

    def _rows_in(self, path: Path, model_id: str) -> tuple[int, int]:
        """Return the first row and the number of rows of a model in a packed file."""
        if path not in self._pack_indexes:
            self._pack_indexes[path] = read_pack_index(path)
        return self._pack_indexes[path].get(model_id, (0, 0))

    def _row_in_pack(self, model_id: str, epoch: int) -> int:
        """Return the row of a state among those of its model; -1 for a missing state."""
        if not self.is_imported:  # no epoch is missing
            return epoch
        return self._rows_by_state.get((model_id, epoch), -1)

    @cached_property
    def _rows_by_state(self) -> dict[tuple[str, int], int]:
        rows = self.states.groupby("model_id")["epoch"].rank().astype(int) - 1
        return dict(zip(zip(self.states["model_id"], self.states["epoch"], strict=True), rows, strict=True))

    @cached_property
    def _pack_indexes(self) -> dict[Path, dict[str, tuple[int, int]]]:
        return {}
