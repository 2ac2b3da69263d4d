"""A generation recipe as a value: its configs, their grids and all models, each a value too.

A recipe lists models that other code trained one by one, since no grid generates them.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RecipeError, unknown
from ..seeds import derive_seed
from .hyperparameters import ExternalTraining, RecordedTraining, Training

_IDENTITY = ("origin", "seed", "split")
_TRAINING = tuple(field.name for field in dataclasses.fields(ExternalTraining))


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of a zoo: its identity and everything that its weights depend on."""

    index: int  # position in the grid, counted from 1
    model_id: str
    seed: int
    split: str  # train, validation or test, determined by the recipe
    training: Training
    parent_id: str | None = None  # for a sparsified twin: the model with whose last state its training begins
    state_epochs: tuple[int, ...] | None = None  # ascending epochs of the states, if an imported model lacks some
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # values of additional columns

    @property
    def epochs(self) -> Sequence[int]:
        """The epochs with a state: from 0 to the last, or the published ones."""
        return range(self.training.epochs + 1) if self.state_epochs is None else self.state_epochs


def iterate_splits(seed: int, config: str) -> Iterator[str]:
    """Yield the splits of consecutive models without end: exactly 14 train, 3 validation and 3 test of every 20.

    The split of a model does not depend on which other models are trained.
    """
    for block in itertools.count():
        splits = ["train"] * 14 + ["validation"] * 3 + ["test"] * 3
        random.Random(derive_seed(seed, config, "split", block)).shuffle(splits)
        yield from splits


@dataclass(frozen=True, kw_only=True)
class ExternalModels:
    """The models of an imported zoo. Values that all models share are in the axes of their config."""

    models: Mapping[str, Sequence[Any]]  # columns: origin, seed, split, parent_id (twins), varying hyperparameters
    kept_epochs: tuple[int, ...] | None = None  # published epochs; None means all from 0 to the last
    columns: Mapping[str, str] | None = None  # additional columns of `models` -> type, for populations of any kind
    measured: Sequence[str] = ()  # additional metrics of the states
    lost_epochs: Mapping[str, Sequence[int]] = field(default_factory=dict)  # model_id -> missing epochs

    @property
    def num_models(self) -> int:
        """The number of models in the list."""
        return len(self.models["origin"])

    def to_json(self) -> dict[str, Any]:
        """Return the keys of a resolved recipe; `from_json` is the inverse but for `lost_epochs`."""
        epochs = {} if self.kept_epochs is None else {"kept_epochs": list(self.kept_epochs)}
        own = {} if self.columns is None else {"columns": dict(self.columns), "measured": list(self.measured)}
        return {**epochs, **own, "models": {name: list(values) for name, values in self.models.items()}}

    @classmethod
    def from_json(cls, recipe: Mapping[str, Any]) -> "ExternalModels | None":
        """Return the models that a resolved recipe lists, or None if it lists none.

        Raises:
            RecipeError: A required column is missing, or the columns differ in length.
        """
        models, epochs = recipe.get("models"), recipe.get("kept_epochs")
        if models is None:
            return None
        if not isinstance(models, dict) or not all(isinstance(models.get(name), list) for name in _IDENTITY):
            raise RecipeError(f"models must have lists of {', '.join(_IDENTITY)}")
        if len({len(values) for values in models.values()}) != 1:
            raise RecipeError("models must have lists of one length")
        return cls(
            models=models,
            kept_epochs=None if epochs is None else tuple(epochs),
            columns=recipe.get("columns"),
            measured=tuple(recipe.get("measured", ())),
        )


def format_model_id(config: str, index: int) -> str:
    """Return the id of the model at this position of the list, counted from 1."""
    return f"{config}-{index:05d}"


def list_external_members(config: str, published: ExternalModels, axes: Mapping[str, Sequence[Any]]) -> list[Member]:
    """Return every model of the list, with the epochs of its available states.

    Args:
        config: The name of the config.
        published: The models.
        axes: The values that all models share, as axes of length 1.
    """
    columns = published.models
    shared = {name: values[0] for name, values in axes.items() if name not in columns}
    varied = [name for name in _TRAINING if name in columns]
    kind = ExternalTraining if published.columns is None else RecordedTraining
    members = []
    for row, (seed, split) in enumerate(zip(columns["seed"], columns["split"], strict=True)):
        training = kind(**shared, **{name: columns[name][row] for name in varied})
        model_id = format_model_id(config, row + 1)
        missing = published.lost_epochs.get(model_id, ())
        members.append(
            Member(
                index=row + 1,
                model_id=model_id,
                seed=seed,
                split=split,
                training=training,
                parent_id=columns["parent_id"][row] if "parent_id" in columns else None,
                extra={name: columns[name][row] for name in published.columns or ()},
                state_epochs=_available_epochs(training.epochs, published.kept_epochs, missing),
            )
        )
    return members


def _available_epochs(last: int, epochs: Sequence[int] | None, missing: Sequence[int]) -> tuple[int, ...] | None:
    """Return the epochs of available states, or None if these are all from 0 to the last."""
    if epochs is None and not missing:
        return None
    return tuple(epoch for epoch in (epochs or range(last + 1)) if epoch <= last and epoch not in missing)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One zoo of a recipe: the axes of its grid and its seeds. Twins share those of their parent, except epochs."""

    axes: Mapping[str, tuple[Any, ...]]  # field of Training -> its values
    seeds: tuple[int, ...] | tuple[str, int, int]  # fixed seeds, or ("random", count, upper bound)
    parent: str | None = None  # for sparsified twins: the config of their parents
    published: ExternalModels | None = None  # for an imported zoo: its models one by one, instead of seeds


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The zoos to train for one image dataset and one architecture."""

    name: str
    images: str
    architecture: str  # a name, or a family such as cnn-s
    seed: int  # seed of the splits and of random model seeds
    configs: Mapping[str, Config]
    source: str | None = None  # the paper whose zoos these are

    def config(self, name: str) -> Config:
        """Return the config with this name.

        Raises:
            RecipeError: The recipe has no such config; the message offers the most similar one.
        """
        if name not in self.configs:
            raise RecipeError(f"recipe {self.name}: {unknown('config', name, self.configs)}")
        return self.configs[name]

    def members(self, config: str, *, epochs: int | None = None) -> list[Member]:
        """Return every model of a config in grid order: axes in the order of the recipe, seeds innermost.

        Sparsified twins have the indices, seeds, splits and hyperparameters of their parents, and their own epochs.

        Args:
            config: The name of the config.
            epochs: Epochs of training that replace those of the recipe.

        Raises:
            RecipeError: The recipe has no such config.
        """
        values = self.config(config)
        if values.published is not None:
            return list_external_members(config, values.published, values.axes)
        parent = values.parent
        grid = parent or config  # name of the config that keys the random seeds and splits
        return [
            Member(
                index=index,
                model_id=f"{config}-{index:05d}",
                seed=seed,
                split=split,
                training=training,
                parent_id=f"{parent}-{index:05d}" if parent else None,
            )
            for index, ((training, seed), split) in enumerate(
                zip(self._grid(config, grid, epochs), iterate_splits(self.seed, grid), strict=False), start=1
            )
        ]

    def _grid(self, config: str, grid: str, epochs: int | None) -> Iterator[tuple[Training, int]]:
        axes = self.configs[config].axes
        if epochs is not None:
            axes = {**axes, "epochs": (epochs,)}
        for cell, values in enumerate(itertools.product(*axes.values())):
            training = Training(**dict(zip(axes, values, strict=True)))
            for seed in self._seeds(grid, cell):
                yield training, seed

    def _seeds(self, config: str, cell: int) -> tuple[int, ...]:
        seeds = self.configs[config].seeds
        if seeds and seeds[0] == "random":
            generator = random.Random(derive_seed(self.seed, config, "model seeds", cell))
            return tuple(generator.sample(range(int(seeds[2])), int(seeds[1])))
        return tuple(int(seed) for seed in seeds)


def select_members(grid: Sequence[Member], models: range | None) -> list[Member]:
    """Return the members at these positions of the grid.

    Args:
        grid: All members.
        models: Positions counted from 1, or None for all members.

    Raises:
        RecipeError: A position is outside of the grid.
    """
    if models is None:
        return list(grid)
    if models.start < 1 or models.stop - 1 > len(grid):
        raise RecipeError(f"models {models.start}-{models.stop - 1}: the grid has models 1-{len(grid)}")
    return [grid[index - 1] for index in models]
