"""Values that a zoo records of its models, and what stands in for values that it does not record.

Imported zoos lack some columns, or have missing values in them. Nothing that is missing ends a run: what stands in is
described in lines that the commands and the cards print.

N states.
"""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.errors import RecipeError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.recipes import Training

VALIDATION, TRAIN, NOTHING = "validation", "train", "nothing"  # accuracy that states are ranked by
_COLUMNS = {VALIDATION: "val_acc", TRAIN: "train_acc"}
# Stand-ins for what has no default in `Training`; epochs are those of the protocol.
_STAND_INS = {"epochs": 1, "batch_size": 32, "init": "kaiming_uniform", "optimizer": "adam", "lr": 1e-3}
_WHOLE = ("epochs", "batch_size")  # which a column with missing values holds as floats
_ACTIVATION = "tanh"
_log = logging.getLogger(__name__)


def read_column(table: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of a table of states; all values are missing where the table has no such column."""
    return table[name] if name in table else pd.Series(None, index=table.index, dtype=object, name=name)


def read_numbers(table: pd.DataFrame, name: str) -> Tensor:
    """Return a column as numbers (N,), float64; NaN for missing values."""
    numbers = pd.to_numeric(read_column(table, name), errors="coerce").to_numpy(dtype="float64", copy=True)
    return torch.from_numpy(numbers)


def read_first(table: pd.DataFrame, name: str) -> Any:
    """Return the first value of a column that is not missing, as a plain value; None if there is none."""
    values = read_column(table, name).dropna()
    if values.empty:
        return None
    value = values.iloc[0]
    value = value.item() if hasattr(value, "item") else value
    return int(value) if name in _WHOLE and isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class Ranking:
    """The accuracies by which the best states are chosen."""

    accuracy: Tensor  # (N,), NaN for states without one
    split: str  # VALIDATION, TRAIN or NOTHING

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> "Ranking":
        """Rank states by validation accuracy, by training accuracy where no state has one, or else not at all."""
        for split, name in _COLUMNS.items():
            accuracy = read_numbers(table, name)
            if not accuracy.isnan().all():
                return cls(accuracy, split)
        return cls(torch.full((len(table),), torch.nan, dtype=torch.float64), NOTHING)

    def describe(self) -> str | None:
        """Say what states are chosen by instead of validation accuracy; None if they have it."""
        return {
            VALIDATION: None,
            TRAIN: "no validation accuracy is recorded: the best states are those of the best training accuracy",
            NOTHING: "no accuracy is recorded: samples are drawn from all states, whatever share is asked for",
        }[self.split]


def read_network(zoo: Zoo) -> NetworkSpec:
    """Return activation and dropout of the networks of a zoo, as far as they are recorded.

    An activation that is not recorded is empty if modules need one, and does not matter otherwise.
    """
    activation = read_first(zoo.table, "activation")
    if activation is None and zoo.architecture.has_module and not zoo.architecture.takes_activation:
        activation = _ACTIVATION
    return NetworkSpec(str(activation or ""), float(read_first(zoo.table, "dropout") or 0.0))


def read_networks(zoo: Zoo) -> list[NetworkSpec]:
    """Return activation and dropout of every state; where they are not recorded, those of `find_network`.

    Raises:
        RecipeError: as `find_network`.
    """
    zoo.architecture.check_runnable()
    stand_in = read_network(zoo)
    activations = read_column(zoo.table, "activation").fillna(stand_in.activation).astype(str)
    dropouts = read_numbers(zoo.table, "dropout").nan_to_num(stand_in.dropout)
    for activation in activations.unique():
        zoo.architecture.check_activation(activation)
    return [NetworkSpec(*values) for values in zip(activations, dropouts.tolist(), strict=True)]


def find_network(zoo: Zoo) -> NetworkSpec:
    """Return activation and dropout to run the networks of a zoo with.

    Raises:
        RecipeError: no network is known that fits the stored weights, or the activation that it needs is not recorded.
    """
    zoo.architecture.check_runnable()
    network = read_network(zoo)
    zoo.architecture.check_activation(network.activation)
    return network


def complete_training(zoo: Zoo) -> Training:
    """Return the hyperparameters that models are fine-tuned with: those of the zoo, with stand-ins for the others.

    A value that is missing, or that this package cannot train with, is replaced; a line says so.
    """
    training, line = _replace_unknown(zoo)
    if line is not None:
        _log.warning("%s", line)
    return training


def describe_stand_ins(zoo: Zoo) -> str | None:
    """Say what stands in when models are fine-tuned, as `complete_training` does; None if everything is recorded."""
    return _replace_unknown(zoo)[1]


def _replace_unknown(zoo: Zoo) -> tuple[Training, str | None]:
    recorded = {field.name: read_first(zoo.table, field.name) for field in dataclasses.fields(Training)}
    values: dict[str, Any] = {"activation": _ACTIVATION, **_STAND_INS}
    replaced = []
    for name, value in recorded.items():
        if value is not None and _is_valid(name, value):
            values[name] = value
        elif name not in ("epochs", "activation") and (name != "momentum" or values["optimizer"] == "sgd"):
            default = values.get(name, getattr(Training, name, None))
            replaced.append(f"{name} {default} ({'not recorded' if value is None else f'recorded: {value}'})")
    line = f"models of {zoo.config or 'the zoo'} are fine-tuned with {', '.join(replaced)}"
    return Training(**values), line if replaced else None


def _is_valid(name: str, value: Any) -> bool:
    try:
        Training(**{"activation": _ACTIVATION, **_STAND_INS, name: value})
    except RecipeError:
        return False
    return True
