"""The hyperparameters of one model as a value, and checks of the keys and values of recipes and options."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RecipeError, nearest_hint, unknown

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
SCHEDULES = ("constant", "onecycle")
AUGMENTATIONS = ("none", "crop-flip", "flip-rotate")
CHOICES = {
    "activation": ACTIVATIONS,
    "init": INITS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
}
_MAX_RANGE = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Training:
    """The hyperparameters of one model. Together with the seed they determine its weights."""

    epochs: int
    batch_size: int  # images per step; the last batch of an epoch can be smaller
    activation: str
    init: str
    optimizer: str
    lr: float  # learning rate of every step, or the maximum of a schedule
    weight_decay: float = 0.0  # L2 for adam and sgd, decoupled for adamw
    dropout: float = 0.0  # probability in [0, 1)
    momentum: float = 0.9  # sgd only
    schedule: str = "constant"  # onecycle: one cycle over all steps (1708.07120), with torch's defaults
    augmentation: str = "none"  # augmentation of the training images, drawn again in every epoch

    def __post_init__(self) -> None:
        known = {name: value for name, value in vars(self).items() if not self._is_unknown(name, value)}
        for name, value in known.items():
            check_type(name, value, Training.__annotations__[name])
        for name, choices in self._choices().items():
            if name in known and known[name] not in choices:
                raise RecipeError(unknown(name, str(known[name]), choices))
        for name in ("epochs", "batch_size", "lr"):
            if name in known and not 0 < known[name] < math.inf:
                raise RecipeError(f"{name} must be positive, got {known[name]}")
        for name in ("dropout", "momentum"):
            if name in known and not 0 <= known[name] < 1:
                raise RecipeError(f"{name} must be in [0, 1), got {known[name]}")
        if "weight_decay" in known and not 0 <= known["weight_decay"] < math.inf:
            raise RecipeError(f"weight_decay must not be negative, got {known['weight_decay']}")

    def _is_unknown(self, name: str, value: object) -> bool:
        """Tell whether a value is unknown and may be."""
        return False

    def _choices(self) -> dict[str, tuple[str, ...]]:
        return CHOICES


@dataclass(frozen=True, kw_only=True)
class ExternalTraining(Training):
    """The hyperparameters of a model trained by other code, with any init, optimizer and schedule."""

    def _choices(self) -> dict[str, tuple[str, ...]]:
        return {"activation": ACTIVATIONS}


@dataclass(frozen=True, kw_only=True)
class RecordedTraining(ExternalTraining):
    """The hyperparameters of a model of any kind, as far as they are recorded; unknown values are None."""

    def _choices(self) -> dict[str, tuple[str, ...]]:
        return {}

    def _is_unknown(self, name: str, value: object) -> bool:
        return value is None and name != "epochs"


def parse_range(name: str, text: str) -> range:
    """Return the range of a text such as "3" or "1-100", with both ends included.

    Raises:
        RecipeError: The text is no such range; the message begins with `name`.
    """
    first, _, last = text.partition("-")
    if not re.fullmatch(r"\d{1,9}(-\d{1,9})?", text, re.ASCII) or int(last or first) < int(first):
        raise RecipeError(f"{name} must look like 1-100 or 7, got {text!r}")
    if int(last or first) - int(first) >= _MAX_RANGE:
        raise RecipeError(f"{name}: expected at most {_MAX_RANGE:,} numbers, got {text!r}")
    return range(int(first), int(last or first) + 1)


def check_keys(where: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise RecipeError for an unknown key, with the most similar known one.

    Args:
        where: The table, as the beginning of the message.
        values: The table to check.
        known: All known keys.
    """
    for key in values:
        if key not in known:
            raise RecipeError(f"{where} has no key {key!r}; {nearest_hint(key, known)}")


def check_type(name: str, value: Any, kind: type) -> None:
    """Raise RecipeError for a value of another type.

    Args:
        name: The name of the value, as the beginning of the message.
        value: The value to check.
        kind: int, float (which accepts integers), str or bool.
    """
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise RecipeError(f"{name} must be {kind.__name__}, got {value!r}")
