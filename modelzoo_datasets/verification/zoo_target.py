"""A zoo folder as a subject: its states, read strictly."""

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
    pack_rows,
    read_pack,
    read_tensors,
    state_path,
)
from .table_checks import check_columns, model_columns, state_columns
from .target import Found, Target


def open_zoo(path: Path) -> tuple[ZooFolder, Target]:
    """A zoo folder whose zoo.json and tables can be read.

    Raises:
        FormatError: no complete zoo folder of this format, or keys of zoo.json or columns of a table are missing.
        RecipeError: nobody knows its architecture.
    """
    folder = ZooFolder.open(path)
    members, twins = folder.info.members(path / ZOO_FILE), folder.info.recipe.parent is not None
    check_columns(folder.models, path / MODELS_FILE, (*model_columns(twins=twins), "diverged"))
    check_columns(folder.states, path / STATES_FILE, ("epoch", *state_columns(twins=twins)))
    files = _Files.of(folder, members)
    subject = Target(
        info=folder.info,
        members=members,
        table=folder.states,
        parts=[partial(files.states_of, model) for model in folder.models["model_id"].unique() if model in members],
        weights=files.weights,
        where=lambda model_id, epoch: f"{model_id} epoch {epoch} ({files.path(model_id, epoch)})",
        remedy=files.remedy,
    )
    return folder, subject


@dataclass(frozen=True)
class _Files:
    """Where the states are, and which tensors they must hold: no other names, shapes and types."""

    folder: ZooFolder
    members: Mapping[str, Member]
    layouts: Mapping[float, Layout]  # by dropout, which changes the names
    variational: Layout | None

    @classmethod
    def of(cls, folder: ZooFolder, members: Mapping[str, Member]) -> "_Files":
        architecture = folder.architecture
        dropouts = {member.training.dropout for member in members.values()}
        layouts = {d: architecture.layout_with(0.0 if folder.packed else d) for d in dropouts}
        return cls(folder, members, layouts, folder.info.variational_layout)

    def path(self, model_id: str, epoch: int, kind: str = "states") -> Path:
        if self.folder.packed:
            return pack_path(self.folder.path, self.members[model_id].index, self.folder.info.models_per_file or 1)
        return state_path(self.folder.path, model_id, epoch, kind)

    def remedy(self, model_id: str) -> str:
        path = self.path(model_id, 0)
        return f"remove {path if self.folder.packed else path.parent} and run {self.folder.maker} again"

    def weights(self, model_id: str, epoch: int) -> Tensor:
        """Weights (P,) of one state; raises FormatError."""
        path = self.path(model_id, epoch)
        place = self.members[model_id].epochs.index(epoch)
        first, count = pack_rows(path).get(model_id, (0, 0)) if self.folder.packed else (0, place + 1)
        if place >= count:
            raise FormatError(f"{path} has no epoch {epoch} of {model_id}")
        found = self._state(model_id, epoch, first)
        assert found.weights is not None
        return found.weights

    def states_of(self, model_id: str) -> Iterator[Found]:
        """The states of a model that are there; those that are not are looked for elsewhere."""
        epochs = self.members[model_id].epochs
        first, count = 0, len(epochs)
        if self.folder.packed:
            if not self.path(model_id, 0).is_file():
                return
            try:
                first, count = pack_rows(self.path(model_id, 0)).get(model_id, (0, 0))
            except FormatError as error:
                yield Found(model_id, 0, None, problem=f"{error}; {self.remedy(model_id)}")
                return
        for epoch in epochs[:count]:
            if not self.path(model_id, epoch).is_file():
                continue
            try:
                yield self._state(model_id, epoch, first)
            except FormatError as error:
                yield Found(model_id, epoch, None, problem=f"{error}; {self.remedy(model_id)}")

    def _state(self, model_id: str, epoch: int, first: int) -> Found:
        path, variational = self.path(model_id, epoch), None
        if self.folder.packed:
            place = first + self.members[model_id].epochs.index(epoch)
            tensors = {name: rows[0] for name, rows in read_pack(path, place, 1).items()}
            prefix = f"{VARIATIONAL}."
            variational = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
        else:
            tensors = read_tensors(path)
            if self.variational is not None and self.path(model_id, epoch, VARIATIONAL).is_file():
                variational = read_tensors(self.path(model_id, epoch, VARIATIONAL))
        weights = _packed(tensors, self.layouts[self.members[model_id].training.dropout], path)
        if self.variational is None or variational is None:
            return Found(model_id, epoch, weights)
        _packed(variational, self.variational, self.path(model_id, epoch, VARIATIONAL))
        return Found(model_id, epoch, weights, variational)


def _packed(tensors: Mapping[str, Tensor], layout: Layout, path: Path) -> Tensor:
    """The vector (P,) of tensors that have exactly the names, shapes and types of a layout; FormatError otherwise."""
    try:
        weights = layout.pack(tensors)
    except FormatError as error:
        raise FormatError(f"{path} holds no state of this zoo: {error}") from error
    for slot in layout.slots:
        if tensors[slot.name].dtype is not slot.dtype:
            found = tensors[slot.name].dtype
            raise FormatError(f"{path} holds no state of this zoo: {slot.name}: expected {slot.dtype}, got {found}")
    return weights
