"""A zoo folder as the target of a verification, read strictly: its files match its tables, and these its recipe.

P numbers of a state.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from ..architectures import find_registered
from ..engines import variational_layout
from ..errors import FormatError
from ..recipes import Member
from ..weights import Layout
from ..zoo import (
    MODELS_FILE,
    PACKED,
    PROGRESS,
    STATES_FILE,
    VARIATIONAL,
    ZOO_FILE,
    ZooFolder,
    ZooInfo,
    pack_path,
    read_pack,
    read_pack_index,
    read_tensors,
    state_path,
)
from .base import Check, StoredState, Target
from .table_checks import (
    check_columns,
    compare_with_recipe,
    find_wrong_epochs,
    find_wrong_metrics,
    model_columns,
    state_columns,
)


def open_zoo(path: Path) -> tuple[ZooFolder, Target]:
    """Open a zoo folder whose zoo.json and tables can be read.

    Returns:
        The folder, and its states.

    Raises:
        FormatError: the folder is no complete zoo folder of this format, or a table lacks a column.
        RecipeError: the architecture is not registered.
    """
    folder = ZooFolder.open(path)
    members = folder.info.members(path / ZOO_FILE)
    check_columns(folder.models, path / MODELS_FILE, [*model_columns(folder.info), "diverged"])
    check_columns(folder.states, path / STATES_FILE, state_columns(folder.info))
    files = _StateFiles.from_folder(folder, members)
    known = [model for model in folder.models["model_id"].unique() if model in members]
    target = Target(
        info=folder.info,
        members=members,
        table=folder.states,
        readers=[partial(files.read_model, model) for model in known],
        read_weights=files.read_weights,
        find_path=files.path,
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
        first, count = self._find_rows(model_id)
        if self.members[model_id].epochs.index(epoch) >= count:
            path = self.path(model_id, epoch)
            raise FormatError(f"{path} has no epoch {epoch} of {model_id}; {self.suggest_repair(model_id)}")
        weights = self._read_state(model_id, epoch, first).weights
        assert weights is not None
        return weights

    def read_model(self, model_id: str) -> Iterator[StoredState]:
        """Read the existing states of a model; the check of completeness reports missing ones."""
        if self.folder.is_packed and not self.path(model_id, 0).is_file():
            return
        try:
            first, count = self._find_rows(model_id)
        except FormatError as error:
            yield StoredState(model_id, 0, None, problem=f"{error}; {self.suggest_repair(model_id)}")
            return
        epochs = self.members[model_id].epochs[:count]
        for epoch in (epoch for epoch in epochs if self.path(model_id, epoch).is_file()):
            try:
                yield self._read_state(model_id, epoch, first)
            except FormatError as error:
                yield StoredState(model_id, epoch, None, problem=f"{error}; {self.suggest_repair(model_id)}")

    def _find_rows(self, model_id: str) -> tuple[int, int]:
        """Return the first row and the number of rows of a model in its packed file; raises FormatError."""
        if not self.folder.is_packed:
            return 0, len(self.members[model_id].epochs)
        return read_pack_index(self.path(model_id, 0)).get(model_id, (0, 0))

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


def _suggest_rerun(folder: ZooFolder) -> str:
    return f"run its {folder.maker} command again"


def check_complete(folder: ZooFolder, target: Target) -> Check:
    """Check that every state of the models in the table has its file, and every file its model."""
    models = [model for model in folder.models["model_id"].unique() if model in target.members]
    find_missing = _find_missing_rows if folder.is_packed else _find_missing_files
    rerun = f"{_suggest_rerun(folder)} to restore it"
    problems = [f"{problem}; {rerun}" for problem in find_missing(folder, target, models)]
    return Check("complete", len(folder.states), problems + _find_leftovers(folder, models))


def _find_missing_files(folder: ZooFolder, target: Target, models: Sequence[str]) -> Iterator[str]:
    kinds = ("states", VARIATIONAL) if target.is_twins else ("states",)
    for model in models:
        for kind in kinds:
            names = {path.name for path in state_path(folder.path, model, 0, kind).parent.glob("[!.]*")}
            for epoch in target.members[model].epochs:
                path = state_path(folder.path, model, epoch, kind)
                if path.name not in names:
                    yield f"{path} is missing"


def _find_missing_rows(folder: ZooFolder, target: Target, models: Sequence[str]) -> Iterator[str]:
    counts: dict[str, int] = {}
    damaged = set()  # reported when their states are read
    per_file = folder.info.models_per_file or 1
    paths = {model: pack_path(folder.path, target.members[model].index, per_file) for model in models}
    for path in dict.fromkeys(paths.values()):
        try:
            counts |= {model: count for model, (_, count) in read_pack_index(path).items()} if path.is_file() else {}
        except FormatError:
            damaged.add(path)
    for model, path in paths.items():
        expected = len(target.members[model].epochs)
        if path not in damaged and counts.get(model, 0) != expected:
            yield f"{path} holds {counts.get(model, 0)} of the {expected} states of {model}"


def _find_leftovers(folder: ZooFolder, models: Sequence[str]) -> list[str]:
    """Find models with files but without rows, which a run that was stopped leaves behind."""
    progress, states = folder.path / PROGRESS, folder.path / "states"
    stored = {progress: [path.stem for path in progress.glob("[!.]*")]}
    if not folder.is_packed:
        stored[states] = [path.name for path in states.glob("[!.]*")]
    for path in sorted((folder.path / PACKED).glob("[!.]*")):
        with suppress(FormatError):  # reported when its states are read
            stored[path] = list(read_pack_index(path))
    return [
        f"{path} holds {model}, which is not in {MODELS_FILE}; {_suggest_rerun(folder)} to complete the zoo"
        for path, ids in stored.items()
        for model in sorted(set(ids) - set(models))
    ]


def check_recipe(folder: ZooFolder, target: Target) -> Check:
    """Check that the tables have the rows and the values that the recipe in zoo.json gives."""
    models, states, rerun = folder.models, folder.states, _suggest_rerun(folder)
    rewrite = f"{rerun}, which rewrites the table"
    problems = [f"{ZOO_FILE}: {line}; restore it, or make the zoo again" for line in folder.info.contradictions()]
    problems += [
        f"{line}; {rewrite}"
        for line in compare_with_recipe(models, target.members, model_columns(target.info), MODELS_FILE)
    ]
    duplicates = models.loc[models["model_id"].duplicated(), "model_id"].unique()
    problems += [f"{MODELS_FILE}: {model} has more than one row; {rewrite}" for model in duplicates]
    epochs = find_wrong_epochs(models["model_id"], states, target.members, STATES_FILE)
    problems += [f"{line}; {rerun}" for line in epochs]
    known = states[states["model_id"].isin(target.members)]
    metrics = find_wrong_metrics(known, STATES_FILE)
    problems += [f"{line}; {target.suggest_repair(model)}" for model, line in metrics]
    return Check("recipe", len(models), problems)


def check_layout(folder: ZooFolder) -> Check:
    """Check that the layouts in zoo.json are those of the architecture."""
    problems = [
        f"{ZOO_FILE}: {name} is not that of architecture {folder.info.architecture}; restore it, or make the zoo again "
        "with this release"
        for name in find_foreign_layouts(folder.info)
    ]
    return Check("layout", 1 if folder.info.variational_layout is None else 2, problems)


def find_foreign_layouts(info: ZooInfo) -> list[str]:
    """Return the names of the layouts in zoo.json that are not those of the architecture."""
    registered = find_registered(info.architecture)
    if registered is None:  # then there is nothing to compare with
        return []
    is_sorted = info.import_info is not None and info.import_info.is_any_architecture  # not in the order of the module
    fits = info.find_architecture().has_module if is_sorted else info.layout == registered.layout
    names = [] if fits else ["layout"]
    if info.variational_layout is not None and info.variational_layout != variational_layout(info.architecture):
        names.append("variational_layout")
    return names


def find_wrong_divergence(folder: ZooFolder) -> list[str]:
    """Find models whose column `diverged` contradicts the column `finite` of their states."""
    is_finite = {str(model): bool(all(column)) for model, column in folder.states.groupby("model_id")["finite"]}
    diverged = zip(folder.models["model_id"], folder.models["diverged"], strict=True)
    return [
        f"{MODELS_FILE}: diverged of {model} is {bool(value)}, but by column finite of {STATES_FILE} it is "
        f"{not is_finite[model]}; {_suggest_rerun(folder)}, which rewrites the table"
        for model, value in diverged
        if bool(value) == is_finite.get(model, not value)
    ]
