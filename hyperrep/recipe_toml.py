"""Recipes and protocols as TOML files: reading, defaults, and one clear sentence for every mistake."""

import dataclasses
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from modelzoo_datasets.errors import ModelZooError, RecipeError
from modelzoo_datasets.recipes import check_keys, check_type, find_recipe

from .json_record import JsonRecord
from .recipe import (
    BOTTLENECKS,
    DECODED_VIEWS,
    MIXTURES,
    PERMUTED_VIEWS,
    SECTIONS,
    EvaluationRecipe,
    HyperRecipe,
)
from .sampler_names import check_sampler, parse_sampler

MAY_BE_ZERO = ("seed", "pooled_dim")  # all other whole numbers are counts from 1 on
CHOICES = {
    "bottleneck": BOTTLENECKS,
    "permute": PERMUTED_VIEWS,
    "reconstruct": DECODED_VIEWS,
    "mixture": MIXTURES,
}
_UNREADABLE = (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecipeError)
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
    try:
        values = tomllib.loads(path.read_text())
        check_keys("a hyper-representation recipe", values, tuple(SECTIONS))
        sections: dict[str, Any] = {key: _read_section(key, kind, values) for key, kind in SECTIONS.items()}
    except _UNREADABLE as error:
        raise RecipeError(f"recipe {path.name}: {error}") from error
    recipe = HyperRecipe(name=path.stem, **sections)
    for problem in _find_problems(recipe):
        raise RecipeError(f"recipe {path.name}: {problem}")
    return recipe


def read_protocol(path: Path) -> EvaluationRecipe:
    """Read a TOML file that has an [evaluation] section alone; raises RecipeError."""
    try:
        values = tomllib.loads(path.read_text())
        check_keys("a protocol", values, ("evaluation",))
        protocol = _read_section("evaluation", EvaluationRecipe, values)
    except _UNREADABLE as error:
        raise RecipeError(f"protocol {path.name}: {error}") from error
    for problem in _find_protocol_problems(protocol):
        raise RecipeError(f"protocol {path.name}: {problem}")
    return protocol


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
    return kind(**{name: _check_value(key, name, value, fields[name].type) for name, value in values.items()})


def _rename_aliases(where: str, kind: type[JsonRecord], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values under the names of the fields; a field may have its old or its new key, not both."""
    for alias, name in kind.ALIASES.items():
        if alias in values and name in values:
            raise RecipeError(f"{where} has {alias} and {name}, two keys of one thing; leave out {alias}")
    return {kind.ALIASES.get(key, key): value for key, value in values.items()}


def _check_value(key: str, name: str, value: Any, kind: Any) -> Any:
    """Return the value, a list as a tuple; RecipeError for another type, an unknown choice, or a count below 1."""
    label = f"[{key}] {name}"
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        length = None if parts[-1] is ... else len(parts)
        if not isinstance(value, list) or length not in (None, len(value)):
            raise RecipeError(f"{label} must be a list{f' of {length}' if length else ''}, got {value!r}")
        for part in value:
            check_type(label, part, parts[0])
        return tuple(value)
    check_type(label, value, kind)
    if name in CHOICES and value not in CHOICES[name]:
        raise RecipeError(f"{label}: choose from {', '.join(CHOICES[name])}, got {value!r}")
    if kind is int and value < 1 and name not in MAY_BE_ZERO:
        raise RecipeError(f"{label} must be at least 1, got {value}")
    return value


def _find_problems(recipe: HyperRecipe) -> Iterator[str]:
    """Yield a sentence for everything that no training or evaluation can do."""
    data, model, learning = recipe.data, recipe.model, recipe.learning
    if not 0 <= data.epochs[0] <= data.epochs[1]:
        yield f"[data] epochs must be [first, last], got {list(data.epochs)}"
    if model.width % model.heads > 0:
        yield f"[model] width must be a multiple of heads {model.heads}, got {model.width}"
    if model.pooled_dim < 0:
        yield f"[model] pooled_dim must not be negative, got {model.pooled_dim}"
    if model.bottleneck == "dense" and (model.latent < 1 or model.latent % 1 != 0):
        yield f"[model] latent must be a whole number, the size of the dense bottleneck, got {model.latent}"
    if model.bottleneck == "tokens" and model.latent > 1:
        yield f"[model] latent must be at most 1, the share of each token's length, got {model.latent}"
    for section, names in (("learning", ("lr", "temperature")), ("model", ("latent", "token_scale"))):
        for name in names:
            if not 0 < (value := getattr(getattr(recipe, section), name)) < math.inf:
                yield f"[{section}] {name} must be positive, got {value}"
    for name in ("contrastive_weight", "mixup", "erase_prob"):
        if not 0 <= (value := getattr(learning, name)) <= 1:
            yield f"[learning] {name} must be in [0, 1], got {value}"
    for name in ("noise_std", "weight_decay", "functional_weight", "mixed_functional_weight", "statistics_weight"):
        if not 0 <= (value := getattr(learning, name)) < math.inf:
            yield f"[learning] {name} must not be negative, got {value}"
    if not all(0 <= weight < math.inf for weight in learning.layer_weights):
        yield f"[learning] layer_weights must not be negative, got {list(learning.layer_weights)}"
    yield from _find_protocol_problems(recipe.evaluation)


def _find_protocol_problems(protocol: EvaluationRecipe) -> Iterator[str]:
    where = "[evaluation]"
    if not 0 < protocol.top_fraction <= 1:
        yield f"{where} top_fraction must be in (0, 1], got {protocol.top_fraction}"
    if not 0 < protocol.bandwidth < math.inf:
        yield f"{where} bandwidth must be positive, got {protocol.bandwidth}"
    if not protocol.finetune_epochs or min(protocol.finetune_epochs) < 1:
        yield f"{where} finetune_epochs must be epochs from 1 on, got {list(protocol.finetune_epochs)}"
    for name, largest in (("noise", math.inf), ("moves", math.inf), ("mixtures", 0.5)):
        values = getattr(protocol, name)
        if not all(0 < value <= largest and math.isfinite(value) for value in values):
            expected = "positive" if largest == math.inf else f"in (0, {largest}]"
            yield f"{where} {name} must be {expected}, got {list(values)}"
    for name in ("samplers", "finetune_epochs", "noise", "mixtures", "moves", "transfer", "changed"):
        values = getattr(protocol, name)
        for value in values:
            if values.count(value) > 1:
                yield f"{where} {name}: {value} is listed twice"
    for entry in protocol.samplers:
        try:
            check_sampler(parse_sampler(entry, protocol.top_fraction)[0], with_weights=True)
        except ModelZooError as error:
            yield f"{where} samplers: {error}"
