"""The hyperparameters of one model as a value."""

import math
from dataclasses import dataclass

from ..errors import RecipeError, unknown
from .validators import check_type

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
