"""Train and evaluate one model in plain PyTorch: the obviously right way that every other engine is held against."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..._util import METRIC_PREFIX
from ...architectures import (
    get_architecture,
    initialize_weights,
    make_variational,
    penalty,
    penalty_weight,
    pruned_state,
    seed_dropout,
    seed_noise,
    sparsity,
)
from ...images import Images, augment
from ...recipes import Training
from ...seeds import keyed_generator
from ...weights import Layout
from ..base import METRICS, SPARSITY, Job, NetworkSpec, States
from ..common import one_thread

MOST_NORMALISED = 1_000_000_000  # bytes of images as float32, which are four times as many as their pixels
EVALUATION_BATCH = 500  # images; large enough to be fast, small enough for the caches


@dataclass(frozen=True)
class Inputs:
    """Images as the models see them, shared by all jobs: normalised once where there is room, else batch by batch."""

    images: Images
    normalised: Mapping[str, Tensor]  # per split (N, C, H, W) float32

    @classmethod
    def of(cls, images: Images, splits: Iterable[str]) -> "Inputs":
        """Normalise these splits, those of them that the images have, unless that takes too much memory."""
        needed = [split for split in images.splits if split in splits]
        size = sum(4 * images.splits[split].pixels.numel() for split in needed)
        kept = needed if size <= MOST_NORMALISED else []
        return cls(images, {split: _channels_last(images.inputs(split)) for split in kept})

    def batch(self, split: str, index: Tensor | slice) -> Tensor:
        """The images at these places of a split (B, C, H, W)."""
        if split in self.normalised:
            return _channels_last(self.normalised[split][index])
        return self.prepared(self.images.splits[split].pixels[index])

    def prepared(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) uint8 -> what a model takes."""
        return _channels_last(self.images.normalize(pixels))


def _channels_last(x: Tensor) -> Tensor:
    """The memory format in which pooling and convolution run about 1.4 times as fast; values stay the same."""
    return x.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class State:
    """One model after one epoch."""

    epoch: int
    weights: Tensor  # (P,)
    metrics: Mapping[str, float]
    recall: Tensor  # (C,)
    variational: Tensor | None = None  # (Q,) of a twin

    def alone(self, job: int) -> States:
        """What engines yield for it."""
        return States(
            jobs=torch.tensor([job]),
            epochs=torch.tensor([self.epoch]),
            weights=self.weights.unsqueeze(0),
            metrics={name: torch.tensor([value], dtype=torch.float64) for name, value in self.metrics.items()},
            recall=self.recall.unsqueeze(0),
            variational=None if self.variational is None else self.variational.unsqueeze(0),
        )


def train_one(architecture: str, inputs: Inputs, job: Job, metrics_on: Sequence[str]) -> Iterator[State]:
    """The states after epochs 0 to E; metrics of splits not asked for, or that the images lack, are NaN.

    Train metrics are running means over the epoch in train mode (as 2209.14764 defines); at epoch 0 they are measured.
    Epoch 0 of a sparsified twin is its parent's state, bit for bit.
    """
    module = started_module(architecture, job).to(memory_format=torch.channels_last)
    optimizer, schedule = optimizer_of(module.parameters(), job.training, len(inputs.images.labels("train")))
    for epoch in range(job.training.epochs + 1):
        metrics = dict.fromkeys(METRICS, float("nan"))
        recall = torch.full((inputs.images.classes,), float("nan"), dtype=torch.float64)
        with one_thread():
            if epoch > 0:
                found = _train_epoch(module, optimizer, schedule, inputs, job, epoch)
                metrics["train_loss"], metrics["train_acc"] = found
            kept = kept_module(architecture, module, job, epoch)
            for split in (s for s in metrics_on if s in inputs.images.splits and (s != "train" or epoch == 0)):
                loss, accuracy, found_classes = _evaluate(kept, inputs, split)
                metrics[f"{METRIC_PREFIX[split]}_loss"], metrics[f"{METRIC_PREFIX[split]}_acc"] = loss, accuracy
                recall = found_classes if split == "test" else recall
        if job.sparsify:
            metrics[SPARSITY] = sparsity(module) if epoch > 0 else 0.0
        variational = _vector(module) if job.sparsify else None
        yield State(epoch, _vector(kept), metrics, recall, variational)


def evaluate_one(
    architecture: str, inputs: Inputs, weights: Tensor, network: NetworkSpec, split: str
) -> tuple[float, float, Tensor]:
    """Mean loss, accuracy and recall per class (C,) of one model, weights (P,), on a split."""
    with one_thread():
        return _evaluate(_loaded(architecture, weights, network), inputs, split)


@torch.inference_mode()
def outputs_one(architecture: str, inputs: Inputs, weights: Tensor, network: NetworkSpec, split: str) -> Tensor:
    """Logits (B, C) of one model, weights (P,), on a split."""
    module = _loaded(architecture, weights, network).eval()
    with one_thread():
        return torch.cat([module(inputs.batch(split, part)) for part in _parts(inputs, split)])


def variational_layout(architecture: str) -> Layout:
    """The layout of what `States.variational` holds: unpruned weights, then log sigma² of each, layer by layer."""
    return Layout.from_module(make_variational(get_architecture(architecture).module("relu")))


def _module(architecture: str, job: Job) -> nn.Module:
    return get_architecture(architecture).module(job.training.activation, job.training.dropout)


def started_module(architecture: str, job: Job) -> nn.Module:
    """The module before its first step."""
    module = _module(architecture, job)
    # BatchNorm's own start is part of it, so a given start is put over a fresh one.
    initialize_weights(module, job.training.init, keyed_generator(job.seed, "init"))
    if job.initial_weights is not None:
        module.load_state_dict(Layout.from_module(module).unpack(job.initial_weights.clone()))
    return make_variational(module) if job.sparsify else module


def kept_module(architecture: str, module: nn.Module, job: Job, epoch: int) -> nn.Module:
    """The module whose weights are kept and measured: of a twin a plain one, from epoch 1 on with pruned weights."""
    if not job.sparsify:
        return module
    plain, state = _module(architecture, job), pruned_state(module)
    if epoch == 0:  # its parent's state
        state = {name: module.state_dict()[name] for name in state}
    plain.load_state_dict(state)
    return plain.to(memory_format=torch.channels_last)


def _vector(module: nn.Module) -> Tensor:
    """All of its state (P,), in the order of its layout."""
    return Layout.from_module(module).pack(module.state_dict())


def _loaded(architecture: str, weights: Tensor, network: NetworkSpec) -> nn.Module:
    module = get_architecture(architecture).module(network.activation, network.dropout)
    module.load_state_dict(Layout.from_module(module).unpack(weights.clone()))
    return module.to(memory_format=torch.channels_last)


def _train_epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    inputs: Inputs,
    job: Job,
    epoch: int,
) -> tuple[float, float]:
    """One pass over the training images; the last batch may be smaller. Mean loss without any penalty, and accuracy."""
    labels, training = inputs.images.labels("train"), job.training
    order = torch.randperm(len(labels), generator=keyed_generator(job.seed, "order", epoch))
    seed_dropout(module, keyed_generator(job.seed, "dropout", epoch))
    seed_noise(module, keyed_generator(job.seed, "noise", epoch))
    draws = keyed_generator(job.seed, "augmentation", epoch)
    weight = penalty_weight(epoch, training.epochs) if job.sparsify else 0.0
    module.train()
    loss_sum, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    for index in order.split(training.batch_size):
        logits = module(_views(inputs, index, training.augmentation, draws))
        loss = cross_entropy(logits, labels[index])
        optimizer.zero_grad()
        (loss + weight * penalty(module) if weight > 0 else loss).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        loss_sum += loss.detach().double() * len(index)
        correct += (logits.detach().argmax(dim=1) == labels[index]).sum()
    return loss_sum.item() / len(labels), correct.item() / len(labels)


def _views(inputs: Inputs, index: Tensor, augmentation: str, draws: torch.Generator) -> Tensor:
    """Training images as they are in this epoch."""
    if augmentation == "none":
        return inputs.batch("train", index)
    return inputs.prepared(augment(inputs.images.splits["train"].pixels[index], augmentation, draws))


def _parts(inputs: Inputs, split: str) -> list[slice]:
    """A split in batches for evaluation."""
    n = len(inputs.images.splits[split])
    return [slice(first, first + EVALUATION_BATCH) for first in range(0, n, EVALUATION_BATCH)]


@torch.inference_mode()
def _evaluate(module: nn.Module, inputs: Inputs, split: str) -> tuple[float, float, Tensor]:
    module.eval()
    labels, classes = inputs.images.labels(split), inputs.images.classes
    loss_sum, hits = 0.0, torch.zeros(classes, dtype=torch.int64)
    for part in _parts(inputs, split):
        logits, y = module(inputs.batch(split, part)), labels[part]
        loss_sum += cross_entropy(logits, y, reduction="sum").item()
        hits += torch.bincount(y[logits.argmax(dim=1) == y], minlength=classes)
    recall = hits.double() / torch.bincount(labels, minlength=classes)
    return loss_sum / len(labels), int(hits.sum()) / len(labels), recall


def optimizer_of(
    parameters: Iterable[nn.Parameter], training: Training, images: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
    """The optimizer of a training on so many images, and the schedule to be stepped behind it, if any."""
    lr, decay = training.lr, training.weight_decay
    optimizer: torch.optim.Optimizer
    if training.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr, training.momentum, weight_decay=decay, fused=True)
    else:
        kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(parameters, lr, weight_decay=decay, fused=True)
    if training.schedule == "constant":
        return optimizer, None
    steps = -(-images // training.batch_size)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs=training.epochs, steps_per_epoch=steps)
    return optimizer, cycle
