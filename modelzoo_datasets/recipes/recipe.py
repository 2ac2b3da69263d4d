"""A recipe as a value: its configs, their grids, and every model of them."""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RecipeError, unknown
from ..seeds import derive_seed
from .external_models import ExternalModels, published_members
from .hyperparameters import Training
from .members import Member, iterate_splits


@dataclass(frozen=True, kw_only=True)
class Config:
    """One zoo of a recipe: the axes of its grid and its seeds; of twins those of the parent, with their own epochs."""

    axes: Mapping[str, tuple[Any, ...]]  # field of Training -> its values
    seeds: tuple[int, ...] | tuple[str, int, int]  # fixed, or ("random", how many, below)
    parent: str | None = None  # config whose models these are the sparsified twins of
    published: ExternalModels | None = None  # of a zoo that was imported: its models one by one, instead of seeds


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which zoos are trained for one image dataset and one architecture."""

    name: str
    images: str
    architecture: str  # a family (cnn-s) or the name of one variant of it
    seed: int  # of the recipe itself: draws random model seeds and the splits
    configs: Mapping[str, Config]
    source: str | None = None  # the paper whose zoos these are

    def config(self, name: str) -> Config:
        """The config of that name; raises RecipeError with the nearest known one."""
        if name not in self.configs:
            raise RecipeError(f"recipe {self.name}: {unknown('config', name, self.configs)}")
        return self.configs[name]

    def members(self, config: str, *, epochs: int | None = None) -> list[Member]:
        """Every model of a config, in grid order: axes as the recipe lists them, seeds innermost.

        The twins of a config have the ids, seeds, splits and hyper-parameters of its models, with epochs of their own.
        """
        chosen = self.config(config)
        if chosen.published is not None:
            return published_members(config, chosen.published, chosen.axes)
        parent = chosen.parent
        grid = parent or config  # what seeds and splits are drawn for
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

    def _grid(self, config: str, seeds_of: str, epochs: int | None) -> Iterator[tuple[Training, int]]:
        axes = self.configs[config].axes
        if epochs is not None:
            axes = {**axes, "epochs": (epochs,)}
        for cell, values in enumerate(itertools.product(*axes.values())):
            training = Training(**dict(zip(axes, values, strict=True)))
            for seed in self._seeds(seeds_of, cell):
                yield training, seed

    def _seeds(self, config: str, cell: int) -> tuple[int, ...]:
        seeds = self.configs[config].seeds
        if seeds and seeds[0] == "random":
            draws = random.Random(derive_seed(self.seed, config, "model seeds", cell))
            return tuple(draws.sample(range(int(seeds[2])), int(seeds[1])))
        return tuple(int(seed) for seed in seeds)


def make_twin_config(parent: str, config: Config, epochs: int) -> Config:
    """The config of the sparsified twins of all models of another one."""
    return dataclasses.replace(config, axes={**config.axes, "epochs": (epochs,)}, parent=parent)


def select_members(grid: Sequence[Member], models: range | None) -> list[Member]:
    """The members at these places of the grid, from 1; all if None. Raises RecipeError where the grid ends before."""
    if models is None:
        return list(grid)
    if models.start < 1 or models.stop - 1 > len(grid):
        raise RecipeError(f"models {models.start}-{models.stop - 1}: the grid has models 1-{len(grid)}")
    return [grid[index - 1] for index in models]
