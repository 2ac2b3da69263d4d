"""Models that were trained by other code. A recipe lists them one by one, since no grid generates them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RecipeError
from .hyperparameters import ExternalTraining, RecordedTraining
from .members import Member

_IDENTITY = ("origin", "seed", "split")
_TRAINING = tuple(field.name for field in dataclasses.fields(ExternalTraining))


@dataclass(frozen=True, kw_only=True)
class ExternalModels:
    """The models of an imported zoo. Values that all models share are in the axes of their config."""

    models: Mapping[str, Sequence[Any]]  # columns: origin, seed, split, parent_id (twins), varying hyperparameters
    kept_epochs: tuple[int, ...] | None = None  # published epochs; None means all from 0 to the last
    columns: Mapping[str, str] | None = None  # additional columns of `models` -> type, for populations of any kind
    measured: Sequence[str] = ()  # additional metrics of the states
    lost_epochs: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)  # model_id -> missing epochs

    @property
    def num_models(self) -> int:
        """The number of models in the list."""
        return len(self.models["origin"])

    def to_json(self) -> dict[str, Any]:
        """Return the keys of a resolved recipe; `from_json` is the inverse but for `lost_epochs`."""
        epochs = {} if self.kept_epochs is None else {"kept_epochs": list(self.kept_epochs)}
        own = {} if self.columns is None else {"columns": dict(self.columns), "measured": list(self.measured)}
        return {**epochs, **own, "models": {name: list(values) for name, values in self.models.items()}}

    @classmethod
    def from_json(cls, recipe: Mapping[str, Any]) -> "ExternalModels | None":
        """Return the models that a resolved recipe lists, or None if it lists none.

        Raises:
            RecipeError: A required column is missing, or the columns differ in length.
        """
        models, epochs = recipe.get("models"), recipe.get("kept_epochs")
        if models is None:
            return None
        if not isinstance(models, dict) or not all(isinstance(models.get(name), list) for name in _IDENTITY):
            raise RecipeError(f"models must have lists of {', '.join(_IDENTITY)}")
        if len({len(values) for values in models.values()}) != 1:
            raise RecipeError("models must have lists of one length")
        return cls(
            models=models,
            kept_epochs=None if epochs is None else tuple(epochs),
            columns=recipe.get("columns"),
            measured=tuple(recipe.get("measured", ())),
        )


def format_model_id(config: str, index: int) -> str:
    """Return the id of the model at this position of the list, counted from 1."""
    return f"{config}-{index:05d}"


def list_external_members(config: str, published: ExternalModels, axes: Mapping[str, Sequence[Any]]) -> list[Member]:
    """Return every model of the list, with the epochs of its available states.

    Args:
        config: The name of the config.
        published: The models.
        axes: The values that all models share, as axes of length 1.
    """
    columns = published.models
    shared = {name: values[0] for name, values in axes.items() if name not in columns}
    varied = [name for name in _TRAINING if name in columns]
    kind = ExternalTraining if published.columns is None else RecordedTraining
    members = []
    for row, (seed, split) in enumerate(zip(columns["seed"], columns["split"], strict=True)):
        training = kind(**shared, **{name: columns[name][row] for name in varied})
        model_id = format_model_id(config, row + 1)
        missing = published.lost_epochs.get(model_id, ())
        members.append(
            Member(
                index=row + 1,
                model_id=model_id,
                seed=seed,
                split=split,
                training=training,
                parent_id=columns["parent_id"][row] if "parent_id" in columns else None,
                extra={name: columns[name][row] for name in published.columns or ()},
                state_epochs=_available_epochs(training.epochs, published.kept_epochs, missing),
            )
        )
    return members


def _available_epochs(last: int, epochs: Sequence[int] | None, missing: Sequence[int]) -> tuple[int, ...] | None:
    """Return the epochs of available states, or None if these are all from 0 to the last."""
    if epochs is None and not missing:
        return None
    return tuple(epoch for epoch in (epochs or range(last + 1)) if epoch <= last and epoch not in missing)
