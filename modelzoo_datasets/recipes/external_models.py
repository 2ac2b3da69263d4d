"""Models that were trained elsewhere: listed one by one, since no grid and no seeds of ours give them."""

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
    """The models of an imported zoo. What all have in common is in the axes of their config."""

    models: Mapping[str, Sequence[Any]]  # origin, seed, split, parent_id of twins, hyper-parameters that differ
    kept_epochs: tuple[int, ...] | None = None  # for which states were published; None: 0 to the last one
    columns: Mapping[str, str] | None = None  # of a population of any kind: those of `models` that are its own -> kind
    measured: Sequence[str] = ()  # and what it has measured of states beside the usual
    lacking: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)  # model_id -> epochs without state

    @property
    def num_models(self) -> int:
        """The number of models in the list."""
        return len(self.models["origin"])

    def to_json(self) -> dict[str, Any]:
        """What a resolved recipe says of them; `from_json` is the inverse, given what zoo.json says is lacking."""
        kept = {} if self.kept_epochs is None else {"kept_epochs": list(self.kept_epochs)}
        own = {} if self.columns is None else {"columns": dict(self.columns), "measured": list(self.measured)}
        return {**kept, **own, "models": {name: list(values) for name, values in self.models.items()}}

    @classmethod
    def from_json(cls, recipe: Mapping[str, Any], lacking: Mapping[str, Sequence[int]]) -> "ExternalModels | None":
        """Read what a resolved recipe says of published models; None where it says nothing.

        Raises:
            RecipeError: the columns are not those of published models, or differ in length.
        """
        models, kept = recipe.get("models"), recipe.get("kept_epochs")
        if models is None:
            return None
        if not isinstance(models, dict) or not all(isinstance(models.get(name), list) for name in _IDENTITY):
            raise RecipeError(f"models must have lists of {', '.join(_IDENTITY)}")
        if len({len(values) for values in models.values()}) != 1:
            raise RecipeError("models must have lists of one length")
        return cls(
            models=models,
            kept_epochs=None if kept is None else tuple(kept),
            columns=recipe.get("columns"),
            measured=tuple(recipe.get("measured", ())),
            lacking=lacking,
        )


def format_model_id(config: str, index: int) -> str:
    """The id of the model at this place of the list, from 1."""
    return f"{config}-{index:05d}"


def published_members(config: str, published: ExternalModels, axes: Mapping[str, Sequence[Any]]) -> list[Member]:
    """Every model of the list, with the epochs of the states that there are."""
    columns = published.models
    shared = {name: values[0] for name, values in axes.items() if name not in columns}
    varied = [name for name in _TRAINING if name in columns]
    kind = ExternalTraining if published.columns is None else RecordedTraining
    members = []
    for row, (seed, split) in enumerate(zip(columns["seed"], columns["split"], strict=True)):
        training = kind(**shared, **{name: columns[name][row] for name in varied})
        model_id = format_model_id(config, row + 1)
        members.append(
            Member(
                index=row + 1,
                model_id=model_id,
                seed=seed,
                split=split,
                training=training,
                parent_id=columns["parent_id"][row] if "parent_id" in columns else None,
                extra={name: columns[name][row] for name in published.columns or ()},
                state_epochs=_kept(training.epochs, published.kept_epochs, published.lacking.get(model_id, ())),
            )
        )
    return members


def _kept(last: int, kept: Sequence[int] | None, lacking: Sequence[int]) -> tuple[int, ...] | None:
    if kept is None and not lacking:
        return None
    without = set(lacking)
    return tuple(epoch for epoch in (kept or range(last + 1)) if epoch <= last and epoch not in without)
