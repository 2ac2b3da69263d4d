"""What every engine offers: train jobs, evaluate weights.

P weights of a model, K states, N models, B images, C classes. A job's result depends on the job and the images
alone: not on the other jobs, their order, the number of processes or a resume.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..images import Images
from ..recipes import Training

METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
SPARSITY = "sparsity"  # a further metric of sparsified twins


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: from fresh weights drawn with `seed`, or from `initial_weights` (P,) with a fresh optimizer."""

    training: Training
    seed: int  # keys the generators of init, data order, dropout, augmentation and noise
    initial_weights: Tensor | None = None
    sparsify: bool = False  # by variational dropout, from `initial_weights` (2209.14764, section on sparsified twins)


@dataclass(frozen=True)
class NetworkSpec:
    """What must be known beside the architecture to run weights."""

    activation: str
    dropout: float = 0.0


@dataclass(frozen=True)
class States:
    """Finished states, of one job or of many; a job's states come in the order of their epochs."""

    jobs: Tensor  # (K,) index into the jobs given
    epochs: Tensor  # (K,) 0 = before the first step
    weights: Tensor  # (K, P); of twins the pruned weights, with zeros
    metrics: Mapping[str, Tensor]  # METRICS, and SPARSITY for twins: (K,) float64 each; NaN where not measured
    recall: Tensor  # (K, C) share of each class of the test images that is recognised, float64; NaN where not measured
    variational: Tensor | None = None  # (K, Q) of twins: unpruned weights and log sigma², see `variational_layout`


@dataclass(frozen=True)
class SplitMetrics:
    """How N models do on one split."""

    loss: Tensor  # (N,) mean cross entropy, float64
    accuracy: Tensor  # (N,) float64
    recall: Tensor  # (N, C) per class, float64; NaN for a class without images


class Engine(Protocol):
    """A way to train and evaluate populations of models."""

    name: str

    def resolve(self, architecture: str) -> "Engine":
        """The engine that really trains this architecture: this one; or another, and one logged line says why."""
        ...

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """Bytes of memory that training these jobs takes at most, beside the images themselves; an estimate."""
        ...

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """Train every job for its epochs, epoch 0 included; evaluate on the splits named, where the images have them.

        Closing the generator stops the work. A job that fails stops it too: its error is raised.
        """
        ...

    def evaluate(
        self,
        architecture: str,
        images: Images,
        weights: Tensor,  # (N, P)
        networks: Sequence[NetworkSpec],
        split: str,
    ) -> SplitMetrics:
        """Loss, accuracy and recall on a split, in eval mode."""
        ...

    def compute_logits(
        self,
        architecture: str,
        images: Images,
        weights: Tensor,  # (N, P)
        networks: Sequence[NetworkSpec],
        split: str,
    ) -> Iterator[tuple[int, Tensor]]:
        """(index of a model, its logits (B, C) float32 in eval mode) for every model, as they come."""
        ...
