"""Checkpoints of learning: written every few epochs, gone on from to the same bits, also by another release."""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import read_json, read_tensors, write_json, write_tensors

from .metrics_log import EpochMetrics
from .objective import LOSSES, Learner

ROWS, TENSORS = "checkpoint.json", "checkpoint.safetensors"
_log = logging.getLogger(__name__)
_MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of every parameter, beside the number of its steps


def save(
    folder: Path,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    history: list[EpochMetrics],
) -> None:
    """Metrics first: the checkpoint is what says how far we are."""
    write_json(folder / ROWS, [dataclasses.asdict(row) for row in history])
    tensors = {f"model.{name}": tensor for name, tensor in learner.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    write_tensors(folder / TENSORS, tensors | {"epoch": torch.tensor(len(history))})


def restore(folder: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> list[EpochMetrics]:
    """Load the last checkpoint, if there is one that fits; returns the metrics up to it.

    Another release may have written it. One that cannot be read here, or is of other tensors, is logged as a
    warning, and nothing of it is loaded.
    """
    if not (folder / TENSORS).is_file():
        return []
    try:
        tensors = read_tensors(folder / TENSORS)
        _check(tensors, learner)
        history = _history(read_json(folder / ROWS), int(tensors.pop("epoch")))
    except FormatError as error:
        _log.warning("cannot go on from %s: %s; learning starts afresh", folder / TENSORS, error)
        return []
    learner.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return history


def _check(tensors: dict[str, Tensor], learner: Learner) -> None:
    """FormatError unless these are the names and shapes that `save` gives; without a gradient nothing was kept."""
    expected = {f"model.{name}": tensor.shape for name, tensor in learner.state_dict().items()}
    for number, parameter in enumerate(learner.parameters()):
        if any(key.startswith(f"optimizer.{number}.") for key in tensors):
            expected |= {f"optimizer.{number}.{name}": parameter.shape for name in _MOMENTS}
            expected[f"optimizer.{number}.step"] = torch.Size()
    expected["epoch"] = torch.Size()
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise FormatError(f"{name} is {_said(found.get(name))}, expected {_said(expected.get(name))}")


def _said(shape: Iterable[int] | None) -> str:
    return "not there" if shape is None else f"of shape {tuple(shape)}"


def _history(rows: Any, epochs: int) -> list[EpochMetrics]:
    """Metrics of that many epochs; what was written later belongs to no checkpoint."""
    if not isinstance(rows, list) or len(rows) < epochs:
        raise FormatError(f"{ROWS} has not the metrics of {epochs} epochs")
    return [_row(row) for row in rows[:epochs]]


def _row(values: Any) -> EpochMetrics:
    """As any release wrote it: a loss that it did not have was 0, one that is unknown here is left out."""
    names = [field.name for field in dataclasses.fields(EpochMetrics)]
    try:
        known = {name: values[name] for name in names if name in values}
        return EpochMetrics(**dict.fromkeys(LOSSES, 0.0) | known)
    except TypeError as error:
        raise FormatError(f"{ROWS} has a row that cannot be read: {error}") from error
