"""Where the models of a zoo come from, as zoo.json keeps it: a recipe, another zoo, or an archive of somebody else."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..architectures import ANY_FORMAT
from ..errors import FormatError, RecipeError
from ..recipes import Config, ExternalModels, Recipe
from .json_files import ZooRecord, explain_malformed


@dataclass(frozen=True, kw_only=True)
class RecipeInfo(ZooRecord):
    """One config of a recipe, defaults filled in: all that decides which models a zoo has and how they are trained."""

    KEYS: ClassVar = {"name": "recipe"}

    name: str  # the name of the recipe
    config: str
    images: str
    architecture: str  # as the recipe names it: a variant, or a family of variants
    seed: int
    axes: Mapping[str, tuple[Any, ...]]  # field of `Training` -> its values; the order of the axes is that of the grid
    seeds: tuple[Any, ...]  # fixed ones, or ("random", how many, below)
    parent: str | None = None  # the config whose sparsified twins these models are
    external_models: ExternalModels | None = None  # the models of an imported zoo, one by one

    @classmethod
    def from_recipe(cls, recipe: Recipe, config: str, *, epochs: int | None = None) -> "RecipeInfo":
        """Resolve one config of a recipe.

        Args:
            recipe: the recipe.
            config: the name of the config.
            epochs: replaces the epochs of the recipe.

        Raises:
            RecipeError: the recipe has no such config.
        """
        values = recipe.config(config)
        axes = dict(values.axes) | ({} if epochs is None else {"epochs": (epochs,)})
        return cls(
            name=recipe.name,
            config=config,
            images=recipe.images,
            architecture=recipe.architecture,
            seed=recipe.seed,
            axes=axes,
            seeds=tuple(values.seeds),
            parent=values.parent,
            external_models=values.published,
        )

    @classmethod
    def from_json(cls, values: Any, path: Path, where: str = "recipe.") -> "RecipeInfo":
        """See `ZooRecord.from_json`; the models of an imported zoo are further values of the same object."""
        recipe = super().from_json(values, path, where)
        try:
            external_models = ExternalModels.from_json(values)
        except (RecipeError, TypeError) as error:
            raise FormatError(explain_malformed(path, f"'{where.rstrip('.')}' cannot be trained ({error})")) from error
        return dataclasses.replace(recipe, external_models=external_models)

    def to_json(self) -> dict[str, Any]:
        """Return the values that zoo.json keeps, in their order there."""
        values = super().to_json()
        models = values.pop("external_models") or {}
        if self.parent is None:
            del values["parent"]
        return {**values, **models}

    @property
    def num_models(self) -> int:
        """The number of models in the grid, or in the list of an imported zoo."""
        if self.external_models is not None:
            return self.external_models.num_models
        seeds = self.seeds[1] if self.seeds[0] == "random" else len(self.seeds)
        return math.prod(len(axis) for axis in self.axes.values()) * int(seeds)

    @property
    def max_epochs(self) -> int:
        """The epochs of the longest training."""
        return int(max(self.axes["epochs"]))

    @property
    def columns(self) -> Mapping[str, str]:
        """Columns that only this zoo has, with their kinds; only imported zoos have any."""
        return (self.external_models.columns or {}) if self.external_models is not None else {}

    @property
    def metrics(self) -> Sequence[str]:
        """Metrics of states that only this zoo has; only imported zoos have any."""
        return self.external_models.measured if self.external_models is not None else ()

    def equals_but_epochs(self, other: "RecipeInfo") -> bool:
        """Return whether two recipes differ at most in their epochs. The order of the axes counts."""
        return _without_epochs(self) == _without_epochs(other)

    def to_config(self, lost_epochs: Mapping[str, Sequence[int]]) -> Config:
        """Return the config that this was resolved from.

        Args:
            lost_epochs: For an imported zoo, model_id -> epochs whose states are lost.
        """
        models = self.external_models and dataclasses.replace(self.external_models, lost_epochs=lost_epochs)
        return Config(axes=self.axes, seeds=self.seeds, parent=self.parent, published=models)


def _without_epochs(recipe: RecipeInfo) -> tuple[RecipeInfo, list[tuple[str, tuple[Any, ...]]]]:
    axes = [axis for axis in recipe.axes.items() if axis[0] != "epochs"]
    return dataclasses.replace(recipe, axes={}), axes


@dataclass(frozen=True, kw_only=True)
class ImportInfo(ZooRecord):
    """The origin of a zoo whose models were trained elsewhere."""

    KEYS: ClassVar = {"incomparable_metrics": "measured_otherwise"}

    format: str  # as `modelzoo-import` names it
    source: str  # name of the folder or archive, without its path
    incomparable_metrics: tuple[str, ...] = ()  # splits and metrics that were recorded on other data than here
    measured_here: tuple[str, ...] = ()  # metrics that the originals lack, at least for some states

    def to_json(self) -> dict[str, Any]:
        """Return the values that zoo.json keeps; most zoos have no measured metrics."""
        return {key: value for key, value in super().to_json().items() if key != "measured_here" or value}

    @property
    def is_any_architecture(self) -> bool:
        """True for a population of any architecture, registered here or not."""
        return self.format == ANY_FORMAT


@dataclass(frozen=True, kw_only=True)
class ParentInfo(ZooRecord):
    """The zoo whose last states sparsified twins started from."""

    name: str
    recipe: RecipeInfo
    engine: str
    versions: Mapping[str, str]
