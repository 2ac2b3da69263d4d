"""Recipes and protocols as TOML files: reading, one clear sentence for every mistake, and JSON Schemas for editors.

Editors that support JSON Schema for TOML, such as those with the extension Even Better TOML, complete and check a file
that begins with the comment `#:schema recipe.schema.json`. The schemas describe today's keys; files with the keys of
the first release are read all the same.
"""

import dataclasses
import inspect
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from modelzoo_datasets.errors import ModelZooError, RecipeError
from modelzoo_datasets.recipes import check_keys, check_type, find_recipe

from .json_record import JsonRecord
from .recipe import CHOICES, SECTIONS, DataRecipe, EvaluationRecipe, HyperRecipe, ModelRecipe
from .sampler_names import SamplerEntry, check_sampler

_POSITIVE: Mapping[str, float] = {"exclusiveMinimum": 0}
_NOT_NEGATIVE: Mapping[str, float] = {"minimum": 0}
_COUNT: Mapping[str, float] = {"minimum": 1}
_SHARE: Mapping[str, float] = {"minimum": 0, "maximum": 1}
# Limits of numbers, and of the items of lists, in the words of JSON Schema; other whole numbers are counts from 1 on.
_LIMITS: dict[str, Mapping[str, float]] = {
    **dict.fromkeys(("lr", "temperature", "latent", "token_scale", "bandwidth", "noise", "moves"), _POSITIVE),
    **dict.fromkeys(("contrastive_weight", "mixup", "erase_prob"), _SHARE),
    **dict.fromkeys(("noise_std", "weight_decay", "layer_weights", "pooled_dim"), _NOT_NEGATIVE),
    **dict.fromkeys(("max_equal_epochs", "num_control"), _NOT_NEGATIVE),
    **dict.fromkeys(("functional_weight", "mixed_functional_weight", "statistics_weight"), _NOT_NEGATIVE),
    "top_fraction": {**_POSITIVE, "maximum": 1},
    "mixtures": {**_POSITIVE, "maximum": 0.5},
    "finetune_epochs": _COUNT,
    "seed": {},
}
_MAY_REPEAT = "layer_weights"  # the items of all other lists are distinct
_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}
_Section = TypeVar("_Section", bound=JsonRecord)


def read_hyper_recipe(name_or_path: str) -> HyperRecipe:
    """Read the recipe of a hyper-representation.

    Args:
        name_or_path: name of a recipe in `hyperrep/recipes`, or path of a TOML file.

    Raises:
        RecipeError: there is no such recipe, or it has a mistake.

    Example:
        >>> from hyperrep import read_hyper_recipe
        >>> read_hyper_recipe("demo").learning.batch_size
        32
    """
    path = find_recipe("hyperrep", name_or_path)
    return HyperRecipe(name=path.stem, **_read_sections(path, "recipe", "a hyper-representation recipe", SECTIONS))


def resolve_recipe(recipe: str | HyperRecipe) -> HyperRecipe:
    """Return a recipe, or read the one of this name or file."""
    return read_hyper_recipe(recipe) if isinstance(recipe, str) else recipe


def read_protocol(path: Path) -> EvaluationRecipe:
    """Read a TOML file that has an [evaluation] section alone; raises RecipeError."""
    protocol: EvaluationRecipe = _read_sections(path, "protocol", "a protocol", ("evaluation",))["evaluation"]
    return protocol


def _read_sections(path: Path, kind: str, where: str, keys: Iterable[str]) -> dict[str, Any]:
    """Read and check the sections with these keys; a message begins with the kind and the name of the file."""
    try:
        values = tomllib.loads(path.read_text())
        check_keys(where, values, tuple(keys))
        sections: dict[str, Any] = {key: _read_section(key, SECTIONS[key], values) for key in keys}
        if "model" in sections:
            _check_sizes(sections["data"], sections["model"])
        _check_evaluation(sections["evaluation"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ModelZooError) as error:
        raise RecipeError(f"{kind} {path.name}: {error}") from error
    return sections


def _read_section(key: str, kind: type[_Section], recipe: dict[str, Any]) -> _Section:
    values = recipe.get(key, {})
    if not isinstance(values, dict):
        raise RecipeError(f"{key} must be a table, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = _rename_aliases(f"[{key}]", kind, values)
    check_keys(f"[{key}]", values, tuple(fields))
    missing = [name for name, f in fields.items() if f.default is dataclasses.MISSING and name not in values]
    if missing:
        raise RecipeError(f"[{key}] misses {', '.join(missing)}")
    for name, value in values.items():
        _check_value(f"[{key}] {name}", name, value, fields[name].type)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _rename_aliases(where: str, kind: type[JsonRecord], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values under the names of the fields; a field may have its old or its new key, not both."""
    for alias, name in kind.ALIASES.items():
        if alias in values and name in values:
            raise RecipeError(f"{where} has {alias} and {name}, two keys of one thing; leave out {alias}")
    return {kind.ALIASES.get(key, key): value for key, value in values.items()}


def _check_value(label: str, name: str, value: Any, kind: Any) -> None:
    """Raise RecipeError unless a value has the type, the length, the choices and the limits of its field."""
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        length = None if parts[-1] is ... else len(parts)
        if not isinstance(value, list) or length not in (None, len(value)):
            raise RecipeError(f"{label} must be a list{f' of {length}' if length else ''}, got {value!r}")
        for part in value:
            check_type(label, part, parts[0])
            if length is None and name != _MAY_REPEAT and value.count(part) > 1:
                raise RecipeError(f"{label}: {part} is listed twice")
    else:
        check_type(label, value, kind)
    if name in CHOICES and value not in CHOICES[name]:
        raise RecipeError(f"{label}: choose from {', '.join(CHOICES[name])}, got {value!r}")
    limits = _get_limits(name, kind)
    if limits and not all(_is_within(limits, number) for number in (value if isinstance(value, list) else [value])):
        raise RecipeError(f"{label} must {_describe_limits(limits)}, got {value}")


def _get_limits(name: str, kind: Any) -> Mapping[str, float]:
    return _LIMITS.get(name, _COUNT if kind is int else {})


def _is_within(limits: Mapping[str, float], value: float) -> bool:
    low, high = limits.get("minimum", -math.inf), limits.get("maximum", math.inf)
    return math.isfinite(value) and low <= value <= high and value > limits.get("exclusiveMinimum", -math.inf)


def _describe_limits(limits: Mapping[str, float]) -> str:
    if "maximum" in limits:
        return f"be in {'[' if 'minimum' in limits else '('}0, {limits['maximum']}]"
    if "exclusiveMinimum" in limits:
        return "be positive"
    return f"be at least {limits['minimum']}" if limits["minimum"] else "not be negative"


def _check_sizes(data: DataRecipe, model: ModelRecipe) -> None:
    """Raise RecipeError for values that do not fit each other."""
    if not 0 <= data.epochs[0] <= data.epochs[1]:
        raise RecipeError(f"[data] epochs must be [first, last], got {list(data.epochs)}")
    if model.width % model.heads > 0:
        raise RecipeError(f"[model] width must be a multiple of heads {model.heads}, got {model.width}")
    if model.bottleneck == "dense" and (model.latent < 1 or model.latent % 1 != 0):
        expected = "a whole number, the size of the dense bottleneck"
        raise RecipeError(f"[model] latent must be {expected}, got {model.latent}")
    if model.bottleneck == "tokens" and model.latent > 1:
        raise RecipeError(f"[model] latent must be at most 1, the share of each token's length, got {model.latent}")


def _check_evaluation(protocol: EvaluationRecipe) -> None:
    if not protocol.finetune_epochs:
        raise RecipeError("[evaluation] finetune_epochs must not be empty")
    for entry in protocol.samplers:
        try:
            check_sampler(SamplerEntry.parse(entry, protocol.top_fraction).sampler, with_weights=True)
        except ModelZooError as error:
            raise RecipeError(f"[evaluation] samplers: {error}") from error


def make_recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes of hyper-representations."""
    return _make_schema("Recipe of a hyper-representation", [*SECTIONS], required=["data", "model", "learning"])


def make_protocol_schema() -> dict[str, Any]:
    """Return the JSON Schema of protocols, which have an [evaluation] section alone."""
    return _make_schema("Evaluation protocol of a hyper-representation", ["evaluation"], required=[])


def _make_schema(title: str, sections: list[str], required: list[str]) -> dict[str, Any]:
    properties = {key: _describe_section(SECTIONS[key]) for key in sections}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, "type": "object"}
    return {**schema, "properties": properties, "required": required, "additionalProperties": False}


def _describe_section(kind: type[JsonRecord]) -> dict[str, Any]:
    """Return the schema of a section; descriptions are those in the docstring of its class."""
    text = inspect.getdoc(kind) or ""
    descriptions, fields = dict(re.findall(r"^    (\w+): (.+)$", text, re.MULTILINE)), dataclasses.fields(kind)
    return {
        "type": "object",
        "description": text.partition("\n")[0],
        "properties": {field.name: _describe_field(field, descriptions[field.name]) for field in fields},
        "required": [field.name for field in fields if field.default is dataclasses.MISSING],
        "additionalProperties": False,
    }


def _describe_field(field: dataclasses.Field[Any], description: str) -> dict[str, Any]:
    """Return the schema of a field; of lists the limits are those of their items."""
    name, kind, default = field.name, field.type, field.default
    schema: dict[str, Any] = {"description": description}
    limits = _get_limits(name, kind)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        schema |= {"type": "array", "items": {"type": _TYPES[parts[0]], **limits}}
        # A pair, such as the first and the last epoch, or any number of items.
        is_pair = parts[-1] is not ...
        schema |= {"minItems": 2, "maxItems": 2} if is_pair else {"uniqueItems": name != _MAY_REPEAT}
    else:
        choices = {"enum": list(CHOICES[name])} if name in CHOICES else {}
        schema |= {"type": _TYPES[kind], **choices, **limits}  # type: ignore[index]
    if default is dataclasses.MISSING:
        return schema
    return {**schema, "default": list(default) if isinstance(default, tuple) else default}
