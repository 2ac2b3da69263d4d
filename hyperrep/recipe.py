"""Recipes of hyper-representations: what is learned from which states, and how it is judged."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from modelzoo_datasets.errors import ModelZooError, RecipeError
from modelzoo_datasets.recipes import check_keys, check_type, find_recipe

from .sampler_names import check_sampler, parse_sampler

BOTTLENECKS = ("tokens", "dense")
PERMUTED_VIEWS = ("none", "second", "both")
DECODED_VIEWS = ("first", "both")
MIXTURES = ("ensemble", "logits")
_MAY_BE_ZERO = ("seed", "pooled")
_CHOICES = {
    "bottleneck": BOTTLENECKS,
    "permute": PERMUTED_VIEWS,
    "reconstruct": DECODED_VIEWS,
    "mixture": MIXTURES,
}


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Which states are learned from."""

    config: str
    epochs: tuple[int, int]  # first and last epoch of the trajectories, both included
    align: bool = True  # to a common reference, by weight matching
    signs: bool = False  # align signs too; keeps the functions only where the activation is odd (tanh)


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The auto-encoder (2209.14733, section 3; sizes are ours to choose)."""

    width: int  # of the transformer
    blocks: int  # of the encoder, and again of the decoder
    heads: int
    feedforward: int
    bottleneck: str  # "dense": all tokens to one latent (published); "tokens": each token to its own part of it
    latent: float  # dense: size of the latent; tokens: size of a token's part as a fraction of the token's length
    projection: int = 64  # width of the head used only inside the contrastive loss
    center: bool = True  # subtract the mean of the training states before encoding
    statistics: bool = False  # whether s(W), the statistics of the layers, is a further part of the latent vector
    unit: float = 1.0  # of the part that is of single tokens: probes penalise all alike, and read small numbers last
    pooled: int = 0  # further latent numbers, from mean and spread of each layer's tokens


@dataclass(frozen=True, kw_only=True)
class LearningRecipe:
    """Loss, augmentation and optimisation."""

    epochs: int
    batch_size: int
    lr: float  # peak of the one-cycle schedule
    weight_decay: float
    layerwise: bool = True  # divide errors by the standard deviation of their layer
    contrast: float = 0.05  # share of the contrastive loss
    temperature: float = 0.1
    permute: str = "both"  # which of the two views gets a permutation of units drawn afresh
    reconstruct: str = "both"  # which views are decoded; "first" leaves the second to the contrastive loss
    mix: float = 0.0  # largest share by which a state is moved towards another one
    layer_weights: tuple[float, ...] = ()  # factors of the layers' errors; all 1 if not given
    noise: float = 0.0  # standard deviations of the layer added to a view
    erase: float = 0.0  # probability that a block of a view is set to zero
    behaviour: float = 0.0  # factor of: decoded networks say what the originals say of training images
    mixed_behaviour: float = 0.0  # factor of the same for networks decoded from draws around the embeddings of a batch
    mixture: str = "logits"  # what these shall say: as embeddings are mixed; "ensemble": what the whole batch says
    queries: int = 64  # images per step that networks are asked about
    statistics: float = 0.0  # factor of: the pooled part begins with the statistics of the layers, s(W)
    seed: int = 0

    @property
    def asks(self) -> bool:
        """Whether networks are run on images."""
        return self.behaviour > 0 or self.mixed_behaviour > 0

    @property
    def two_views(self) -> bool:
        """Whether any loss needs a second view of a state."""
        return self.contrast > 0 or self.reconstruct == "both"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """The protocol that samples are judged by; questions that are not asked cost nothing."""

    samples: int = 50  # per sampler
    samplers: tuple[str, ...] = ("kde", "kde-principal", "kde-shared")  # "NAME@30": of the best 30 % instead
    quality: float = 0.3  # share of the best training states that samplers draw from
    bandwidth: float = 0.002  # of the kernel density estimates, as published
    compared: int = 12  # models of every population that are fine-tuned
    fine_tune: tuple[int, ...] = (1, 5)  # epochs after which models are compared; published: 1, 5, 25, 50
    noise: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)  # layer standard deviations that training states are moved by
    mixtures: tuple[float, ...] = (0.1, 0.25)  # shares by which training states are moved to one of another model
    moves: tuple[float, ...] = ()  # shares of the way that embeddings of training states are moved to `normal` draws
    ensemble: int = 1  # largest ensemble, published protocol: 30; 1 for none
    transfer: tuple[str, ...] = ()  # other image datasets
    changed: tuple[str, ...] = ()  # other architectures that take the same weights
    seed: int = 0

    @property
    def epochs(self) -> int:
        """Of fine-tuning."""
        return max(self.fine_tune)


@dataclass(frozen=True, kw_only=True)
class HyperRecipe:
    """All that decides a hyper-representation and its evaluation."""

    name: str
    data: DataRecipe
    model: ModelRecipe
    learning: LearningRecipe
    evaluation: EvaluationRecipe


_SECTIONS = {
    "data": DataRecipe,
    "model": ModelRecipe,
    "learning": LearningRecipe,
    "evaluation": EvaluationRecipe,
}


def read_protocol(path: Path) -> EvaluationRecipe:
    """Read a TOML file that has an [evaluation] section alone; raises RecipeError."""
    try:
        values = tomllib.loads(path.read_text())
        check_keys("a protocol", values, ("evaluation",))
        protocol: EvaluationRecipe = _section("evaluation", values.get("evaluation", {}))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecipeError) as error:
        raise RecipeError(f"protocol {path.name}: {error}") from error
    for wrong, told in _impossible_protocol(protocol):
        if wrong:
            raise RecipeError(f"protocol {path.name}: {told}")
    return protocol


def read_hyper_recipe(name_or_path: str) -> HyperRecipe:
    """Read a recipe by name (as in `hyperrep/recipes/NAME.toml`) or by path; raises RecipeError."""
    path = find_recipe("hyperrep", name_or_path)
    try:
        values = tomllib.loads(path.read_text())
        check_keys("a hyper-representation recipe", values, tuple(_SECTIONS))
        parts = {key: _section(key, values.get(key, {})) for key in _SECTIONS}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecipeError) as error:
        raise RecipeError(f"recipe {path.name}: {error}") from error
    recipe = HyperRecipe(name=path.stem, **parts)
    for wrong, told in _impossible(recipe):
        if wrong:
            raise RecipeError(f"recipe {path.name}: {told}")
    return recipe


def _impossible(recipe: HyperRecipe) -> list[tuple[bool, str]]:
    """What cannot be learned or judged, and how to say so."""
    data, model, how, judged = recipe.data, recipe.model, recipe.learning, recipe.evaluation
    shares = {"contrast": how.contrast, "mix": how.mix, "erase": how.erase}
    sizes = {"lr": how.lr, "temperature": how.temperature, "latent": model.latent, "unit": model.unit}
    names = ("noise", "weight_decay", "behaviour", "mixed_behaviour", "statistics")
    factors = {name: getattr(how, name) for name in names}
    return [
        (not 0 <= data.epochs[0] <= data.epochs[1], f"[data] epochs must be [first, last], got {list(data.epochs)}"),
        (model.width % model.heads > 0, f"[model] width {model.width} is no multiple of heads {model.heads}"),
        (model.pooled < 0, f"[model] pooled must not be negative, got {model.pooled}"),
        (
            model.bottleneck == "dense" and (model.latent < 1 or model.latent % 1 != 0),
            f"[model] latent of a dense bottleneck is its size, a whole number, got {model.latent}",
        ),
        (
            model.bottleneck == "tokens" and model.latent > 1,
            f"[model] latent of a tokens bottleneck is a share of each token, at most 1, got {model.latent}",
        ),
        *((not 0 < v < math.inf, f"{name} must be positive, got {v}") for name, v in sizes.items()),
        *((not 0 <= v <= 1, f"{name} must be in [0, 1], got {v}") for name, v in shares.items()),
        *((not 0 <= v < math.inf, f"{name} must not be negative, got {v}") for name, v in factors.items()),
        (not all(0 <= w < math.inf for w in how.layer_weights), "layer_weights must not be negative"),
        *_impossible_protocol(judged),
    ]


def _impossible_protocol(judged: EvaluationRecipe) -> list[tuple[bool, str]]:
    where, epochs, shares = "[evaluation]", judged.fine_tune, judged.mixtures
    lists = ("samplers", "fine_tune", "noise", "mixtures", "moves", "transfer", "changed")
    values = {name: getattr(judged, name) for name in lists}
    twice = [f"{name}: {v} is named twice" for name, found in values.items() for v in found if found.count(v) > 1]
    return [
        (not 0 < judged.quality <= 1, f"{where} quality must be in (0, 1], got {judged.quality}"),
        (not 0 < judged.bandwidth < math.inf, f"bandwidth must be positive, got {judged.bandwidth}"),
        (not epochs or min(epochs) < 1, f"{where} fine_tune must be epochs from 1 on, got {list(epochs)}"),
        (not all(0 < v < math.inf for v in judged.noise), f"{where} noise must be positive, got {list(judged.noise)}"),
        (not all(0 < v <= 0.5 for v in shares), f"{where} mixtures must be in (0, 0.5], got {list(shares)}"),
        (not all(0 < v < math.inf for v in judged.moves), f"{where} moves must be positive, got {list(judged.moves)}"),
        *((True, f"{where} {told}") for told in twice),
        *((True, f"{where} samplers: {told}") for told in _unknown_samplers(judged)),
    ]


def _unknown_samplers(judged: EvaluationRecipe) -> list[str]:
    told = []
    for entry in judged.samplers:
        try:
            check_sampler(parse_sampler(entry, judged.quality)[0], with_weights=True)
        except ModelZooError as error:
            told.append(str(error))
    return told


def _section(key: str, values: dict[str, Any]) -> Any:
    if not isinstance(values, dict):
        raise RecipeError(f"{key} must be a table, got {values!r}")
    kind = _SECTIONS[key]
    fields = dataclasses.fields(kind)
    check_keys(f"[{key}]", values, tuple(field.name for field in fields))
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise RecipeError(f"[{key}] misses {', '.join(missing)}")
    for name, choices in _CHOICES.items():
        if values.get(name, choices[0]) not in choices:
            raise RecipeError(f"[{key}] {name}: choose from {', '.join(choices)}, got {values[name]!r}")
    kinds = {field.name: field.type for field in fields}
    return kind(**{name: _value(f"[{key}] {name}", v, kinds[name]) for name, v in values.items()})


def _value(name: str, value: Any, kind: Any) -> Any:
    """The value, lists as tuples; RecipeError if it is of another type, or a count below 1."""
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        length = None if parts[-1] is ... else len(parts)
        if not isinstance(value, list) or length not in (None, len(value)):
            raise RecipeError(f"{name} must be a list{f' of {length}' if length else ''}, got {value!r}")
        for part in value:
            check_type(name, part, parts[0])
        return tuple(value)
    check_type(name, value, kind)
    if kind is int and value < 1 and not name.endswith(_MAY_BE_ZERO):
        raise RecipeError(f"{name} must be at least 1, got {value}")
    return value
