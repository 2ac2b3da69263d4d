"""Recipes: frozen values that fix everything that decides the weights, read from TOML.

In a generation recipe a scalar is fixed, a list is an axis of the grid, and `[defaults]` holds for every config.
"""

import dataclasses
import itertools
import math
import random
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RecipeError, nearest_hint, unknown
from .seeds import derive

ACTIVATIONS = ("tanh", "relu", "sigmoid", "gelu")
INITS = (
    "uniform",
    "normal",
    "kaiming_uniform",
    "kaiming_normal",
    "xavier_uniform",
    "xavier_normal",
)
OPTIMIZERS = ("adam", "adamw", "sgd")
_LARGEST_RANGE = 10_000_000
_CHOICES = {"activation": ACTIVATIONS, "init": INITS, "optimizer": OPTIMIZERS}


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one model is trained; with its seed, everything that decides its weights."""

    epochs: int
    batch_size: int  # images per step; the last batch of an epoch may be smaller
    activation: str
    init: str
    optimizer: str
    lr: float
    weight_decay: float = 0.0  # L2 for adam and sgd, decoupled for adamw
    dropout: float = 0.0  # probability in [0, 1)
    momentum: float = 0.9  # sgd only

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_type(field.name, getattr(self, field.name), Training.__annotations__[field.name])
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise RecipeError(unknown(name, str(getattr(self, name)), choices))
        for name in ("epochs", "batch_size", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("dropout", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise RecipeError(f"weight_decay must not be negative, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of a zoo: its identity and all that its weights depend on."""

    index: int  # place in the grid, from 1
    model_id: str
    seed: int
    split: str  # train, validation or test: a property of the model, decided with the recipe
    training: Training


@dataclass(frozen=True, kw_only=True)
class Config:
    """One zoo of a recipe: the axes of its grid and its seeds."""

    axes: Mapping[str, tuple[Any, ...]]  # field of Training -> its values
    seeds: tuple[int, ...] | tuple[str, int, int]  # fixed, or ("random", how many, below)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which zoos are trained for one image dataset and one architecture."""

    name: str
    images: str
    architecture: str
    seed: int  # of the recipe itself: draws random model seeds and the splits
    configs: Mapping[str, Config]

    def config(self, name: str) -> Config:
        """The config of that name; raises RecipeError with the nearest known one."""
        if name not in self.configs:
            raise RecipeError(f"recipe {self.name}: {unknown('config', name, self.configs)}")
        return self.configs[name]

    def members(self, config: str, *, epochs: int | None = None) -> list[Member]:
        """Every model of a config, in grid order: axes as the recipe lists them, seeds innermost."""
        axes = self.config(config).axes
        if epochs is not None:
            axes = {**axes, "epochs": (epochs,)}
        members: list[Member] = []
        for cell, values in enumerate(itertools.product(*axes.values())):
            training = Training(**dict(zip(axes, values, strict=True)))
            for seed in self._seeds(config, cell):
                index = len(members) + 1
                members.append(
                    Member(
                        index=index,
                        model_id=f"{config}-{index:05d}",
                        seed=seed,
                        split=self._split(config, index),
                        training=training,
                    )
                )
        return members

    def _seeds(self, config: str, cell: int) -> tuple[int, ...]:
        seeds = self.configs[config].seeds
        if seeds and seeds[0] == "random":
            draws = random.Random(derive(self.seed, config, "model seeds", cell))
            return tuple(draws.sample(range(int(seeds[2])), int(seeds[1])))
        return tuple(int(seed) for seed in seeds)

    def _split(self, config: str, index: int) -> str:
        """70/15/15 of every 20 consecutive models: exact, and the same whichever models are trained."""
        block, place = divmod(index - 1, 20)
        splits = ["train"] * 14 + ["validation"] * 3 + ["test"] * 3
        random.Random(derive(self.seed, config, "split", block)).shuffle(splits)
        return splits[place]

    def resolved(self, config: str, *, epochs: int | None = None) -> dict[str, Any]:
        """What `zoo.json` keeps: one config with its defaults filled in, as plain JSON values."""
        chosen = self.config(config)
        axes = {name: list(values) for name, values in chosen.axes.items()}
        if epochs is not None:
            axes["epochs"] = [epochs]
        return {
            "recipe": self.name,
            "config": config,
            "images": self.images,
            "architecture": self.architecture,
            "seed": self.seed,
            "axes": axes,
            "seeds": list(chosen.seeds),
        }


def chosen_members(grid: Sequence[Member], models: range | None) -> list[Member]:
    """The members at these places of the grid, from 1; all if None. Raises RecipeError where the grid ends before."""
    if models is None:
        return list(grid)
    if models.start < 1 or models.stop - 1 > len(grid):
        raise RecipeError(f"models {models.start}-{models.stop - 1}: the grid has models 1-{len(grid)}")
    return [grid[index - 1] for index in models]


def read_recipe(name_or_path: str) -> Recipe:
    """Read a generation recipe by name (as in `generation/NAME.toml`) or by path.

    Raises:
        RecipeError: no such recipe (the nearest name is offered), broken TOML, unknown key, or a value out of range.
    """
    path = find_recipe("generation", name_or_path)
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}") from error
    try:
        return _recipe(path.stem, values)
    except RecipeError as error:
        raise RecipeError(f"recipe {path.name}: {error}") from error


def recipe_names(kind: str) -> list[str]:
    """Names of the recipes that ship with this package, kind being 'generation' or 'hyperrep'."""
    return sorted(path.stem for path in _recipe_folder(kind).glob("*.toml"))


def find_recipe(kind: str, name_or_path: str) -> Path:
    """The file of a recipe; a name is looked up among the shipped ones, anything with a suffix is a path."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {path}")
        return path
    shipped = _recipe_folder(kind) / f"{name_or_path}.toml"
    if name_or_path not in recipe_names(kind):
        raise RecipeError(unknown("recipe", name_or_path, recipe_names(kind)))
    return shipped


def _recipe_folder(kind: str) -> Path:
    package = Path(__file__).parent
    if kind == "hyperrep":
        return package.parent / "hyperrep" / "recipes"
    installed = package / "_recipes" / kind
    return installed if installed.is_dir() else package.parent / kind


def _recipe(name: str, values: Mapping[str, Any]) -> Recipe:
    check_keys("a recipe", values, ("images", "architecture", "seed", "defaults", "configs"))
    for key in ("images", "architecture"):
        if not isinstance(values.get(key), str):
            raise RecipeError(f"{key} must be a name in quotes, got {values.get(key)!r}")
    seed, defaults = values.get("seed", 0), values.get("defaults", {})
    check_type("seed", seed, int)
    if not isinstance(values.get("configs"), dict) or not values["configs"]:
        raise RecipeError("there is no [configs.NAME] table, so nothing to train")
    for config in values["configs"]:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", config) or config.endswith("_index"):
            raise RecipeError(
                f"config name {config!r}: use letters, digits, '_', '.' and '-', and another ending than '_index', "
                "which names the table without weights"
            )
    recipe = Recipe(
        name=name,
        images=values["images"],
        architecture=values["architecture"],
        seed=seed,
        configs={key: _config(key, defaults, own) for key, own in values["configs"].items()},
    )
    for config in recipe.configs.values():
        _check_axes(config)
    return recipe


def _config(name: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> Config:
    for table, content in (("defaults", defaults), (f"configs.{name}", own)):
        if not isinstance(content, dict):
            raise RecipeError(f"[{table}] must be a table, got {content!r}")
    fields = [field.name for field in dataclasses.fields(Training)]
    merged = {**defaults, **own}
    check_keys(f"[configs.{name}]", merged, (*fields, "seeds"))
    if "seeds" not in merged:
        raise RecipeError(f'[configs.{name}] has no seeds; say for example seeds = "1-100"')
    seeds = _seed_values(merged.pop("seeds"))
    axes = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in merged.items()}
    for key, axis in axes.items():
        if not axis or any(axis.count(value) > 1 for value in axis):
            raise RecipeError(f"[configs.{name}] {key}: an axis needs distinct values, got {axis}")
    return Config(axes=axes, seeds=seeds)


def _check_axes(config: Config) -> None:
    """Refuse a missing or impossible value now, wherever on an axis it stands."""
    required = [f.name for f in dataclasses.fields(Training) if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in config.axes]:
        raise RecipeError(f"missing {', '.join(missing)}")
    first = {name: axis[0] for name, axis in config.axes.items()}
    for name, axis in config.axes.items():
        for value in axis:
            Training(**{**first, name: value})


def _seed_values(spec: Any) -> tuple[int, ...] | tuple[str, int, int]:
    """Seeds are "1-1000", a list of integers, or { random = 10, below = 1_000_000 }."""
    if isinstance(spec, dict) and set(spec) == {"random", "below"} and _whole(spec.values()):
        if not 0 < spec["random"] <= spec["below"]:
            raise RecipeError(f"seeds: cannot draw {spec['random']} seeds below {spec['below']}")
        return ("random", spec["random"], spec["below"])
    if isinstance(spec, str):
        return tuple(parse_range("seeds", spec))
    if isinstance(spec, list) and spec and _whole(spec):
        if len(set(spec)) < len(spec):
            raise RecipeError(f"seeds: every seed once, got {spec}")
        return tuple(spec)
    raise RecipeError(
        f'seeds must be "1-1000", a list of integers or {{ random = 10, below = 1_000_000 }}, got {spec!r}'
    )


def _whole(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def parse_range(what: str, text: str) -> range:
    """'3' or '1-100' (both ends included) as a range."""
    first, _, last = text.partition("-")
    if not re.fullmatch(r"\d{1,9}(-\d{1,9})?", text, re.ASCII) or int(last or first) < int(first):
        raise RecipeError(f"{what} must look like 1-100 or 7, got {text!r}")
    if int(last or first) - int(first) >= _LARGEST_RANGE:
        raise RecipeError(f"{what}: at most {_LARGEST_RANGE:,} at once, got {text!r}")
    return range(int(first), int(last or first) + 1)


def check_keys(where: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a key that is not known, offering the nearest one."""
    for key in values:
        if key not in known:
            raise RecipeError(f"{where} has no key {key!r}; {nearest_hint(key, known)}")


def check_type(name: str, value: Any, kind: type) -> None:
    """Refuse a value that is not of the kind int, float (integers welcome), str or bool."""
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise RecipeError(f"{name} must be {kind.__name__}, got {value!r}")
