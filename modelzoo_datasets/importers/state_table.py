"""The table of a population of your own: it assigns files to models and epochs, with metrics and hyper-parameters.

Columns: `file`; optionally `model`, `epoch`, `split`, `seed`, the metrics and hyper-parameters of every zoo; and any
others. A further column that is constant for every model belongs to the models; one of varying numbers, to the states.
"""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa

from .._util import SPLITS, one_line
from ..engines import METRICS
from ..errors import FormatError, RecipeError
from ..recipes import RecordedTraining
from ..zoo import parse_table
from .archives import Source, is_litter
from .base import ImportedModel, Skipped
from .compression import DAMAGED
from .csv_table import parse_csv

_ENDINGS = (".csv", ".parquet")
_IDENTITY = ("file", "model", "epoch", "split", "seed")
_RESERVED = (  # columns that this package writes
    *("model_id", "index", "parent_id", "sparsity", "ggap", "test_recall", "finite", "diverged", "sha256", "origin"),
    *("weights", "weights_file", "weights_key", "offset", "nbytes"),
)
_TRAINING = tuple(field.name for field in dataclasses.fields(RecordedTraining))
_INTEGERS = ("epoch", "seed", "epochs", "batch_size")
_WORDS = ("split", "activation", "init", "optimizer", "schedule", "augmentation")


@dataclass(frozen=True, kw_only=True)
class StateTable:
    """The content of a table."""

    models: Sequence[ImportedModel]
    files: Sequence[Mapping[int, str]]  # for each model: epoch -> path
    columns: Mapping[str, str]  # further columns of models -> int, float, str or bool
    measured: Sequence[str]  # further metrics of states


def read_state_table(source: Source, inside: str) -> StateTable:
    """Read the one table of a folder of states.

    Args:
        source: The originals.
        inside: Folder in the source; empty, or ends in /.

    Raises:
        FormatError: There is no table, or a row is malformed; the message names the row.
    """
    path = _find_table(source, inside)
    where = f"{path} of {source.name}"
    table = _read_table(source, path)
    _check_columns(table, where)
    table["file"] = [inside + str(PurePosixPath(str(file))) for file in table["file"]]
    _check_files(table, where, source, inside)
    for name in (*_INTEGERS, *METRICS, "lr", "weight_decay", "dropout", "momentum"):
        if name in table:
            table[name] = _numbers(table, name, where, whole=name in _INTEGERS)
    for name in (set(_WORDS) | {"model"}) & set(table.columns):
        table[name] = [None if pd.isna(value) else str(value) for value in table[name]]
    _check_values(table, where)
    return _make_table(table, where, inside)


def _find_table(source: Source, inside: str) -> str:
    result = [path for path in _list_files(source, inside) if path.endswith(_ENDINGS)]
    here = [path for path in result if "/" not in path.removeprefix(inside)]
    if len(here) != 1:
        what = f"has {len(here)}: {', '.join(sorted(here)[:5])}" if here else "has none; write one"
        if not here and result:
            folders = sorted({path.rpartition("/")[0] for path in result})
            what = f"has none; if it is in a folder below, name that with --inside: {', '.join(folders[:5])}"
        raise FormatError(
            f"{source.name} must have one table of its states, a .csv or .parquet with a column 'file' beside them, "
            f"but {what}"
        )
    return here[0]


def _list_files(source: Source, inside: str) -> list[str]:
    return [path for path in source.sizes if path.startswith(inside) and not is_litter(path)]


def _read_table(source: Source, path: str) -> pd.DataFrame:
    name = f"table {path} of {source.name}"
    try:
        content = source.read(path)
        if path.endswith(".csv"):
            return parse_csv(content, len(content), name)
        table: pd.DataFrame = parse_table(io.BytesIO(content), len(content), name).to_pandas()
        return table
    except FormatError:
        raise
    except (Skipped, *DAMAGED, ValueError, pa.ArrowException) as error:
        raise FormatError(f"cannot read {name}: {one_line(error)}") from error


def _check_columns(table: pd.DataFrame, where: str) -> None:
    if "file" not in table or not len(table):
        raise FormatError(
            f"{where} must have a column 'file' and a row for each state; it has {len(table)} rows of "
            f"{', '.join(map(str, table.columns))}"
        )
    for name in table.columns:
        if name in _RESERVED:
            raise FormatError(f"{where}: column {name!r} is written by modelzoo-build itself; rename it")


def _check_files(table: pd.DataFrame, where: str, source: Source, inside: str) -> None:
    """Raise FormatError unless every row has a file and every file has one row."""
    twice = table.loc[table["file"].duplicated(), "file"].tolist()
    if twice:
        raise FormatError(f"{where} has {twice[0].removeprefix(inside)} in more than one row; leave one")
    rows, present = set(table["file"]), {p for p in _list_files(source, inside) if p.endswith(".safetensors")}
    if missing := [file for file in table["file"] if file not in present]:
        raise FormatError(
            f"{where} names {len(missing):,} files that are not there, the first is "
            f"{missing[0].removeprefix(inside)}; add them, or remove their rows"
        )
    if extra := sorted(present - rows):
        raise FormatError(
            f"{where} has no row for {len(extra):,} files, the first is {extra[0].removeprefix(inside)}; "
            "add their rows, or move them elsewhere"
        )


def _numbers(table: pd.DataFrame, name: str, where: str, *, whole: bool) -> list[Any]:
    """Return a column as numbers; None for missing values."""
    numbers: list[Any] = []
    for file, value in zip(table["file"], table[name], strict=True):
        number = None if pd.isna(value) else pd.to_numeric(value, errors="coerce")
        if number is not None and (math.isnan(number) or (whole and number != int(number))):
            raise FormatError(f"{where}: {name} of {file} must be a {'whole ' if whole else ''}number, got {value!r}")
        numbers.append(None if number is None else int(number) if whole else float(number))
    return numbers


def _check_values(table: pd.DataFrame, where: str) -> None:
    for row in table.to_dict("records"):
        if "model" in row and pd.isna(row["model"]):
            raise FormatError(f"{where}: model of {row['file']} must be a name, or there must be no such column")
        for name in METRICS:
            value = row.get(name)
            if name.endswith("_acc") and value is not None and not pd.isna(value) and not 0 <= value <= 1:
                raise FormatError(
                    f"{where}: {name} of {row['file']} is {value:g}, accuracies are fractions; divide percents by 100"
                )
        if row.get("split") is not None and row["split"] not in SPLITS:
            raise FormatError(
                f"{where}: split of {row['file']} must be train, validation or test, got {row['split']!r}"
            )
        if "epoch" in row and (pd.isna(row["epoch"]) or row["epoch"] < 0):
            raise FormatError(f"{where}: epoch of {row['file']} must be 0 or more, or there must be no such column")


def _make_table(table: pd.DataFrame, where: str, inside: str) -> StateTable:
    if "model" not in table:
        table["model"] = [file.removeprefix(inside).removesuffix(".safetensors") for file in table["file"]]
    own = [name for name in table.columns if name not in (*_IDENTITY, *METRICS, *_TRAINING)]
    groups = [(str(name), rows) for name, rows in table.groupby("model", sort=False)]
    measured = [name for name in own if any(rows[name].nunique(dropna=False) > 1 for _, rows in groups)]
    for name in measured:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise FormatError(
                f"{where}: {name!r} differs between the states of a model, so it must have numbers; make it numbers, "
                "or leave it out"
            )
    kinds = {name: _infer_kind(table[name]) for name in own if name not in measured}
    for name, rows in groups:
        _check_model(name, rows, where)
    return StateTable(
        models=[_make_model(name, rows, kinds, measured, where) for name, rows in groups],
        files=[dict(sorted(zip(_list_epochs(rows), rows["file"].tolist(), strict=True))) for _, rows in groups],
        columns={"origin": "str", **kinds},
        measured=measured,
    )


def _infer_kind(column: pd.Series) -> str:
    known = column.dropna()
    if len(known) and all(isinstance(value, bool) for value in known):  # with a missing one they are objects
        return "bool"
    if not pd.api.types.is_numeric_dtype(known):
        return "str"
    return "int" if len(known) and (known % 1 == 0).all() else "float"


def _check_model(name: str, rows: pd.DataFrame, where: str) -> None:
    """Raise FormatError unless the rows of a model agree on its hyper-parameters and differ in their epochs."""
    for column in (*_TRAINING, "seed", "split"):
        if column in rows and rows[column].nunique(dropna=False) > 1:
            raise FormatError(f"{where}: {column} differs between the states of model {name}; it must be one")
    if "epoch" not in rows and len(rows) > 1:
        raise FormatError(f"{where}: model {name} has {len(rows)} states; say the epoch of each in a column 'epoch'")
    epochs = pd.Series(_list_epochs(rows))
    if epochs.duplicated().any():
        twice = epochs[epochs.duplicated()].iloc[0]
        raise FormatError(f"{where}: model {name} has more than one row of epoch {twice}; leave one")


def _list_epochs(rows: pd.DataFrame) -> list[int]:
    """Return the epoch of each state of a model; a single state without an epoch is after the last one."""
    if "epoch" in rows:
        return [int(epoch) for epoch in rows["epoch"]]
    return [int(_plain_value(rows["epochs"].iloc[0]) or 1) if "epochs" in rows else 1]


_PLAIN = {"int": int, "float": float, "str": str, "bool": bool}


def _make_model(
    name: str, rows: pd.DataFrame, kinds: Mapping[str, str], measured: Sequence[str], where: str
) -> ImportedModel:
    first, epochs = {str(column): _plain_value(cell) for column, cell in rows.iloc[0].items()}, _list_epochs(rows)
    recorded = {column: first.get(column) for column in _TRAINING}
    training: dict[str, Any] = {**recorded, "epochs": max([*epochs, int(recorded["epochs"] or 1)])}
    metrics = {}
    for epoch, row in zip(epochs, rows.to_dict("records"), strict=True):
        known = [column for column in (*METRICS, *measured) if column in row and not pd.isna(row[column])]
        metrics[epoch] = {column: float(row[column]) for column in known}
    try:
        return ImportedModel(
            origin=name,
            seed=int(first.get("seed") or 0),
            training=RecordedTraining(**training),
            metrics=metrics,
            epochs=tuple(sorted(epochs)),
            split=first.get("split"),
            more={
                column: None if first[column] is None else _PLAIN[kind](first[column]) for column, kind in kinds.items()
            },
        )
    except RecipeError as error:
        raise FormatError(f"{where}: model {name}: {error}") from error


def _plain_value(cell: Any) -> Any:
    """Return a cell as a plain value; None for a missing one."""
    return None if cell is None or pd.isna(cell) else cell.item() if hasattr(cell, "item") else cell
