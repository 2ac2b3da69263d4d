"""Files that a training writes while it runs: metrics of every epoch, and checkpoints to resume from, to the same bits.

A checkpoint of another release is used too, if its tensors fit.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import read_json, read_tensors, write_json, write_tensors

from ..json_record import JsonRecord
from .losses import Learner

LINES, EVENTS = "metrics.jsonl", "events"
HISTORY_FILE, CHECKPOINT_FILE = "checkpoint.json", "checkpoint.safetensors"
_log = logging.getLogger(__name__)
_MOMENTS = ("exp_avg", "exp_avg_sq")  # state of AdamW for every parameter, beside the number of its steps


@dataclass(frozen=True, kw_only=True)
class EpochMetrics(JsonRecord):
    """Mean of every loss over the batches of one epoch, and R² on validation states; 0 for a loss without weight."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "contrast": "contrastive",
        "behaviour": "functional",
        "mixed": "mixed_functional",
    }
    IGNORES_UNKNOWN: ClassVar[bool] = True  # losses that other releases have

    epoch: int
    reconstruction: float
    contrastive: float = 0.0
    functional: float = 0.0  # in nats: divergence of decoded networks' predictions from the original networks'
    mixed_functional: float = 0.0  # the same for networks decoded from draws around embeddings
    statistics: float = 0.0
    validation_r2: float  # 1 - error / error of predicting the training mean, in layer-scaled units


@contextmanager
def open_metrics_log(folder: Path) -> Iterator[Callable[[EpochMetrics], None]]:
    """Open `metrics.jsonl`, which gets a line whenever an epoch ends, and TensorBoard's event files below `events/`.

    Logs of an earlier run are replaced: a run that resumes yields its first epochs again. Events need the extra
    `tensorboard`; without it there are none.
    """
    for old in (folder / EVENTS).glob("events.*"):
        old.unlink()
    with (folder / LINES).open("w") as lines, ExitStack() as stack:
        events: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            events = stack.enter_context(SummaryWriter(str(folder / EVENTS)))

        def write(row: EpochMetrics) -> None:
            values = row.to_json()
            lines.write(json.dumps(values) + "\n")
            lines.flush()
            if events is not None:
                for name in [*values][1:]:  # all but the epoch
                    events.add_scalar(name, values[name], row.epoch)

        yield write


def save_checkpoint(
    folder: Path, learner: Learner, optimizer: torch.optim.Optimizer, history: list[EpochMetrics]
) -> None:
    """Write metrics, then tensors. The tensors hold the epoch, so a stop in between leaves a valid checkpoint."""
    write_json(folder / HISTORY_FILE, [row.to_json() for row in history])
    tensors = {f"model.{name}": tensor for name, tensor in learner.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    write_tensors(folder / CHECKPOINT_FILE, tensors | {"epoch": torch.tensor(len(history))})


def load_checkpoint(folder: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> list[EpochMetrics]:
    """Load the last checkpoint into learner and optimizer, and return the metrics of its epochs.

    Without a checkpoint the list is empty. One that cannot be read, or does not fit, is logged as a warning, and
    nothing of it is loaded.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return []
    try:
        tensors = read_tensors(path)
        _check_shapes(tensors, learner)
        history = _read_history(folder, int(tensors.pop("epoch")))
    except FormatError as error:
        _log.warning("cannot resume from %s: %s; training starts again from the first epoch", path, error)
        return []
    learner.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return history


def _check_shapes(tensors: dict[str, Tensor], learner: Learner) -> None:
    """Raise FormatError unless names and shapes are those that `save_checkpoint` would write for this learner."""
    expected = {f"model.{name}": tensor.shape for name, tensor in learner.state_dict().items()}
    for number, parameter in enumerate(learner.parameters()):
        # The optimizer has no state for a parameter that never had a gradient.
        if any(key.startswith(f"optimizer.{number}.") for key in tensors):
            expected |= {f"optimizer.{number}.{name}": parameter.shape for name in _MOMENTS}
            expected[f"optimizer.{number}.step"] = torch.Size()
    expected["epoch"] = torch.Size()
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise FormatError(
                f"tensor {name}: expected {_describe(expected.get(name))}, got {_describe(shapes.get(name))}"
            )


def _describe(shape: Iterable[int] | None) -> str:
    return "none" if shape is None else f"shape {tuple(shape)}"


def _read_history(folder: Path, epochs: int) -> list[EpochMetrics]:
    """Return the metrics of the first epochs; rows beyond the checkpoint are ignored."""
    rows: Any = read_json(folder / HISTORY_FILE)
    if not isinstance(rows, list) or len(rows) < epochs:
        raise FormatError(f"{HISTORY_FILE} does not hold the metrics of {epochs} epochs")
    try:
        return [EpochMetrics.from_json(row) for row in rows[:epochs]]
    except FormatError as error:
        raise FormatError(f"{HISTORY_FILE} has a row that cannot be read: {error}") from error
