"""Read a complete zoo folder: zoo.json, tables, and the weights of any state.

E is the number of states that are read, P that of the numbers of one.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .._util import is_recipe_name
from ..architectures import Architecture
from ..errors import FormatError
from ..weights import Layout, Slot
from .info import ZooInfo
from .packed import fill_from_pack, read_pack, read_pack_index
from .paths import MODELS_FILE, STATES_FILE, VARIATIONAL, pack_path, require_zoo_file, state_name, state_path
from .plain_files import check_plain_file
from .safetensors_io import SafetensorsHeader, TensorEntry, header_size, read_tensors
from .tables import read_table

_MAX_HEADER = 1_000_000  # bytes of the header of a state that is read in the fast way
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a named pipe would wait for a writer


@dataclass(frozen=True)
class ZooFolder:
    """A complete zoo on disk, as `modelzoo-generate` and `modelzoo-import` write it."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "ZooFolder":
        """Open a folder; raises FormatError unless it is a complete zoo folder of this format."""
        require_zoo_file(path)
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
            check_plain_file(self.path / name, self.path)
            table = read_table(self.path / name)
            if "model_id" in table:
                _check_ids(table["model_id"], self.path / name)
            return table
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
        slots = self.layout.match_keys(state)
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
            if path.exists():  # the reader says what is missing
                check_plain_file(path, self.path)
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
            if path.exists():
                check_plain_file(path, self.path)
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


def _check_ids(ids: pd.Series, path: Path) -> None:
    """Raise FormatError unless each id can be the name of a folder: others could lead out of the zoo."""
    for model_id in ids.unique():
        if not isinstance(model_id, str) or not is_recipe_name(model_id):
            raise FormatError(f"{path} has a model {model_id!r}, expected a name of letters, digits, '_', '.' and '-'")


def fill_from_files(folder: Path, names: Sequence[str], layout: Layout, out: Tensor) -> bool:
    """Read states from one file each, at the speed of the disk, if the files look as this package writes them.

    In any other case (a file is missing or truncated, or has other tensors) nothing is read here: the caller then reads
    the states one by one, which is slower and reports the problem.

    Args:
        folder: The folder of the files.
        names: The names of the E files.
        layout: The layout of a state.
        out: A float32 tensor (E, P), filled row by row.

    Returns:
        False, with any content in `out`, where a file is not as expected.
    """
    try:
        whole = _read_equal(folder, names, 4 * layout.size + _MAX_HEADER)
        size = header_size(whole[0, :8].tobytes())
        if whole.shape[1] != size + 4 * layout.size or (whole[:, :size] != whole[0, :size]).any():
            return False
        starts = _slot_starts(SafetensorsHeader.parse(whole[0, :size].tobytes()), layout)
    except (OSError, ValueError):
        return False
    filled, numbers = out.numpy(), whole[:, size:].view("<f4")
    for slot, start in starts.items():
        filled[:, slot.start : slot.stop] = numbers[:, start : start + slot.size]
    return True


def _slot_starts(header: SafetensorsHeader, layout: Layout) -> dict[Slot, int]:
    """Return the index of the first number of each slot in the file; raises ValueError for any other state."""
    slots, tensors = layout.match_keys(header.tensors), header.tensors
    if slots is None or any(not _is_slot(tensors[key], slot, header, layout) for key, slot in slots.items()):
        raise ValueError("the tensors are not those of the layout")
    return {slot: (tensors[key].start - header.size) // 4 for key, slot in slots.items()}


def _read_equal(folder: Path, names: Sequence[str], max_bytes: int) -> np.ndarray:
    """Read files of equal size into an array (E, bytes); raises ValueError where the sizes differ or are too large."""
    if (size := (folder / names[0]).stat().st_size) > max_bytes:
        raise ValueError(names[0])
    whole, extra = np.empty((len(names), size), np.uint8), bytearray(1)
    descriptor = os.open(folder, os.O_RDONLY | _NOFOLLOW)  # links, which may lead out, are looked at one by one
    try:
        for row, name in zip(whole, names, strict=True):
            file = os.open(name, os.O_RDONLY | _NOFOLLOW, dir_fd=descriptor)  # full paths take a third longer
            try:
                if os.readv(file, [row.data, extra]) != len(row):
                    raise ValueError(name)
            finally:
                os.close(file)
    finally:
        os.close(descriptor)
    return whole


def _is_slot(entry: TensorEntry, slot: Slot, header: SafetensorsHeader, layout: Layout) -> bool:
    """Return whether a tensor is float32, has the shape of a slot and lies within the numbers of the file."""
    begin, end = entry.start - header.size, entry.stop - header.size
    is_placed = begin >= 0 and begin % 4 == 0 and end - begin == 4 * slot.size and end <= 4 * layout.size
    return is_placed and (entry.dtype, slot.dtype) == ("F32", torch.float32) and entry.shape == slot.shape
