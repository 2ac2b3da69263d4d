"""Checks of a zoo folder alone: its files are those of its tables, and its tables those of its recipe."""

from collections.abc import Iterator
from contextlib import suppress

from ..engines import variational_layout
from ..errors import FormatError
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
    pack_rows,
    state_path,
)
from .check import Check
from .table_checks import against_arithmetic, against_recipe, missing_epochs, model_columns
from .target import Target


def _again(folder: ZooFolder) -> str:
    return f"run its {folder.maker} command again"


def check_complete(folder: ZooFolder, subject: Target) -> Check:
    """Every state of the recipe's models in the table has its file, and every file its model."""
    models = [model for model in folder.models["model_id"].unique() if model in subject.members]
    missing = _missing_rows(folder, subject, models) if folder.packed else _missing_files(folder, subject, models)
    problems = [f"{what}; {_again(folder)} to restore it" for what in missing]
    return Check("complete", len(folder.states), problems + _left_over(folder, models))


def _missing_files(folder: ZooFolder, subject: Target, models: list[str]) -> Iterator[str]:
    kinds = ("states", VARIATIONAL) if subject.twins else ("states",)
    for model in models:
        for kind in kinds:
            there = {path.name for path in state_path(folder.path, model, 0, kind).parent.glob("[!.]*")}
            for epoch in subject.members[model].epochs:
                path = state_path(folder.path, model, epoch, kind)
                if path.name not in there:
                    yield f"{path} is missing"


def _missing_rows(folder: ZooFolder, subject: Target, models: list[str]) -> Iterator[str]:
    found: dict[str, int] = {}
    damaged = set()  # said when its states are read
    per_file = folder.info.models_per_file or 1
    paths = {model: pack_path(folder.path, subject.members[model].index, per_file) for model in models}
    for path in dict.fromkeys(paths.values()):
        try:
            found |= {model: count for model, (_, count) in pack_rows(path).items()} if path.is_file() else {}
        except FormatError:
            damaged.add(path)
    for model, path in paths.items():
        states = len(subject.members[model].epochs)
        if path not in damaged and found.get(model, 0) != states:
            yield f"{path} holds {found.get(model, 0)} of the {states} states of {model}"


def _left_over(folder: ZooFolder, models: list[str]) -> list[str]:
    """Models whose files are there, but no rows: of a run that was stopped."""
    progress = folder.path / PROGRESS
    kept = {progress: [path.stem for path in progress.glob("[!.]*")]}
    if not folder.packed:
        kept[folder.path / "states"] = [path.name for path in (folder.path / "states").glob("[!.]*")]
    for path in sorted((folder.path / PACKED).glob("[!.]*")):
        with suppress(FormatError):  # said when its states are read
            kept[path] = list(pack_rows(path))
    return [
        f"{path} holds {model}, which is not in {MODELS_FILE}; {_again(folder)} to complete the zoo"
        for path, ids in kept.items()
        for model in sorted(set(ids) - set(models))
    ]


def check_recipe(folder: ZooFolder, subject: Target) -> Check:
    """The tables have the rows, and the rows the values, that the recipe in zoo.json gives."""
    models, states, columns = folder.models, folder.states, (*model_columns(twins=subject.twins), *subject.own_columns)
    anew = f"{_again(folder)}, which writes the table anew"
    problems = [f"{ZOO_FILE}: {what}; restore it, or make the zoo again" for what in folder.info.contradictions()]
    problems += [f"{what}; {anew}" for what in against_recipe(models, subject.members, columns, MODELS_FILE)]
    twice = models.loc[models["model_id"].duplicated(), "model_id"].unique()
    problems += [f"{MODELS_FILE}: {model} is there more than once; {anew}" for model in twice]
    epochs = missing_epochs(models["model_id"], states, subject.members, STATES_FILE)
    problems += [f"{what}; {_again(folder)}" for what in epochs]
    known = states[states["model_id"].isin(subject.members)]
    problems += [f"{what}; {subject.remedy(model)}" for model, what in against_arithmetic(known, STATES_FILE)]
    return Check("recipe", len(models), problems)


def check_layout(folder: ZooFolder) -> Check:
    """The layouts in zoo.json are those of the architecture."""
    names, remedy = foreign_layouts(folder.info), "restore it, or make the zoo again with this release"
    problems = [
        f"{ZOO_FILE}: {name} is not that of architecture {folder.info.architecture}; {remedy}" for name in names
    ]
    return Check("layout", 1 if folder.info.variational_layout is None else 2, problems)


def foreign_layouts(info: ZooInfo) -> list[str]:
    """Return the names of the layouts in zoo.json that are not those of the architecture."""
    names = [] if info.layout == info.find_architecture().layout else ["layout"]
    if info.variational_layout not in (None, variational_layout(info.architecture)):
        names.append("variational_layout")
    return names


def undiverged(folder: ZooFolder) -> list[str]:
    """Models whose column `diverged` is not what the column `finite` of their states says."""
    finite = {str(model): bool(all(column)) for model, column in folder.states.groupby("model_id")["finite"]}
    recorded = zip(folder.models["model_id"], folder.models["diverged"], strict=True)
    return [
        f"{MODELS_FILE}: diverged of {model} is {bool(found)}, but by column finite of {STATES_FILE} it is "
        f"{not finite[model]}; {_again(folder)}, which writes the table anew"
        for model, found in recorded
        if bool(found) == finite.get(model, not found)
    ]
