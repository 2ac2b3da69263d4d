"""Train and evaluate one model with the kernel; draws, states and metrics are those of the reference engine."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..._util import METRIC_PREFIX
from ...architectures import get_architecture, make_variational, penalty_weight, sparsity
from ...images import Images, augment
from ...recipes import Training
from ...seeds import derive_seed, keyed_generator
from ...weights import Layout
from ..base import METRICS, SPARSITY, Job
from ..chain import chain_of
from ..torch.reference import State, kept_module, optimizer_of, started_module
from .bindings import CompiledNetwork, Model, Pixels, Steps

_IMAGES_AT_ONCE = 10_000  # of training per call: so long may a stop have to wait, and so many augmented ones are kept


@dataclass(frozen=True)
class Inputs:
    """The images of one training or evaluation, shared by all threads."""

    images: Images
    pixels: Mapping[str, Pixels]  # per split, normalised

    @classmethod
    def of(cls, images: Images, splits: Iterable[str]) -> "Inputs":
        """Those of these splits that the images have."""
        there = [split for split in images.splits if split in splits]
        return cls(images, {split: Pixels.of(images.inputs(split), images.labels(split)) for split in there})


@lru_cache(maxsize=1000)
def network_of(architecture: str, activation: str, dropout: float, *, variational: bool = False) -> CompiledNetwork:
    """The compiled network of an architecture.

    Raises:
        NotAChainError: it is no chain of layers that the kernel knows.
        CompilerError: no compiler, or it failed.
    """
    stages = chain_of(architecture, activation, dropout)
    module = get_architecture(architecture).module(activation, dropout)  # whose layers dropout may name otherwise
    return CompiledNetwork(stages, Layout.from_module(make_variational(module) if variational else module))


def train_model(
    architecture: str, inputs: Inputs, job: Job, metrics_on: Sequence[str], stopped: Callable[[], bool]
) -> Iterator[State]:
    """The states after epochs 0 to E as `single.train_one` gives them; fewer once `stopped` says so."""
    training, classes = job.training, inputs.images.classes
    twin = started_module(architecture, job)
    start = Layout.from_module(twin).pack(twin.state_dict())
    plain = network_of(architecture, training.activation, training.dropout)
    network = network_of(architecture, training.activation, training.dropout, variational=job.sparsify)
    model = Model(network, training, start, variational=job.sparsify)
    rates = _rates(training, len(inputs.images.labels("train")))
    for epoch in range(training.epochs + 1):
        metrics = dict.fromkeys(METRICS, float("nan"))
        recall = torch.full((classes,), float("nan"), dtype=torch.float64)
        if epoch > 0:
            found = _train_epoch(model, inputs, job, epoch, rates, stopped)
            if found is None:
                return
            metrics["train_loss"], metrics["train_acc"] = found
        vector = model.vector() if epoch > 0 else start
        weights = vector
        if job.sparsify:
            twin.load_state_dict(Layout.from_module(twin).unpack(vector.clone()))
            kept = kept_module(architecture, twin, job, epoch)
            weights = Layout.from_module(kept).pack(kept.state_dict())
            metrics[SPARSITY] = sparsity(twin) if epoch > 0 else 0.0
        for split in (s for s in metrics_on if s in inputs.pixels and (s != "train" or epoch == 0)):
            loss, accuracy, found_classes = measured(plain, weights, inputs.pixels[split], classes)
            metrics[f"{METRIC_PREFIX[split]}_loss"], metrics[f"{METRIC_PREFIX[split]}_acc"] = loss, accuracy
            recall = found_classes if split == "test" else recall
        yield State(epoch, weights, metrics, recall, vector if job.sparsify else None)


def measured(network: CompiledNetwork, weights: Tensor, pixels: Pixels, classes: int) -> tuple[float, float, Tensor]:
    """Mean loss, accuracy and recall per class (C,) of one model, weights (P,)."""
    loss, hits = network.evaluate(weights, pixels, classes)
    recall = hits.double() / torch.bincount(pixels.labels, minlength=classes)
    return loss / len(pixels), int(hits.sum()) / len(pixels), recall


def _train_epoch(
    model: Model,
    inputs: Inputs,
    job: Job,
    epoch: int,
    rates: tuple[Tensor, Tensor],
    stopped: Callable[[], bool],
) -> tuple[float, float] | None:
    """One pass over the training images: mean loss without any penalty, and accuracy; None where it was stopped."""
    training, n = job.training, len(inputs.images.labels("train"))
    order = torch.randperm(n, generator=keyed_generator(job.seed, "order", epoch))
    draws = keyed_generator(job.seed, "augmentation", epoch)
    model.begin_epoch(derive_seed(job.seed, "dropout", epoch), derive_seed(job.seed, "noise", epoch))
    weight = penalty_weight(epoch, training.epochs) if job.sparsify else 0.0
    steps_per_epoch, at_once = -(-n // training.batch_size), max(1, _IMAGES_AT_ONCE // training.batch_size)
    loss, correct = 0.0, 0  # of the whole epoch so far
    for first in range(0, steps_per_epoch, at_once):
        if stopped():
            return None
        last = min(first + at_once, steps_per_epoch)
        part = order[first * training.batch_size : last * training.batch_size]
        pixels = inputs.pixels["train"]
        if training.augmentation != "none":
            pixels, part = _augmented(inputs.images, part, training, draws), torch.arange(len(part))
        done = (epoch - 1) * steps_per_epoch
        lr, momentum = (rate[done + first : done + last] for rate in rates)
        steps = Steps(order=part, batch_size=training.batch_size, lr=lr, momentum=momentum, penalty_weight=weight)
        loss, correct = model.train(pixels, steps)
    return loss / n, correct / n


def _augmented(images: Images, order: Tensor, training: Training, draws: torch.Generator) -> Pixels:
    """Training images at these places as they are in this epoch, drawn batch by batch as the reference does."""
    split = images.splits["train"]
    views = [augment(split.pixels[part], training.augmentation, draws) for part in order.split(training.batch_size)]
    return Pixels.of(images.normalize(torch.cat(views)), split.labels[order])


@lru_cache(maxsize=64)
def _rates(training: Training, images: int) -> tuple[Tensor, Tensor]:
    """Learning rate and momentum (of Adam the first beta) of every step of a training, (steps,) float64 each."""
    steps = training.epochs * -(-images // training.batch_size)
    optimizer, schedule = optimizer_of([torch.nn.Parameter(torch.zeros(1))], training, images)
    group = optimizer.param_groups[0]
    rows = []
    for step in range(steps if schedule is not None else 1):
        if schedule is not None and step > 0:
            optimizer.step()
            schedule.step()
        rows.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))
    lr, momentum = torch.tensor(rows, dtype=torch.float64).expand(steps, 2).T.contiguous()
    return lr, momentum
