"""Checks of a zoo folder: its files match its tables, and its tables match its recipe."""

from collections.abc import Iterator, Sequence
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
    read_pack_index,
    state_path,
)
from .check import Check
from .table_checks import compare_with_recipe, find_wrong_epochs, find_wrong_metrics, model_columns
from .target import Target


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
    columns = (*model_columns(twins=target.is_twins), *target.extra_columns)
    problems = [f"{ZOO_FILE}: {line}; restore it, or make the zoo again" for line in folder.info.contradictions()]
    problems += [f"{line}; {rewrite}" for line in compare_with_recipe(models, target.members, columns, MODELS_FILE)]
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
    names = [] if info.layout == info.find_architecture().layout else ["layout"]
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
