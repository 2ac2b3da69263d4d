"""What is told while a hyper-representation learns: a line of JSON per epoch, and curves for TensorBoard."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

LINES, EVENTS = "metrics.jsonl", "events"


@dataclass(frozen=True)
class EpochMetrics:
    """Mean of every loss over the batches of one epoch (0 where the recipe has none), and R² on validation states."""

    epoch: int
    reconstruction: float
    contrast: float
    behaviour: float  # in nats: Kullback-Leibler divergence of what decoded networks say from what the originals say
    mixed: float  # the same of networks decoded from draws around embeddings
    statistics: float
    validation_r2: float  # 1 - error / error of predicting the training mean, in layer-scaled units


class Recorder(Protocol):
    """Takes the metrics of every epoch in turn."""

    def __call__(self, row: EpochMetrics) -> None: ...


@contextmanager
def recording(folder: Path) -> Iterator[Recorder]:
    """Write `metrics.jsonl`, line by line as epochs end, and TensorBoard's event files below `events/`.

    Whatever an earlier run left is written anew: a run that goes on tells its first epochs again. Events need the extra
    `tensorboard`; without it there are none.
    """
    for old in (folder / EVENTS).glob("events.*"):
        old.unlink()
    with (folder / LINES).open("w") as lines, _events(folder / EVENTS) as events:

        def record(row: EpochMetrics) -> None:
            values = dataclasses.asdict(row)
            lines.write(json.dumps(values) + "\n")
            lines.flush()
            events(row)

        yield record


@contextmanager
def _events(folder: Path) -> Iterator[Recorder]:
    writer = None
    with suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder))

    def record(row: EpochMetrics) -> None:
        if writer is not None:
            for name, value in dataclasses.asdict(row).items():
                if name != "epoch":
                    writer.add_scalar(name, value, row.epoch)

    try:
        yield record
    finally:
        if writer is not None:
            writer.close()
