"""Generation recipes in TOML: a scalar is fixed, a list is an axis of the grid, `[defaults]` hold for every config.

Editors complete and check them with a JSON Schema.
"""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._util import is_config_name
from ..errors import RecipeError, unknown
from .hyperparameters import CHOICES, Training, check_keys, check_type, parse_range
from .recipe import Config, Recipe

_DESCRIPTIONS = {
    "epochs": "Epochs of training.",
    "batch_size": "Images per step.",
    "activation": "Activation after every hidden layer.",
    "init": "Initialization of the weights; biases start at 0.01.",
    "optimizer": "Optimizer of torch with its default settings.",
    "lr": "Learning rate of every step, or the maximum of a schedule.",
    "weight_decay": "L2 penalty for adam and sgd, decoupled for adamw.",
    "dropout": "Probability of dropout.",
    "momentum": "Momentum of sgd.",
    "schedule": "Schedule of the learning rate.",
    "augmentation": "Augmentation of the training images.",
}
_LIMITS: dict[str, dict[str, Any]] = {
    **{name: {"exclusiveMinimum": 0} for name in ("epochs", "batch_size", "lr")},
    **{name: {"minimum": 0, "exclusiveMaximum": 1} for name in ("dropout", "momentum")},
    "weight_decay": {"minimum": 0},
}
_TYPES = {int: "integer", float: "number", str: "string"}
_INTEGER = {"type": "integer"}


def read_recipe(name_or_path: str) -> Recipe:
    """Read a generation recipe.

    Args:
        name_or_path: The name of a shipped recipe, or the path of a TOML file.

    Raises:
        RecipeError: The recipe does not exist, is not valid TOML, or has an unknown key or a value out of range.

    Example:
        >>> recipe = read_recipe("mnist-cnn-s")
        >>> recipe.images, list(recipe.configs)[0]
        ('mnist', 'seed')
        >>> recipe.members("seed")[0].model_id
        'seed-00001'
    """
    path = find_recipe("generation", name_or_path)
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}; correct the file") from error
    try:
        return _recipe(path.stem, values)
    except RecipeError as error:
        raise RecipeError(f"recipe {path.name}: {error}") from error


def split_recipe_name(text: str) -> tuple[str, str | None]:
    """Split RECIPE/CONFIG, RECIPE, path/to/FILE.toml/CONFIG or path/to/FILE.toml into the recipe and its config.

    Args:
        text: What a user writes to name a recipe, or one config of it.

    Returns:
        Name or path of the recipe, and the config, None where the text names none.
    """
    if text.endswith(".toml"):
        return text, None
    name, _, config = text.rpartition("/") if ".toml/" in text else text.partition("/")
    return name, config or None


def select_config(recipe: Recipe | str, config: str | None = None) -> tuple[Recipe, str]:
    """Return a recipe and one of its configs.

    Args:
        recipe: A recipe, or its name or TOML file, with or without a config: "mnist-cnn-s/seed".
        config: The config, where `recipe` does not name it. It may be omitted if the recipe has only one.

    Returns:
        The recipe, read if it was given by name, and the name of the config.

    Raises:
        RecipeError: The recipe or config is unknown, or several configs are possible, or two are named.
    """
    if isinstance(recipe, str):
        name, named = split_recipe_name(recipe)
        if named is not None and config not in (None, named):
            raise RecipeError(f"expected one config, got {named!r} in {recipe!r} and config={config!r}")
        recipe, config = read_recipe(name), named or config
    if config is None:
        if len(recipe.configs) > 1:
            raise RecipeError(f"recipe {recipe.name} has several configs; name one of {', '.join(recipe.configs)}")
        config = next(iter(recipe.configs))
    recipe.config(config)  # raises where it is unknown
    return recipe, config


def recipe_names(kind: str) -> list[str]:
    """Return the names of the shipped recipes of a kind, "generation", "builders" or "hyperrep"."""
    return sorted(path.stem for path in _recipe_folder(kind).glob("*.toml"))


def find_recipe(kind: str, name_or_path: str) -> Path:
    """Return the path of a recipe.

    Args:
        kind: "generation", "builders" or "hyperrep".
        name_or_path: The name of a shipped recipe, or a path that ends in .toml.

    Raises:
        RecipeError: There is no such recipe.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise RecipeError(
                f"there is no recipe file {path}; pass a TOML file or one of {', '.join(recipe_names(kind))}"
            )
        return path
    shipped = _recipe_folder(kind) / f"{name_or_path}.toml"
    if name_or_path not in recipe_names(kind):
        raise RecipeError(unknown("recipe", name_or_path, recipe_names(kind)))
    return shipped


def _recipe_folder(kind: str) -> Path:
    package = Path(__file__).parents[1]
    if kind == "hyperrep":
        return package.parent / "hyperrep" / "recipes"
    installed = package / "_recipes" / kind
    return installed if installed.is_dir() else package.parent / kind


def _recipe(name: str, values: Mapping[str, Any]) -> Recipe:
    check_keys("a recipe", values, ("source", "images", "architecture", "seed", "defaults", "configs"))
    for key in ("images", "architecture", *(["source"] if "source" in values else [])):
        if not isinstance(values.get(key), str):
            raise RecipeError(f"{key} must be a name in quotes, got {values.get(key)!r}")
    seed, defaults = values.get("seed", 0), values.get("defaults", {})
    check_type("seed", seed, int)
    if not isinstance(values.get("configs"), dict) or not values["configs"]:
        raise RecipeError("there is no [configs.NAME] table, so there is nothing to train")
    for config in values["configs"]:
        if not is_config_name(config):
            raise RecipeError(
                f"config name {config!r}: use letters, digits, '_', '.' and '-'; the ending '_index' is reserved for "
                "the table without weights"
            )
    recipe = Recipe(
        name=name,
        images=values["images"],
        architecture=values["architecture"],
        seed=seed,
        configs=_configs(values["configs"], defaults),
        source=values.get("source"),
    )
    for config in recipe.configs.values():
        _check_axes(config)
    return recipe


def _configs(tables: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Config]:
    """Return all configs in the order of the file, in which twins may precede their parents."""
    trained = {key: _config(key, defaults, own) for key, own in tables.items() if not _is_twin(own)}
    return {key: trained[key] if key in trained else _twins(key, tables, trained) for key in tables}


def _is_twin(table: Any) -> bool:
    return isinstance(table, dict) and "parent" in table


def _twins(name: str, tables: Mapping[str, Any], trained: Mapping[str, Config]) -> Config:
    """Return a config of sparsified twins, which has a parent and epochs; everything else is the parent's."""
    own, parent = tables[name], tables[name]["parent"]
    if parent in list(tables) and _is_twin(tables[parent]):
        raise RecipeError(f"[configs.{name}] parent must be a config that is no twin itself, got {parent!r}")
    check_keys(f"[configs.{name}]", own, ("parent", "epochs"))
    if parent not in list(trained):
        raise RecipeError(f"[configs.{name}] {unknown('parent', str(parent), trained)}")
    if "epochs" not in own:
        raise RecipeError(f"[configs.{name}] has no epochs of sparsification; say for example epochs = 25")
    axes = {**trained[parent].axes, "epochs": (own["epochs"],)}
    return dataclasses.replace(trained[parent], axes=axes, parent=parent)


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
    """Raise RecipeError for a missing value, or an invalid value on any axis."""
    required = [f.name for f in dataclasses.fields(Training) if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in config.axes]:
        raise RecipeError(f"missing {', '.join(missing)}")
    first = {name: axis[0] for name, axis in config.axes.items()}
    for name, axis in config.axes.items():
        for value in axis:
            Training(**{**first, name: value})


def _seed_values(spec: Any) -> tuple[int, ...] | tuple[str, int, int]:
    """Return seeds from "1-1000", a list of integers, or { random = 10, below = 1_000_000 }."""
    if isinstance(spec, dict) and set(spec) == {"random", "below"} and _are_integers(spec.values()):
        if not 0 < spec["random"] <= spec["below"]:
            raise RecipeError(f"seeds: cannot draw {spec['random']} seeds below {spec['below']}")
        return ("random", spec["random"], spec["below"])
    if isinstance(spec, str):
        return tuple(parse_range("seeds", spec))
    if isinstance(spec, list) and spec and _are_integers(spec):
        if len(set(spec)) < len(spec):
            raise RecipeError(f"seeds: expected distinct seeds, got {spec}")
        return tuple(spec)
    raise RecipeError(
        f'seeds must be "1-1000", a list of integers or {{ random = 10, below = 1_000_000 }}, got {spec!r}'
    )


def _are_integers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of generation recipes.

    Editors that support JSON Schema for TOML, such as those with the extension Even Better TOML, use it after the
    comment `#:schema recipe.schema.json` at the top of a recipe.
    """
    axes = {field.name: _axis(field) for field in dataclasses.fields(Training)}
    grid = {**axes, "seeds": _seeds()}
    twins = {"parent": {"type": "string", "description": "Config of the models to sparsify."}, "epochs": axes["epochs"]}
    config = {
        "if": {"required": ["parent"]},
        "then": _table(twins, required=["parent", "epochs"]),
        "else": _table(grid),
    }
    properties = {
        "source": {"type": "string", "description": "The paper whose zoos these are."},
        "images": {"type": "string", "description": "Name of an image dataset."},
        "architecture": {"type": "string", "description": "Name or family of an architecture."},
        "seed": {**_INTEGER, "description": "Seed of the splits and of random model seeds.", "default": 0},
        "defaults": {**_table(grid), "description": "Values of all configs."},
        "configs": {
            "type": "object",
            "description": "One zoo per table.",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]*$", "not": {"pattern": "_index$"}},
            "additionalProperties": config,
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Generation recipe of modelzoo-datasets",
        **_table(properties, required=["images", "architecture", "configs"]),
    }


def _table(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    needs = {"required": required} if required else {}
    return {"type": "object", "properties": properties, **needs, "additionalProperties": False}


def _axis(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """Return the schema of a hyperparameter: a value, or a list of distinct values as an axis of the grid."""
    choices = {"enum": list(CHOICES[field.name])} if field.name in CHOICES else {}
    value = {"type": _TYPES[field.type], **choices, **_LIMITS.get(field.name, {})}  # type: ignore[index]
    default = {} if field.default is dataclasses.MISSING else {"default": field.default}
    axis = {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}
    return {"description": _DESCRIPTIONS[field.name], "anyOf": [value, axis], **default}


def _seeds() -> dict[str, Any]:
    listed = {"type": "array", "items": _INTEGER, "minItems": 1, "uniqueItems": True}
    positive = {**_INTEGER, "minimum": 1}
    random = _table({"random": positive, "below": positive}, required=["random", "below"])
    return {
        "description": "Seeds of the models of each cell of the grid.",
        "anyOf": [{"type": "string", "pattern": "^[0-9]{1,9}(-[0-9]{1,9})?$"}, listed, random],
    }
