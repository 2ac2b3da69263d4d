"""Parts that all engines share: initial weights, optimizers, learning rates, states and the evaluation of splits.

P weights of a model, Q numbers of a variational one, C classes.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from .._util import METRIC_PREFIX
from ..architectures import get_architecture, initialize_weights, make_variational, prune_state
from ..recipes import Training
from ..seeds import keyed_generator
from ..weights import Layout
from .base import METRICS, Job, SplitMetrics, States

_BETA1 = 0.9  # torch's default for Adam
Metric = TypeVar("Metric", float, Tensor)  # a number for one model, a tensor for several


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, as a context manager or a decorator.

    Sums then have one order, so that equal inputs give equal bits on any number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class ModelState:
    """One model after one epoch."""

    epoch: int
    weights: Tensor  # (P,)
    metrics: Mapping[str, float]
    recall: Tensor  # (C,)
    variational: Tensor | None = None  # (Q,) of a twin

    def to_states(self, job: int) -> States:
        """Return the state as the only one of a batch; `job` is the index of its job."""
        return States(
            jobs=torch.tensor([job]),
            epochs=torch.tensor([self.epoch]),
            weights=self.weights.unsqueeze(0),
            metrics={name: torch.tensor([value], dtype=torch.float64) for name, value in self.metrics.items()},
            recall=self.recall.unsqueeze(0),
            variational=None if self.variational is None else self.variational.unsqueeze(0),
        )


def build_job_module(architecture: str, job: Job) -> nn.Module:
    """Build the plain module of a job; its weights are not set."""
    return get_architecture(architecture).module(job.training.activation, job.training.dropout)


def build_initial_module(architecture: str, job: Job) -> nn.Module:
    """Build the module of a job as it is before the first step; the module of a twin is variational."""
    module = build_job_module(architecture, job)
    # Initialization also sets the buffers of BatchNorm, so it comes first even where weights are given.
    initialize_weights(module, job.training.init, keyed_generator(job.seed, "init"))
    if job.initial_weights is not None:
        module.load_state_dict(Layout.from_module(module).unpack(job.initial_weights.clone()))
    return make_variational(module) if job.sparsify else module


def build_plain_module(architecture: str, module: nn.Module, job: Job, epoch: int) -> nn.Module:
    """Return the plain module whose weights are stored and evaluated after an epoch.

    That is the module itself, except for twins: from epoch 1 on a plain module with the pruned weights, and at epoch 0
    one with the weights of the parent.

    Args:
        architecture: Name of the architecture.
        module: The module in training, variational for a twin.
        job: The job that trains the module.
        epoch: Number of finished epochs.
    """
    if not job.sparsify:
        return module
    plain, state = build_job_module(architecture, job), prune_state(module)
    if epoch == 0:
        state = {name: module.state_dict()[name] for name in state}
    plain.load_state_dict(state)
    return plain


def pack_state(module: nn.Module) -> Tensor:
    """Return the whole state of a module as one vector (P,), in the order of its layout."""
    return Layout.from_module(module).pack(module.state_dict())


def prune_vector(architecture: str, module: nn.Module, job: Job, epoch: int, vector: Tensor) -> Tensor:
    """Load the weights of a twin into its module, and return the plain weights (P,) to store and evaluate.

    Args:
        architecture: Name of the architecture.
        module: A variational module of the job.
        job: The job of the twin.
        epoch: Number of finished epochs.
        vector: Unpruned weights and log sigma² (Q,), in the order of `variational_layout`.
    """
    module.load_state_dict(Layout.from_module(module).unpack(vector))
    return pack_state(build_plain_module(architecture, module, job, epoch))


def variational_layout(architecture: str) -> Layout:
    """Return the layout of `States.variational`: layer by layer unpruned weights, then the log sigma² of each."""
    with torch.device("meta"):  # shapes are enough
        return Layout.from_module(make_variational(get_architecture(architecture).build("relu", 0.0)))


def make_optimizer(
    parameters: Iterable[nn.Parameter], training: Training, num_images: int
) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """Make the optimizer of a training and its learning rate scheduler.

    Args:
        parameters: Parameters to train.
        training: Hyperparameters.
        num_images: Number of training images, which decides the number of steps.

    Returns:
        The optimizer, and the scheduler to step after every step of it; None if the learning rate is constant.
    """
    lr, decay = training.lr, training.weight_decay
    optimizer: torch.optim.Optimizer
    if training.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr, training.momentum, weight_decay=decay, fused=True)
    else:
        optimizer_class = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
        optimizer = optimizer_class(parameters, lr, weight_decay=decay, fused=True)
    if training.schedule == "constant":
        return optimizer, None
    steps_per_epoch = -(-num_images // training.batch_size)
    return optimizer, OneCycleLR(optimizer, lr, epochs=training.epochs, steps_per_epoch=steps_per_epoch)


@lru_cache(maxsize=64)
def tabulate_learning_rates(training: Training, num_images: int) -> Tensor:
    """Return learning rate and momentum (the first beta of Adam) of every step, with the bits of torch's scheduler.

    Returns:
        (steps, 2) float64; a single row if both are constant.
    """
    if training.schedule == "constant":
        momentum = training.momentum if training.optimizer == "sgd" else _BETA1
        return torch.tensor([(training.lr, momentum)], dtype=torch.float64)
    steps = training.epochs * -(-num_images // training.batch_size)
    return torch.tensor(_list_one_cycle(training.lr, steps), dtype=torch.float64)


def _list_one_cycle(max_lr: float, steps: int) -> list[tuple[float, float]]:
    """Return learning rate and momentum of every step of `OneCycleLR`, by its arithmetic and with its defaults.

    Both follow half a cosine up, over 30 % of the steps, and another one down. Stepping torch's own scheduler takes 30
    times as long, which matters for a thousand rates of 250,000 steps.
    """
    initial_lr = max_lr / 25.0
    rows, peak = [], float(0.3 * steps) - 1
    for step in range(steps):
        if step <= peak:
            share, lrs, momenta = step / peak, (initial_lr, max_lr), (0.95, 0.85)
        else:
            share, lrs, momenta = (step - peak) / (steps - 1 - peak), (max_lr, initial_lr / 1e4), (0.85, 0.95)
        cosine = math.cos(math.pi * share) + 1
        lr, momentum = (end + (start - end) / 2.0 * cosine for start, end in (lrs, momenta))
        rows.append((lr, momentum))
    return rows


def evaluate_splits(
    evaluate: Callable[[str], tuple[Metric, Metric, Tensor]],
    splits: Iterable[str],
    epoch: int,
    running: tuple[Metric, Metric] | None,
    missing: tuple[Metric, Tensor],
) -> tuple[dict[str, Metric], Tensor]:
    """Evaluate the splits after an epoch; the training split only at epoch 0, since later it has running means.

    Args:
        evaluate: Returns loss, accuracy and recall (..., C) on a split.
        splits: Splits to evaluate.
        epoch: Number of finished epochs.
        running: Means of training loss and accuracy over the epoch, in train mode; None at epoch 0.
        missing: A metric and a recall to report where nothing is evaluated.

    Returns:
        All METRICS, and the recall on the test split.
    """
    metrics, recall = dict.fromkeys(METRICS, missing[0]), missing[1]
    if running is not None:
        metrics["train_loss"], metrics["train_acc"] = running
    for split in splits:
        if split == "train" and epoch > 0:
            continue
        prefix = METRIC_PREFIX[split]
        metrics[f"{prefix}_loss"], metrics[f"{prefix}_acc"], split_recall = evaluate(split)
        recall = split_recall if split == "test" else recall
    return metrics, recall


def collect_metrics(
    results: Iterable[tuple[int | list[int], tuple[Metric, Metric, Tensor]]], num_models: int, classes: int
) -> SplitMetrics:
    """Collect the metrics of models on a split, which come in any order.

    Args:
        results: Index of one model, or indices of several, with their loss, accuracy and recall (..., C).
        num_models: Number of all models.
        classes: Number of classes C.
    """
    loss, accuracy = torch.empty(2, num_models, dtype=torch.float64)
    recall = torch.empty(num_models, classes, dtype=torch.float64)
    for index, result in results:
        loss[index], accuracy[index], recall[index] = result
    return SplitMetrics(loss, accuracy, recall)
