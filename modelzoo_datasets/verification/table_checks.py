"""Checks that tables agree with the recipe."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ..engines import METRICS, SPARSITY
from ..errors import FormatError
from ..recipes import Member, Training
from ..zoo import ZooInfo

_ACCURACIES = tuple(name for name in METRICS if name.endswith("_acc"))
_KINDS = {"epoch": "integer", "index": "integer", "seed": "integer", "finite": "boolean", "diverged": "boolean"}


def model_columns(info: ZooInfo) -> list[str]:
    """Return the columns of the table of models that the recipe determines."""
    parent = ["parent_id"] if info.recipe.parent is not None else []
    hyperparameters = [field.name for field in dataclasses.fields(Training)]
    return ["index", "seed", "split", *parent, *hyperparameters, *info.recipe.columns]


def state_columns(info: ZooInfo) -> list[str]:
    """Return the columns of the table of states."""
    sparsity = [SPARSITY] if info.recipe.parent is not None else []
    return ["epoch", *METRICS, *sparsity, "ggap", "test_recall", "finite", "sha256"]


def check_columns(table: pd.DataFrame, path: Path, columns: Iterable[str]) -> None:
    """Raise FormatError if a table lacks a column, or has other values than numbers or booleans where it needs them."""
    repair = "restore it, or make the zoo again"
    for name in ("model_id", *columns):
        if name not in table:
            raise FormatError(f"table {path} has no column {name!r}, which modelzoo-generate writes; {repair}")
        kind = pd.api.types.infer_dtype(table[name])
        if name in _KINDS and kind != _KINDS[name]:
            raise FormatError(
                f"table {path} must have {_KINDS[name]} values in every row of {name!r}, got {kind}; {repair}"
            )


def compare_with_recipe(
    table: pd.DataFrame, members: Mapping[str, Member], columns: Iterable[str], source: str
) -> list[str]:
    """Find rows with other values than the recipe gives their model.

    Args:
        table: rows of models or of states.
        members: the models of the recipe, by id.
        columns: the columns to compare.
        source: the name of the table in messages.
    """
    unknown = [str(model) for model in table["model_id"].unique() if model not in members]
    problems = [f"{source}: the recipe has no model {model!r}" for model in unknown]
    known = table[~table["model_id"].isin(unknown)]
    values = {model: _member_values(members[model]) for model in known["model_id"].unique()}
    expected = pd.DataFrame([values[model] for model in known["model_id"]], index=known.index)
    for name in columns if len(known) else ():
        missing = known[name].isna() & expected[name].isna()
        wrong = known.loc[((known[name] != expected[name]) & ~missing).to_numpy(dtype=bool), ["model_id", name]]
        problems += [
            f"{source}: {name} of {model} is {value!r}, the recipe says {values[model][name]!r}"
            for model, value in wrong.drop_duplicates().itertuples(index=False, name=None)
        ]
    return problems


def _member_values(member: Member) -> dict[str, object]:
    values = {name: getattr(member, name) for name in ("index", "seed", "split", "parent_id")}
    return {**values, **dataclasses.asdict(member.training), **member.extra}


def find_wrong_epochs(
    models: Iterable[str], states: pd.DataFrame, members: Mapping[str, Member], source: str
) -> list[str]:
    """Find models that do not have exactly one state for each of their epochs.

    Args:
        models: the ids in the table of models.
        states: the table of states.
        members: the models of the recipe, by id.
        source: the name of the table of states in messages.
    """
    by_model = {str(model): sorted(epochs) for model, epochs in states.groupby("model_id")["epoch"]}
    ids = set(models)
    problems = [f"{source}: {model} is not in the table of models" for model in by_model if model not in ids]
    for model in sorted(ids & members.keys()):
        expected, epochs = members[model].epochs, by_model.get(model, [])
        if epochs != list(expected):
            missing = sorted({*expected} - {*epochs})
            difference = f"lacks epoch {_list_numbers(missing)}" if missing else "has more"
            noun = f"the epochs 0 to {expected[-1]}" if isinstance(expected, range) else f"its {len(expected)} epochs"
            problems.append(f"{source}: {model} must have {noun} once each; it {difference}")
    return problems


def _list_numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def find_wrong_metrics(states: pd.DataFrame, source: str) -> list[tuple[str, str]]:
    """Find states with accuracies that are no fractions, or a gap that is not the difference of two accuracies.

    Args:
        states: the table of states.
        source: its name in messages.

    Returns:
        (model, problem) of each such value.
    """
    # A column without any measured value has the type `object`.
    numbers = {name: pd.to_numeric(states[name], errors="coerce") for name in (*_ACCURACIES, "ggap")}
    wrong = {name: (numbers[name] < 0) | (numbers[name] > 1) for name in _ACCURACIES}
    gap = numbers["train_acc"] - numbers["test_acc"]
    is_gap = np.isclose(numbers["ggap"], gap, rtol=0, atol=1e-12, equal_nan=True)
    wrong["ggap"] = pd.Series(~is_gap, index=states.index)
    expected = {**dict.fromkeys(_ACCURACIES, "in [0, 1]"), "ggap": "train_acc - test_acc"}
    return [
        (model, f"{source}: {name} of {model} epoch {epoch} must be {expected[name]}, got {value!r}")
        for name, mask in wrong.items()
        for model, epoch, value in states.loc[mask, ["model_id", "epoch", name]].itertuples(index=False, name=None)
    ]
