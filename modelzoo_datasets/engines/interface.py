"""What every engine offers: train jobs, evaluate weights.

P weights of a model, K states, N models. A job's result depends on the job and the images alone: not on the other jobs,
their order, the number of processes or a resume.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..images import Images
from ..recipes import Training

METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: from fresh weights drawn with `seed`, or from `start` (P,) with a fresh optimizer."""

    training: Training
    seed: int  # keys the generators of init, data order and dropout
    start: Tensor | None = None


@dataclass(frozen=True)
class Network:
    """What must be known beside the architecture to run weights."""

    activation: str
    dropout: float = 0.0


@dataclass(frozen=True)
class States:
    """Finished states, of one job or of many; a job's states come in the order of their epochs."""

    jobs: Tensor  # (K,) index into the jobs given
    epochs: Tensor  # (K,) 0 = before the first step
    weights: Tensor  # (K, P)
    metrics: Mapping[str, Tensor]  # METRICS, (K,) float64 each; accuracy is a fraction


class Engine(Protocol):
    """`train` yields states as they come; `evaluate` measures weights on one split."""

    name: str

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Iterator[States]:
        """Train every job for its epochs, epoch 0 included; evaluate on the splits named."""
        ...

    def evaluate(
        self,
        architecture: str,
        images: Images,
        weights: Tensor,  # (N, P)
        networks: Sequence[Network],
        split: str,
    ) -> tuple[Tensor, Tensor]:
        """Mean loss (N,) and accuracy (N,) on a split, in eval mode, float64."""
        ...
