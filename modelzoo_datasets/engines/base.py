"""The interface of every engine: training jobs and evaluating weights.

P weights of a model, K states, N models, B images, C classes. The result of a job depends on the job and the images
alone: not on the other jobs, their order, the number of processes or an interruption.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from torch import Tensor

    from ..images import Images
    from ..recipes import Training

METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
SPARSITY = "sparsity"  # an additional metric of sparsified twins


@dataclass(frozen=True, kw_only=True)
class Job:
    """The training of one model, from random weights or from `initial_weights`, always with a fresh optimizer."""

    training: Training
    seed: int  # keys the generators of initialization, data order, dropout, augmentation and noise
    initial_weights: Tensor | None = None  # (P,); None draws them
    sparsify: bool = False  # train by variational dropout from `initial_weights` (2209.14764, sparsified twins)


@dataclass(frozen=True)
class NetworkSpec:
    """The properties of a network that neither its architecture nor its weights contain."""

    activation: str
    dropout: float = 0.0


@dataclass(frozen=True)
class States:
    """Finished states of one or several jobs. The states of one job come in the order of their epochs."""

    jobs: Tensor  # (K,) index into the sequence of jobs
    epochs: Tensor  # (K,) 0 is the state before the first step
    weights: Tensor  # (K, P); for twins the pruned weights, with zeros
    metrics: Mapping[str, Tensor]  # (K,) float64 each: METRICS, and SPARSITY for twins; NaN where not evaluated
    recall: Tensor  # (K, C) float64, fraction of each class of the test split that is recognized; NaN as above
    variational: Tensor | None = None  # (K, Q) for twins: unpruned weights and log sigma², see `variational_layout`


@dataclass(frozen=True)
class SplitMetrics:
    """Loss, accuracy and recall of N models on one split."""

    loss: Tensor  # (N,) float64, mean cross entropy
    accuracy: Tensor  # (N,) float64
    recall: Tensor  # (N, C) float64, accuracy per class; NaN for a class without images


class Engine(Protocol):
    """A way to train and evaluate populations of models of one architecture."""

    name: str

    def resolve(self, architecture: str) -> Engine:
        """Return the engine that trains this architecture: this one, or another one and a logged line that says why."""
        ...

    def environment(self, architecture: str) -> Mapping[str, str]:
        """Return all versions and devices that can change the bits of an architecture, by name."""
        ...

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """Estimate an upper bound of the bytes of memory that training needs, not counting the images themselves.

        Args:
            architecture: Name of the architecture of all models.
            images: Images to train and evaluate on.
            jobs: Trainings to run.
        """
        ...

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """Train every job for all its epochs and yield its states, epoch 0 included, as they are finished.

        Closing the generator stops the training. The error of a job stops all jobs and is raised.

        Args:
            architecture: Name of the architecture of all models.
            images: Images to train and evaluate on.
            jobs: Trainings to run.
            metrics_on: Splits to evaluate after every epoch; splits that the images lack are skipped.
        """
        ...

    def evaluate(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> SplitMetrics:
        """Compute loss, accuracy and recall of N models on a split, in eval mode.

        Args:
            architecture: Name of the architecture of all models.
            images: Images with that split.
            weights: One row per model, (N, P).
            networks: Activation and dropout of every model.
            split: Name of the split.
        """
        ...

    def compute_logits(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of a model and its logits (B, C) float32 in eval mode, for every model, in any order.

        Args:
            architecture: Name of the architecture of all models.
            images: Images with that split.
            weights: One row per model, (N, P).
            networks: Activation and dropout of every model.
            split: Name of the split.
        """
        ...
