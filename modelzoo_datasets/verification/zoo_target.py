"""A zoo folder as the target of a verification: reads its states strictly.

P numbers of a state.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from ..errors import FormatError
from ..recipes import Member
from ..weights import Layout
from ..zoo import (
    MODELS_FILE,
    STATES_FILE,
    VARIATIONAL,
    ZOO_FILE,
    ZooFolder,
    pack_path,
    read_pack,
    read_pack_index,
    read_tensors,
    state_path,
)
from .table_checks import check_columns, model_columns, state_columns
from .target import StoredState, Target


def open_zoo(path: Path) -> tuple[ZooFolder, Target]:
    """Open a zoo folder whose zoo.json and tables can be read.

    Returns:
        The folder, and its states.

    Raises:
        FormatError: the folder is no complete zoo folder of this format, or a table lacks a column.
        RecipeError: the architecture is not registered.
    """
    folder = ZooFolder.open(path)
    members, twins = folder.info.members(path / ZOO_FILE), folder.info.recipe.parent is not None
    check_columns(folder.models, path / MODELS_FILE, (*model_columns(twins=twins), "diverged"))
    check_columns(folder.states, path / STATES_FILE, ("epoch", *state_columns(twins=twins)))
    files = _StateFiles.from_folder(folder, members)
    known = [model for model in folder.models["model_id"].unique() if model in members]
    target = Target(
        info=folder.info,
        members=members,
        table=folder.states,
        readers=[partial(files.read_model, model) for model in known],
        read_weights=files.read_weights,
        locate=lambda model_id, epoch: f"{model_id} epoch {epoch} ({files.path(model_id, epoch)})",
        suggest_repair=files.suggest_repair,
    )
    return folder, target


@dataclass(frozen=True)
class _StateFiles:
    """The files with the states, whose tensors must have exactly the names, shapes and types of the layout."""

    folder: ZooFolder
    members: Mapping[str, Member]
    layouts: Mapping[float, Layout]  # dropout -> layout: layers of dropout change the names of the others
    variational: Layout | None

    @classmethod
    def from_folder(cls, folder: ZooFolder, members: Mapping[str, Member]) -> "_StateFiles":
        architecture = folder.architecture
        dropouts = {member.training.dropout for member in members.values()}
        layouts = {d: architecture.layout_with(0.0 if folder.is_packed else d) for d in dropouts}
        return cls(folder, members, layouts, folder.info.variational_layout)

    def path(self, model_id: str, epoch: int, kind: str = "states") -> Path:
        if self.folder.is_packed:
            return pack_path(self.folder.path, self.members[model_id].index, self.folder.info.models_per_file or 1)
        return state_path(self.folder.path, model_id, epoch, kind)

    def suggest_repair(self, model_id: str) -> str:
        path = self.path(model_id, 0)
        return f"remove {path if self.folder.is_packed else path.parent} and run {self.folder.maker} again"

    def read_weights(self, model_id: str, epoch: int) -> Tensor:
        """Read the weights (P,) of one state; raises FormatError."""
        path = self.path(model_id, epoch)
        place = self.members[model_id].epochs.index(epoch)
        first, count = read_pack_index(path).get(model_id, (0, 0)) if self.folder.is_packed else (0, place + 1)
        if place >= count:
            raise FormatError(f"{path} has no epoch {epoch} of {model_id}; {self.suggest_repair(model_id)}")
        weights = self._read_state(model_id, epoch, first).weights
        assert weights is not None
        return weights

    def read_model(self, model_id: str) -> Iterator[StoredState]:
        """Read the existing states of a model; the check of completeness reports missing ones."""
        epochs, path = self.members[model_id].epochs, self.path(model_id, 0)
        first, count = 0, len(epochs)
        if self.folder.is_packed:
            if not path.is_file():
                return
            try:
                first, count = read_pack_index(path).get(model_id, (0, 0))
            except FormatError as error:
                yield StoredState(model_id, 0, None, problem=f"{error}; {self.suggest_repair(model_id)}")
                return
        for epoch in (epoch for epoch in epochs[:count] if self.path(model_id, epoch).is_file()):
            try:
                yield self._read_state(model_id, epoch, first)
            except FormatError as error:
                yield StoredState(model_id, epoch, None, problem=f"{error}; {self.suggest_repair(model_id)}")

    def _read_state(self, model_id: str, epoch: int, first: int) -> StoredState:
        path, variational = self.path(model_id, epoch), None
        variational_path = self.path(model_id, epoch, VARIATIONAL)
        if self.folder.is_packed:
            row = first + self.members[model_id].epochs.index(epoch)
            tensors = {name: rows[0] for name, rows in read_pack(path, row, 1).items()}
            prefix = f"{VARIATIONAL}."
            variational = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
        else:
            tensors = read_tensors(path)
            if self.variational is not None and variational_path.is_file():
                variational = read_tensors(variational_path)
        weights = _pack_strictly(tensors, self.layouts[self.members[model_id].training.dropout], path)
        if self.variational is None or variational is None:
            return StoredState(model_id, epoch, weights)
        _pack_strictly(variational, self.variational, variational_path)
        return StoredState(model_id, epoch, weights, variational)


def _pack_strictly(tensors: Mapping[str, Tensor], layout: Layout, path: Path) -> Tensor:
    """Return the vector (P,) of tensors; raises FormatError if a name, shape or type is not that of the layout."""
    try:
        weights = layout.pack(tensors)
    except FormatError as error:
        raise FormatError(f"{path} holds no state of this zoo: {error}") from error
    for slot in layout.slots:
        if (dtype := tensors[slot.name].dtype) is not slot.dtype:
            raise FormatError(f"{path} holds no state of this zoo: {slot.name}: expected {slot.dtype}, got {dtype}")
    return weights
