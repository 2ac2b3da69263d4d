"""What zoo.json must say of a zoo, and the recipe that is in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..architectures import architecture_of
from ..errors import FormatError
from ..recipes import Config, Member, Published, Recipe
from ..weights import Layout
from .paths import LACKING, STORAGES

_KINDS = {
    "name": str,
    "architecture": str,
    "images": str,
    "recipe": dict,
    "layout": list,
    "images_sha256": str,
    "classes": int,
    "engine": str,
    "versions": dict,
}
_RECIPE_KINDS = {
    "recipe": str,
    "config": str,
    "images": str,
    "architecture": str,
    "seed": int,
    "axes": dict,
    "seeds": list,
}
_TWIN_KINDS = {"parent": dict, "variational_layout": list}  # of sparsified twins
_PARENT_KINDS = {"name": str, "recipe": dict, "engine": str, "versions": dict}
_WORDS = {str: "a text", dict: "an object", list: "a list", int: "a whole number"}


def check_zoo_info(facts: Any, path: Path) -> None:
    """Raise FormatError where the facts of a zoo, read from this file, lack a key or have another kind of value."""
    _check_kinds(facts, _KINDS, path, "")
    _check_recipe(facts["recipe"], path, "recipe.")
    if facts.get("storage", STORAGES[0]) not in STORAGES:
        raise FormatError(_wrong(path, f"'storage' must be {' or '.join(STORAGES)}, got {facts['storage']!r}"))
    if facts.get("storage") == "packed":
        _check_kinds(facts, {"models_per_file": int}, path, "")
    layouts = ["layout"]
    if "parent" in facts["recipe"]:
        _check_kinds(facts, _TWIN_KINDS, path, "")
        _check_kinds(facts["parent"], _PARENT_KINDS, path, "parent.")
        _check_recipe(facts["parent"]["recipe"], path, "parent.recipe.")
        layouts.append("variational_layout")
    for key in layouts:
        try:
            Layout.from_json(facts[key])
        except (LookupError, TypeError, ValueError) as error:
            raise FormatError(_wrong(path, f"{key!r} is no layout of weights ({error!r})")) from error


def _check_recipe(values: Any, path: Path, where: str) -> None:
    _check_kinds(values, _RECIPE_KINDS, path, where)
    for axis, choices in values["axes"].items():
        if not isinstance(choices, list):
            raise FormatError(_wrong(path, f"'{where}axes.{axis}' must be a list, got {choices!r}"))


def _check_kinds(values: Any, kinds: Mapping[str, type], path: Path, where: str) -> None:
    if not isinstance(values, dict):
        raise FormatError(_wrong(path, f"'{where.rstrip('.')}' must be an object, got {values!r}"))
    for key, kind in kinds.items():
        if key not in values:
            raise FormatError(_wrong(path, f"it has no '{where}{key}'"))
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise FormatError(_wrong(path, f"'{where}{key}' must be {_WORDS[kind]}, got {values[key]!r}"))


def _wrong(path: Path, what: str) -> str:
    return f"{path} is not what modelzoo-generate and modelzoo-build write: {what}; make its folder again"


def members_of(facts: Mapping[str, Any], path: Path) -> dict[str, Member]:
    """Every model of the recipe that these facts hold, by id; raises FormatError where nothing can be trained by it."""
    values = facts["recipe"]
    try:
        configs = {values["config"]: _config(values, facts.get(LACKING, {}))}
        if parent := configs[values["config"]].parent:
            configs[parent] = _config(facts["parent"]["recipe"], {})
        recipe = Recipe(
            name=values["recipe"],
            images=values["images"],
            architecture=values["architecture"],
            seed=values["seed"],
            configs=configs,
        )
        return {member.model_id: member for member in recipe.members(values["config"])}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(_wrong(path, f"'recipe' cannot be trained ({error})")) from error


def _config(values: Mapping[str, Any], lacking: Mapping[str, Any]) -> Config:
    axes = {name: tuple(choices) for name, choices in values["axes"].items()}
    published = Published.from_json(values, lacking)
    return Config(axes=axes, seeds=tuple(values["seeds"]), parent=values.get("parent"), published=published)


def contradictions(facts: Mapping[str, Any]) -> list[str]:
    """Where the facts of a zoo say other things than the recipe among them."""
    recipe, architecture = facts["recipe"], architecture_of(facts)
    wanted = {
        "name": (f"{recipe['recipe']}/{recipe['config']}", {facts["name"]}),
        "images": (recipe["images"], {facts["images"]}),
        "architecture": (recipe["architecture"], {architecture.name, architecture.family}),
    }
    wrong = {key: said for key, (said, found) in wanted.items() if said not in found}
    return [f"{key} is {facts[key]!r}, the recipe says {said!r}" for key, said in wrong.items()]
