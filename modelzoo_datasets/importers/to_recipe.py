"""The recipe and the zoo.json of an imported zoo: a list of its models, their common values, and their parents."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .._util import versions
from ..architectures import Architecture
from ..engines import variational_layout
from ..errors import FormatError, RecipeError
from ..recipes import Config, ExternalModels, ExternalTraining, Recipe, format_model_id, iterate_splits
from ..zoo import ImportInfo, RecipeInfo, ZooFolder, ZooInfo
from .base import Identity, ImportedModel, ModelSource

_TRAINING = tuple(field.name for field in dataclasses.fields(ExternalTraining))
_ENGINE = "elsewhere"


@dataclass(frozen=True)
class Parents:
    """The imported zoo that sparsified twins were made from."""

    folder: ZooFolder
    ids: Mapping[str, str]  # name of the trial -> model_id, for the models in the folder


def find_parents(identity: Identity, out: Path, parent: Path | None) -> Parents | None:
    """Open the zoo of the parents of sparsified twins; None for other zoos.

    Args:
        identity: Name of the zoo, and of the config of its parents.
        out: Zoo folder to write; the parents are in the folder beside it by default.
        parent: Zoo folder of the parents.

    Raises:
        FormatError: The folder of the parents is missing, incomplete, or was not imported.
        RecipeError: A folder was named for a zoo without parents.
    """
    if identity.parent_config is None:
        if parent is not None:
            raise RecipeError(f"{identity.recipe}/{identity.config} are no sparsified twins; leave --parent out")
        return None
    path = parent or out.absolute().parent / identity.parent_config
    if not path.is_dir():
        raise FormatError(
            f"{identity.recipe}/{identity.config} are sparsified twins; import their parents to {path} first, or name "
            "the folder that they were imported to with --parent"
        )
    folder = ZooFolder.open(path)
    if not folder.is_imported:
        raise FormatError(
            f"{path} was not imported, so it does not tell which of its models the twins come from; name another folder"
        )
    present = set(folder.models["model_id"])
    recipe = folder.info.recipe
    origins = recipe.external_models.models["origin"] if recipe.external_models is not None else ()
    ids = {name: format_model_id(recipe.config, i) for i, name in enumerate(origins, start=1)}
    return Parents(folder, {name: model_id for name, model_id in ids.items() if model_id in present})


def make_recipe(
    identity: Identity, architecture: Architecture, models: Sequence[ImportedModel], parents: Parents | None
) -> Recipe:
    """Return a recipe of one config that lists these models.

    Args:
        identity: Name and images of the zoo.
        architecture: Architecture of the models.
        models: The models.
        parents: Zoo of the parents of sparsified twins.

    Raises:
        FormatError: There are no models.
    """
    if not models:
        raise FormatError(
            "none of the models can be imported, because none of their parents is there; name their folder by --parent"
        )
    trainings = [dataclasses.asdict(model.training) for model in models]
    axes = {name: _distinct([training[name] for training in trainings]) for name in _TRAINING}
    columns: dict[str, list[Any]] = {
        "origin": [model.origin for model in models],
        "seed": [model.seed for model in models],
        "split": _splits(identity, models, parents),
    }
    if parents is not None:
        columns["parent_id"] = [parents.ids[model.parent or ""] for model in models]
    for name in dict.fromkeys(name for model in models for name in model.more):
        columns[name] = [model.more.get(name) for model in models]
    columns |= {name: [t[name] for t in trainings] for name in _TRAINING if len(axes[name]) > 1}
    config = Config(
        axes=axes,
        seeds=(),
        parent=None if parents is None else parents.folder.info.recipe.config,
        published=ExternalModels(
            models=columns,
            kept_epochs=_list_epochs(models),
            columns=identity.columns,
            measured=identity.measured,
        ),
    )
    return Recipe(
        name=identity.recipe,
        images=identity.images,
        architecture=architecture.name,
        seed=0,
        configs={identity.config: config},
    )


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    result = tuple(dict.fromkeys(values))
    return tuple(sorted(result, key=lambda value: (value is None, value))) if len(result) > 1 else result


def _splits(identity: Identity, models: Sequence[ImportedModel], parents: Parents | None) -> list[str]:
    """Return the splits of the original, or of the parents, or else 70/15/15 of every 20 models as in every zoo."""
    if parents is not None:
        parent_splits = dict(zip(parents.folder.models["model_id"], parents.folder.models["split"], strict=True))
        return [str(parent_splits[parents.ids[model.parent or ""]]) for model in models]
    defaults = islice(iterate_splits(0, identity.config), len(models))
    return [model.split or split for model, split in zip(models, defaults, strict=True)]


def _list_epochs(models: Sequence[ImportedModel]) -> tuple[int, ...] | None:
    """Return the epochs with published states; None for all from 0 to the last."""
    result = {epoch for model in models for epoch in model.epochs}
    last = max(model.training.epochs for model in models)
    return None if result == set(range(last + 1)) else tuple(sorted(result))


def make_zoo_info(
    recipe: Recipe,
    identity: Identity,
    collection: ModelSource,
    format: str,
    images_sha256: str,
    parents: Parents | None,
) -> ZooInfo:
    """Return the content of zoo.json; equal originals give equal infos."""
    architecture = collection.architecture
    return ZooInfo(
        name=f"{recipe.name}/{identity.config}",
        architecture=architecture.name,
        images=identity.images,
        recipe=RecipeInfo.from_recipe(recipe, identity.config),
        layout=architecture.layout,
        images_sha256=images_sha256,
        classes=architecture.classes,
        engine=_ENGINE,
        versions={"modelzoo-datasets": versions()["modelzoo-datasets"]},
        import_info=ImportInfo(
            format=format, source=collection.source, incomparable_metrics=tuple(identity.incomparable_metrics)
        ),
        parent=None if parents is None else parents.folder.info.to_parent(),
        variational_layout=None if parents is None else variational_layout(architecture.name),
    )
