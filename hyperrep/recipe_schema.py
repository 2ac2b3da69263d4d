"""JSON Schemas of recipes and protocols, with which editors complete and check TOML files.

Editors that support JSON Schema for TOML, such as those with the extension Even Better TOML, use them after the
comment `#:schema recipe.schema.json` at the top of a file. They describe today's keys; files with the keys of the first
release are read all the same.
"""

import dataclasses
from typing import Any, get_args, get_origin

from .json_record import JsonRecord
from .recipe import SECTIONS
from .recipe_toml import CHOICES, MAY_BE_ZERO

_DESCRIPTIONS = {
    "data": {
        "": "Training states.",
        "config": "Config of the dataset.",
        "epochs": "First and last epoch of the trajectories, both included.",
        "align": "Align the units of all models to a common reference, by weight matching.",
        "signs": "Align signs too; only for networks with odd activations (tanh).",
    },
    "model": {
        "": "Sizes of the auto-encoder.",
        "width": "Embedding dimension of the transformers.",
        "blocks": "Blocks of the encoder, and as many of the decoder.",
        "heads": "Attention heads; width must be a multiple of them.",
        "feedforward": "Width of the feed-forward layers.",
        "bottleneck": "dense: all tokens to one latent vector; tokens: each token to its own part of it.",
        "latent": "dense: size of the latent vector; tokens: share of a token's length that its part has.",
        "projection": "Width of the head used only inside the contrastive loss.",
        "center": "Subtract the mean of the training states before encoding.",
        "statistics": "Append s(W), the statistics of the layers, to the latent vector.",
        "token_scale": "Factor of the token part of the latent vector.",
        "pooled_dim": "Further latent numbers, from mean and standard deviation of each layer's tokens.",
    },
    "learning": {
        "": "Loss, augmentation and optimization.",
        "epochs": "Epochs of training.",
        "batch_size": "States per step.",
        "lr": "Peak learning rate of the one-cycle schedule.",
        "weight_decay": "Decoupled weight decay of AdamW.",
        "layerwise": "Divide errors by the standard deviation of their layer.",
        "contrastive_weight": "Share of the contrastive loss; the reconstruction loss has the rest.",
        "temperature": "Temperature of the contrastive loss.",
        "permute": "Which of the two views gets a random permutation of units.",
        "reconstruct": "Which views are decoded.",
        "mixup": "Largest share of the way by which a state is moved to another one.",
        "layer_weights": "Factors of the layers' errors, one per layer; all 1 by default.",
        "noise_std": "Gaussian noise on a view, in standard deviations of the layer.",
        "erase_prob": "Probability that a block of a view is set to zero.",
        "functional_weight": "Factor of the functional loss: decoded networks predict what the original ones predict.",
        "mixed_functional_weight": "Factor of the functional loss of networks decoded from draws around embeddings.",
        "mixture": "Target of those networks: mixed logits, or the mean prediction of the batch.",
        "num_queries": "Images per step for the functional losses.",
        "statistics_weight": "Factor of the loss by which the pooled part begins with s(W).",
        "seed": "Seed of all randomness.",
    },
    "evaluation": {
        "": "Protocol that judges samples; an empty list leaves its question out.",
        "num_samples": "Samples per sampler.",
        "samplers": "Names of samplers; NAME@30 draws from the best 30 % of the training states.",
        "top_fraction": "Share of the training states, best validation accuracy first, that samplers draw from.",
        "bandwidth": "Standard deviation of the kernels of density estimates.",
        "num_finetuned": "Models of every population that are fine-tuned.",
        "finetune_epochs": "Epochs of fine-tuning after which models are compared.",
        "noise": "Noise baselines, in layer standard deviations.",
        "mixtures": "Shares by which training states are moved to one of another model.",
        "moves": "Shares of the way by which embeddings are moved to draws of the sampler normal.",
        "max_ensemble_size": "Largest ensemble; 1 for none.",
        "transfer": "Other image datasets to fine-tune on.",
        "changed": "Other architectures that take the same weights.",
        "seed": "Seed of all randomness.",
    },
}
_POSITIVE, _SHARE = {"exclusiveMinimum": 0}, {"minimum": 0, "maximum": 1}
_LIMITS: dict[str, dict[str, Any]] = {
    **{name: _POSITIVE for name in ("lr", "temperature", "latent", "token_scale", "bandwidth", "noise", "moves")},
    **{name: _SHARE for name in ("contrastive_weight", "mixup", "erase_prob")},
    **{name: {"minimum": 0} for name in ("noise_std", "weight_decay", "functional_weight", "mixed_functional_weight")},
    **{name: {"minimum": 0} for name in ("statistics_weight", "layer_weights", "pooled_dim")},
    "top_fraction": {**_POSITIVE, "maximum": 1},
    "mixtures": {**_POSITIVE, "maximum": 0.5},
    "finetune_epochs": {"minimum": 1},
}
_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def make_recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes of hyper-representations."""
    tables = {key: _describe_section(key, kind) for key, kind in SECTIONS.items()}
    return _make_schema("Recipe of a hyper-representation", tables, required=["data", "model", "learning"])


def make_protocol_schema() -> dict[str, Any]:
    """Return the JSON Schema of protocols, which have an [evaluation] section alone."""
    tables = {"evaluation": _describe_section("evaluation", SECTIONS["evaluation"])}
    return _make_schema("Evaluation protocol of a hyper-representation", tables, required=[])


def _make_schema(title: str, tables: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": tables,
        "required": required,
        "additionalProperties": False,
    }


def _describe_section(key: str, kind: type[JsonRecord]) -> dict[str, Any]:
    fields = dataclasses.fields(kind)
    return {
        "type": "object",
        "description": _DESCRIPTIONS[key][""],
        "properties": {field.name: _describe_field(key, field) for field in fields},
        "required": [field.name for field in fields if field.default is dataclasses.MISSING],
        "additionalProperties": False,
    }


def _describe_field(key: str, field: dataclasses.Field[Any]) -> dict[str, Any]:
    default = {} if field.default is dataclasses.MISSING else {"default": field.default}
    if isinstance(field.default, tuple):
        default = {"default": list(field.default)}
    return {"description": _DESCRIPTIONS[key][field.name], **_describe_type(field.name, field.type), **default}


def _describe_type(name: str, kind: Any) -> dict[str, Any]:
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        size: dict[str, Any] = {"uniqueItems": name != "layer_weights"}
        if parts[-1] is not ...:  # a pair, such as the first and the last epoch
            size = {"minItems": len(parts), "maxItems": len(parts)}
        return {"type": "array", "items": {"type": _TYPES[parts[0]], **_LIMITS.get(name, {})}, **size}
    limits = _LIMITS.get(name, {})
    if kind is int and name not in MAY_BE_ZERO:
        limits = {"minimum": 1}
    choices = {"enum": list(CHOICES[name])} if name in CHOICES else {}
    return {"type": _TYPES[kind], **choices, **limits}
