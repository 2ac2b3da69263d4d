"""Tables as Parquet files, the two tables of a zoo folder, and the records of its rows until the zoo is complete."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..errors import FormatError
from ..recipes import Member
from .atomic_io import write_bytes
from .json_files import read_json
from .paths import PROGRESS, STATES_FILE
from .plain_files import check_plain_file
from .safetensors_io import hash_weights
from .table_size import TableFile

Row = dict[str, Any]
_TYPES = {  # columns of the table of states; all other columns are metrics
    "model_id": pa.string(),
    "epoch": pa.int64(),
    "test_recall": pa.list_(pa.float64()),
    "finite": pa.bool_(),
    "sha256": pa.string(),
}


def write_table(path: Path, table: pd.DataFrame | pa.Table) -> None:
    """Write a table as Parquet; the bytes depend on the content alone."""
    buffer = pa.BufferOutputStream()
    arrow = pa.Table.from_pandas(table, preserve_index=False) if isinstance(table, pd.DataFrame) else table
    # Concatenated tables have chunks, and the same rows in other chunks become other pages.
    whole = arrow.combine_chunks().replace_schema_metadata(None)
    pq.write_table(whole, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue().to_pybytes())


def read_arrow(path: Path) -> pa.Table:
    """Read a Parquet table; raises FormatError with its path."""
    nbytes = check_plain_file(path)
    try:
        return parse_table(path, nbytes, f"table {path}")
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"cannot read table {path}: {error}") from error


def parse_table(source: Path | BinaryIO, nbytes: int, name: str) -> pa.Table:
    """Read all rows of a Parquet table, if they do not take too much memory.

    Args:
        source: The path of the file, or the open file.
        nbytes: Its size in bytes.
        name: Its name, for messages.

    Raises:
        FormatError: The table is too large for a file of this size.
        ArrowException: The file is damaged.
    """
    with TableFile(source, nbytes, name) as file:
        return file.read()


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table; raises FormatError with its path."""
    table: pd.DataFrame = read_arrow(path).to_pandas()
    return table


def make_state_row(model_id: str, epoch: int, weights: Tensor, metrics: Mapping[str, float], recall: Tensor) -> Row:
    """Make one row of the table of states; metrics that were not measured or are not finite become null.

    Args:
        model_id: The model.
        epoch: The epochs that it was trained for.
        weights: Its weights (P,) after that epoch.
        metrics: Metric -> value.
        recall: Recall on test images by class (C,).
    """
    values = {name: _finite_or_none(value) for name, value in metrics.items()}
    train, test = values["train_acc"], values["test_acc"]
    return {
        "model_id": model_id,
        "epoch": epoch,
        **values,
        "ggap": None if train is None or test is None else train - test,
        "test_recall": _recall_or_none(recall.tolist()),
        "finite": bool(torch.isfinite(weights).all()),
        "sha256": hash_weights(weights),
    }


def _finite_or_none(value: float) -> float | None:
    """Replace infinity and NaN, such as the loss of a diverging model, by the null of the table."""
    return value if math.isfinite(value) else None


def _recall_or_none(values: Sequence[float]) -> list[float | None] | None:
    finite = [_finite_or_none(value) for value in values]
    return finite if any(value is not None for value in finite) else None


def make_model_row(member: Member, *, diverged: bool) -> Row:
    """Make one row of the table of models."""
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
    """Record that a model is finished, with its rows, until they are in the table."""
    text = json.dumps(rows, indent=1, allow_nan=False)
    write_bytes(folder / PROGRESS / f"{model_id}.json", text.encode())


def read_state_rows(folder: Path) -> pa.Table:
    """Read the rows of all finished models: from their records, or else from the table.

    Raises:
        FormatError: The table is damaged.
    """
    paths = sorted((folder / PROGRESS).glob("*.json"))
    records = [record for path in paths if (record := _read_record(path)) is not None]
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


def _read_record(path: Path) -> pa.Table | None:
    """Read the rows of a record; None for a damaged one, whose model counts as not finished."""
    try:
        rows = read_json(path)
        return pa.Table.from_pylist(rows, schema=_schema(rows[0]))
    except (FormatError, pa.ArrowException, TypeError, LookupError, AttributeError):
        return None


def count_epochs(states: pa.Table) -> dict[str, int]:
    """Count the rows of each model."""
    counts = states.group_by("model_id").aggregate([("epoch", "count")])
    return dict(zip(counts["model_id"].to_pylist(), counts["epoch_count"].to_pylist(), strict=True))


def list_epochs(states: pa.Table) -> dict[str, tuple[int, ...]]:
    """List the epochs of the rows of each model, ascending."""
    epochs_by_model: dict[str, list[int]] = {}
    for model_id, epoch in zip(states["model_id"].to_pylist(), states["epoch"].to_pylist(), strict=True):
        epochs_by_model.setdefault(model_id, []).append(epoch)
    return {model_id: tuple(sorted(epochs)) for model_id, epochs in epochs_by_model.items()}


def make_tables(members: Sequence[Member], states: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Make the two tables. Equal rows give equal tables, in whatever order they were read.

    Args:
        members: The models, in the order of the tables.
        states: The rows of their states, perhaps among others.

    Returns:
        The table of models and the table of states.
    """
    ids = pa.array([member.model_id for member in members], pa.string())
    place = pc.index_in(states["model_id"], ids)
    ordered = (
        states.append_column("place", place)
        .filter(pc.is_valid(place))
        .sort_by([("place", "ascending"), ("epoch", "ascending")])
    )
    finite = ordered.group_by("model_id").aggregate([("finite", "all")])
    is_finite = dict(zip(finite["model_id"].to_pylist(), finite["finite_all"].to_pylist(), strict=True))
    models = [make_model_row(member, diverged=not is_finite[member.model_id]) for member in members]
    return pa.Table.from_pylist(models), ordered.drop_columns("place")
