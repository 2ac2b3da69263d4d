"""One model of a zoo as a value, and the models that a recipe lists one by one, since other code trained them."""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RecipeError
from ..seeds import derive_seed
from .hyperparameters import ExternalTraining, RecordedTraining, Training

_IDENTITY = ("origin", "seed", "split")
_TRAINING = tuple(field.name for field in dataclasses.fields(ExternalTraining))


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of a zoo: its identity and everything that its weights depend on."""

    index: int  # position in the grid, counted from 1
    model_id: str
    seed: int
    split: str  # train, validation or test, determined by the recipe
    training: Training
    parent_id: str | None = None  # for a sparsified twin: the model with whose last state its training begins
    state_epochs: tuple[int, ...] | None = None  # ascending epochs of the states, if an imported model lacks some
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # values of additional columns

    @property
    def epochs(self) -> Sequence[int]:
        """The epochs with a state: from 0 to the last, or the published ones."""
        return range(self.training.epochs + 1) if self.state_epochs is None else self.state_epochs


def iterate_splits(seed: int, config: str) -> Iterator[str]:
    """Yield the splits of consecutive models without end: exactly 14 train, 3 validation and 3 test of every 20.

    The split of a model does not depend on which other models are trained.
    """
    for block in itertools.count():
        splits = ["train"] * 14 + ["validation"] * 3 + ["test"] * 3
        random.Random(derive_seed(seed, config, "split", block)).shuffle(splits)
        yield from splits


@dataclass(frozen=True, kw_only=True)
class ExternalModels:
    """The models of an imported zoo. Values that all models share are in the axes of their config."""

    models: Mapping[str, Sequence[Any]]  # columns: origin, seed, split, parent_id (twins), varying hyperparameters
    kept_epochs: tuple[int, ...] | None = None  # published epochs; None means all from 0 to the last
    columns: Mapping[str, str] | None = None  # additional columns of `models` -> type, for populations of any kind
    measured: Sequence[str] = ()  # additional metrics of the states
    lacking: Mapping[str, Sequence[int]] = field(default_factory=dict)  # model_id -> missing epochs

    @property
    def num_models(self) -> int:
        """The number of models in the list."""
        return len(self.models["origin"])

    def to_json(self) -> dict[str, Any]:
        """Return the keys of a resolved recipe; `from_json` is the inverse, given the missing epochs of zoo.json."""
        epochs = {} if self.kept_epochs is None else {"kept_epochs": list(self.kept_epochs)}
        own = {} if self.columns is None else {"columns": dict(self.columns), "measured": list(self.measured)}
        return {**epochs, **own, "models": {name: list(values) for name, values in self.models.items()}}

    @classmethod
    def from_json(cls, recipe: Mapping[str, Any], lacking: Mapping[str, Sequence[int]]) -> "ExternalModels | None":
        """Return the models that a resolved recipe lists, or None if it lists none.

        Args:
            recipe: The resolved recipe, as in zoo.json.
            lacking: The missing epochs of each model id.

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
            lacking=lacking,
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
        missing = published.lacking.get(model_id, ())
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


def _available_epochs(last: int, epochs: Sequence[int] | None, lacking: Sequence[int]) -> tuple[int, ...] | None:
    """Return the epochs of available states, or None if these are all from 0 to the last."""
    if epochs is None and not lacking:
        return None
    missing = set(lacking)
    return tuple(epoch for epoch in (epochs or range(last + 1)) if epoch <= last and epoch not in missing)
