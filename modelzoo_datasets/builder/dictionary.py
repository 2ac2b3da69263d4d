"""The data dictionary of a card: type, unit and meaning of every column, and the columns that nothing recorded."""

from collections.abc import Iterable, Sequence
from typing import Any

from .schema import TableSchema, describe_features

_FRACTION = "fraction"
_LOSS = "nats"
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_METRICS = {
    f"{split}_{kind}": (unit, f"{text} on the {name} images")
    for split, name in _SPLITS.items()
    for kind, unit, text in (("loss", _LOSS, "Mean cross entropy"), ("acc", _FRACTION, "Accuracy"))
}
_UNITS_AND_MEANINGS = {  # column -> unit and meaning
    "model_id": ("", "Name of the model: its config and its number in it; all of its states have it"),
    "epoch": ("epochs", "Training behind this state; 0 is the untrained model"),
    "seed": ("", "Seed of the initial weights, of the order of the images and of dropout"),
    "parent_id": ("", "`model_id` of the model that this sparsified twin started from"),
    "epochs": ("epochs", "Length of the training of this model"),
    "batch_size": ("images", "Images per step of the optimizer"),
    "activation": ("", "Activation after every hidden layer"),
    "init": ("", "Initialization of the weights, by its name in `torch.nn.init`"),
    "optimizer": ("", "Optimizer, by its name in `torch.optim`"),
    "lr": ("", "Learning rate of every step, or the maximum of a schedule"),
    "weight_decay": ("", "L2 penalty for adam and sgd, decoupled decay for adamw"),
    "dropout": ("probability", "Probability that dropout zeroes a number; 0 is no dropout"),
    "momentum": ("", "Momentum; it plays a part for sgd alone"),
    "schedule": ("", "Schedule of the learning rate"),
    "augmentation": ("", "Augmentation of the training images"),
    **_METRICS,
    "ggap": (_FRACTION, "Generalization gap: `train_acc` - `test_acc`"),
    "sparsity": (_FRACTION, "Share of the weights that are pruned, which are zero"),
    "test_recall": (f"{_FRACTION}s", "Share of the test images of each class that are classified correctly"),
    "finite": ("", "Whether all numbers of the state are finite; false for states that diverged"),
    "sha256": ("hexadecimal", "SHA-256 of the weights as little-endian float32"),
    "weights": ("", "All numbers of the state, in the order of the layout below"),
    "weights_file": ("", "File in this repo that holds the weights of the state, in the format safetensors"),
    "weights_key": ("", "Prefix of the names of the state's tensors in that file"),
    "offset": ("bytes", "Where the weights of the state begin in that file"),
    "nbytes": ("bytes", "Length of the weights of the state in that file"),
}
_ORIGIN = "Name of the model in the original"
_RECORDED = "As the original recorded it; its publication says what it means"


def list_columns(schemas: Sequence[TableSchema]) -> list[dict[str, Any]]:
    """Return name, type, unit and meaning of each column of some configs; extra ones follow the hyperparameters."""
    features = {feature["name"]: feature for schema in schemas for feature in describe_features(schema.full)}
    places = {name: place for place, name in enumerate(_UNITS_AND_MEANINGS)}
    names = sorted(features, key=lambda name: places.get(name, places["augmentation"]))
    return [{"name": name, "type": format_type(features[name]), **_explain_column(name)} for name in names]


def _explain_column(name: str) -> dict[str, str]:
    unit, meaning = _UNITS_AND_MEANINGS.get(name, ("", _ORIGIN if name == "origin" else _RECORDED))
    return {"unit": unit, "meaning": meaning}


def format_type(feature: dict[str, Any]) -> str:
    """Return the type of a feature, as `describe_features` describes it, in words."""
    if "list" not in feature:
        return str(feature["dtype"])
    return f"list of {feature['length']:,} {feature['list']}" if "length" in feature else f"list of {feature['list']}"


def list_absent(complete: Iterable[TableSchema], stored: Iterable[TableSchema]) -> list[str]:
    """Return the columns that datasets of such zoos can have and that no config of this one has."""
    existing = {name for schema in stored for name in schema.full.names}
    return list(dict.fromkeys(name for schema in complete for name in schema.full.names if name not in existing))
