"""Metrics of training: one record per epoch, as lines of JSON and as curves for TensorBoard."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from modelzoo_datasets.errors import FormatError

from ..json_record import JsonRecord

LINES, EVENTS = "metrics.jsonl", "events"


@dataclass(frozen=True, kw_only=True)
class EpochMetrics(JsonRecord):
    """Mean of every loss over the batches of one epoch, and R² on validation states; 0 for a loss without weight."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "contrast": "contrastive",
        "behaviour": "functional",
        "mixed": "mixed_functional",
    }

    epoch: int
    reconstruction: float
    contrastive: float = 0.0
    functional: float = 0.0  # in nats: divergence of decoded networks' predictions from the original networks'
    mixed_functional: float = 0.0  # the same for networks decoded from draws around embeddings
    statistics: float = 0.0
    validation_r2: float  # 1 - error / error of predicting the training mean, in layer-scaled units

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read a row of any release: a missing loss was 0, an unknown one is left out; raises FormatError."""
        if not isinstance(values, Mapping):
            raise FormatError(f"expected a table of metrics, got {values!r}")
        keys = {*cls.ALIASES, *(field.name for field in dataclasses.fields(cls))}
        return super().from_json({key: value for key, value in values.items() if key in keys})


class MetricsWriter(Protocol):
    """Function that takes the metrics of every epoch in turn."""

    def __call__(self, row: EpochMetrics) -> None: ...


@contextmanager
def open_metrics_log(folder: Path) -> Iterator[MetricsWriter]:
    """Open `metrics.jsonl`, which gets a line whenever an epoch ends, and TensorBoard's event files below `events/`.

    Logs of an earlier run are replaced: a run that resumes yields its first epochs again. Events need the extra
    `tensorboard`; without it there are none.
    """
    for old in (folder / EVENTS).glob("events.*"):
        old.unlink()
    with (folder / LINES).open("w") as lines, _open_events(folder / EVENTS) as write_events:

        def write(row: EpochMetrics) -> None:
            lines.write(json.dumps(row.to_json()) + "\n")
            lines.flush()
            write_events(row)

        yield write


@contextmanager
def _open_events(folder: Path) -> Iterator[MetricsWriter]:
    writer = None
    with suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder))

    def write(row: EpochMetrics) -> None:
        if writer is not None:
            for name, value in row.to_json().items():
                if name != "epoch":
                    writer.add_scalar(name, value, row.epoch)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
