"""The JSON Schema of generation recipes, with which editors complete and check TOML files."""

import dataclasses
from typing import Any

from .hyperparameters import CHOICES, Training

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
