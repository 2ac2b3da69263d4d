"""Whether the tables say what the recipe says."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ..engines import METRICS, SPARSITY
from ..errors import FormatError
from ..recipes import Member, Training

HYPER_PARAMETERS = tuple(field.name for field in dataclasses.fields(Training))
_ACCURACIES = tuple(name for name in METRICS if name.endswith("_acc"))


def model_columns(*, twins: bool) -> tuple[str, ...]:
    """Columns of the table of models that the recipe decides."""
    return ("index", "seed", "split", *(("parent_id",) if twins else ()), *HYPER_PARAMETERS)


def state_columns(*, twins: bool) -> tuple[str, ...]:
    """Columns of the table of states."""
    return (*METRICS, *((SPARSITY,) if twins else ()), "ggap", "test_recall", "finite", "sha256")


def check_columns(table: pd.DataFrame, path: Path, columns: Iterable[str]) -> None:
    """Raise FormatError where a column is missing, or has no numbers or truth values where there must be some."""
    again = "it is not what modelzoo-generate writes; restore it, or make the zoo again"
    for name in ("model_id", *columns):
        if name not in table:
            raise FormatError(f"table {path} has no column {name!r}: {again}")
        kind = {"epoch": "integer", "index": "integer", "seed": "integer", "finite": "boolean", "diverged": "boolean"}
        if name in kind and pd.api.types.infer_dtype(table[name]) != kind[name]:
            raise FormatError(f"table {path} must have {kind[name]} values in every row of {name!r}: {again}")


def against_recipe(
    table: pd.DataFrame, members: Mapping[str, Member], columns: Iterable[str], source: str
) -> list[str]:
    """Rows (of models or of states) whose values are not those that the recipe gives their model."""
    unknown = [str(model) for model in table["model_id"].unique() if model not in members]
    problems = [f"{source}: the recipe has no model {model!r}" for model in unknown]
    known = table[~table["model_id"].isin(unknown)]
    values = {model: _values(members[model]) for model in known["model_id"].unique()}
    wanted = pd.DataFrame([values[model] for model in known["model_id"]], index=known.index)
    for name in columns if len(known) else ():
        missing = known[name].isna() & wanted[name].isna()
        wrong = known.loc[((known[name] != wanted[name]) & ~missing).to_numpy(dtype=bool), ["model_id", name]]
        problems += [
            f"{source}: {name} of {model} is {value!r}, the recipe says {values[model][name]!r}"
            for model, value in wrong.drop_duplicates().itertuples(index=False, name=None)
        ]
    return problems


def _values(member: Member) -> dict[str, object]:
    values = {name: getattr(member, name) for name in ("index", "seed", "split", "parent_id")}
    return {**values, **dataclasses.asdict(member.training), **member.extra}


def missing_epochs(
    models: Iterable[str], states: pd.DataFrame, members: Mapping[str, Member], source: str
) -> list[str]:
    """Models that have not exactly one state for each of their epochs, those from 0 to the last or those published."""
    found = {str(model): sorted(epochs) for model, epochs in states.groupby("model_id")["epoch"]}
    listed = set(models)
    problems = [f"{source}: {model} is not in the table of models" for model in found if model not in listed]
    for model in sorted(listed & members.keys()):
        wanted, epochs = members[model].epochs, found.get(model, [])
        if epochs != list(wanted):
            what = f"lacks epoch {_few(missing)}" if (missing := sorted({*wanted} - {*epochs})) else "has more"
            these = f"the epochs 0 to {wanted[-1]}" if isinstance(wanted, range) else f"its {len(wanted)} epochs"
            problems.append(f"{source}: {model} must have {these} once each; it {what}")
    return problems


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def against_arithmetic(states: pd.DataFrame, source: str) -> list[tuple[str, str]]:
    """(model, what) of states whose accuracies are no fractions, or whose gap is not their difference."""
    # A column of which nothing was measured has no type.
    numbers = {name: pd.to_numeric(states[name], errors="coerce") for name in (*_ACCURACIES, "ggap")}
    wrong = {name: (numbers[name] < 0) | (numbers[name] > 1) for name in _ACCURACIES}
    gap = numbers["train_acc"] - numbers["test_acc"]
    same = np.isclose(numbers["ggap"], gap, rtol=0, atol=1e-12, equal_nan=True)
    wrong["ggap"] = pd.Series(~same, index=states.index)
    no = {**dict.fromkeys(_ACCURACIES, "no fraction"), "ggap": "not train_acc - test_acc"}
    return [
        (model, f"{source}: {name} of {model} epoch {epoch} is {value!r}, which is {no[name]}")
        for name, chosen in wrong.items()
        for model, epoch, value in states.loc[chosen, ["model_id", "epoch", name]].itertuples(index=False, name=None)
    ]
