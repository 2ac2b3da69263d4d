"""A generation recipe as a value: its configs, their grids and all models."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RecipeError, unknown
from ..seeds import derive_seed
from .hyperparameters import Training
from .members import ExternalModels, Member, iterate_splits, list_external_members


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
