"""The two tables of a zoo folder: what a row of each says, and how rows survive a stop."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..errors import FormatError
from ..recipes import Member
from .atomic_io import read_arrow, read_json, write_bytes
from .paths import PROGRESS, STATES_FILE
from .reader import weights_sha256

Row = dict[str, Any]
_TYPES = {  # of the columns of states that are not metrics
    "model_id": pa.string(),
    "epoch": pa.int64(),
    "test_recall": pa.list_(pa.float64()),
    "finite": pa.bool_(),
    "sha256": pa.string(),
}


def state_row(model_id: str, epoch: int, weights: Tensor, metrics: Mapping[str, float], recall: Tensor) -> Row:
    """One row of the table of states; what was not measured, or came out as no finite number, is missing."""
    values = {name: _measured(value) for name, value in metrics.items()}
    train, test = values["train_acc"], values["test_acc"]
    return {
        "model_id": model_id,
        "epoch": epoch,
        **values,
        "ggap": None if train is None or test is None else train - test,
        "test_recall": _recall(recall.tolist()),
        "finite": bool(torch.isfinite(weights).all()),
        "sha256": weights_sha256(weights),
    }


def _measured(value: float) -> float | None:
    """The loss of a model that diverges is infinite or not a number, in the table a number or missing."""
    return value if math.isfinite(value) else None


def _recall(values: Sequence[float]) -> list[float | None] | None:
    known = [_measured(value) for value in values]
    return known if any(value is not None for value in known) else None


def model_row(member: Member, diverged: bool) -> Row:
    """One row of the table of models."""
    parent = {} if member.parent_id is None else {"parent_id": member.parent_id}
    return {
        "model_id": member.model_id,
        "index": member.index,
        "seed": member.seed,
        "split": member.split,
        **parent,
        **dataclasses.asdict(member.training),
        **member.extra,
        "diverged": diverged,
    }


def write_record(folder: Path, model_id: str, rows: Sequence[Row]) -> None:
    """Say that a model is finished: its rows, until they are in the table."""
    text = json.dumps(rows, indent=1, allow_nan=False)
    write_bytes(folder / PROGRESS / f"{model_id}.json", text.encode())


def known_states(folder: Path) -> pa.Table:
    """The rows of all finished models: of the records of a running zoo, and of the table for models without one.

    Raises:
        FormatError: the table is damaged.
    """
    records = [record for path in sorted((folder / PROGRESS).glob("*.json")) if (record := _record(path)) is not None]
    parts = [pa.concat_tables(records)] if records else []
    if (folder / STATES_FILE).is_file():
        try:
            old = read_arrow(folder / STATES_FILE)
            old = old.cast(_schema(old.column_names))
        except (FormatError, pa.ArrowException) as error:
            raise FormatError(f"{error}; remove it, and its models are trained again") from error
        if records:
            old = old.filter(pc.invert(pc.is_in(old["model_id"], pc.unique(parts[0]["model_id"]))))
        parts.append(old)
    return pa.concat_tables(parts) if parts else _schema(_TYPES).empty_table()


def _schema(names: Sequence[str] | Mapping[str, Any]) -> pa.Schema:
    return pa.schema([(name, _TYPES.get(name, pa.float64())) for name in names])


def _record(path: Path) -> pa.Table | None:
    """The rows of a record; None for one that is damaged, whose model counts as not finished."""
    try:
        rows = read_json(path)
        return pa.Table.from_pylist(rows, schema=_schema(rows[0]))
    except (FormatError, pa.ArrowException, TypeError, LookupError, AttributeError):
        return None


def epochs_known(states: pa.Table) -> dict[str, int]:
    """How many states of each model there are rows of."""
    counts = states.group_by("model_id").aggregate([("epoch", "count")])
    return dict(zip(counts["model_id"].to_pylist(), counts["epoch_count"].to_pylist(), strict=True))


def known_epochs(states: pa.Table) -> dict[str, tuple[int, ...]]:
    """The epochs of which there are rows, ascending, by model."""
    found: dict[str, list[int]] = {}
    for model_id, epoch in zip(states["model_id"].to_pylist(), states["epoch"].to_pylist(), strict=True):
        found.setdefault(model_id, []).append(epoch)
    return {model_id: tuple(sorted(epochs)) for model_id, epochs in found.items()}


def tables(members: Sequence[Member], states: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(models, states) of these members, in their order, with equal content wherever the rows were read from."""
    ids = pa.array([member.model_id for member in members], pa.string())
    place = pc.index_in(states["model_id"], ids)
    ordered = (
        states.append_column("place", place)
        .filter(pc.is_valid(place))
        .sort_by([("place", "ascending"), ("epoch", "ascending")])
    )
    finite = ordered.group_by("model_id").aggregate([("finite", "all")])
    sound = dict(zip(finite["model_id"].to_pylist(), finite["finite_all"].to_pylist(), strict=True))
    models = [model_row(member, not sound[member.model_id]) for member in members]
    return pa.Table.from_pylist(models), ordered.drop_columns("place")
