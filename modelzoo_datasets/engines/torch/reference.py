"""Train and evaluate one model in plain PyTorch: the obviously right way, which every other engine is tested against.

B images of a batch, P weights of a model, C classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...architectures import get_architecture, penalty, penalty_weight, seed_dropout, seed_noise, sparsity
from ...images import Images, augment
from ...seeds import keyed_generator
from ...weights import Layout
from ..base import SPARSITY, Job, NetworkSpec
from ..common import (
    ModelState,
    build_initial_module,
    build_plain_module,
    evaluate_splits,
    make_optimizer,
    one_thread,
    pack_state,
)

MAX_NORMALIZED_BYTES = 1_000_000_000  # as float32, which take four times as much as pixels
EVALUATION_BATCH_SIZE = 500  # images; large enough to be fast, small enough for the caches


@dataclass(frozen=True)
class ModelInputs:
    """Images as models take them, shared by all jobs: normalized once if memory allows, else batch by batch."""

    images: Images
    normalized: Mapping[str, Tensor]  # per split (N, C, H, W) float32

    @classmethod
    def from_images(cls, images: Images, splits: Iterable[str]) -> "ModelInputs":
        """Normalize these splits, if the images have them, unless that takes more than MAX_NORMALIZED_BYTES."""
        needed = [split for split in images.splits if split in splits]
        size = sum(4 * images.splits[split].pixels.numel() for split in needed)
        in_memory = needed if size <= MAX_NORMALIZED_BYTES else []
        return cls(images, {split: _channels_last(images.inputs(split)) for split in in_memory})

    def batch(self, split: str, index: Tensor | slice) -> Tensor:
        """Return the images of a split with these indices as inputs (B, C, H, W)."""
        if split in self.normalized:
            return _channels_last(self.normalized[split][index])
        return self.normalize(self.images.splits[split].pixels[index])

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn pixels (B, C, H, W) uint8 into inputs of a model."""
        return _channels_last(self.images.normalize(pixels))


def _channels_last(x: Tensor) -> Tensor:
    """Change the memory format; pooling and convolution run about 1.4 times as fast, values stay the same."""
    return x.contiguous(memory_format=torch.channels_last)


def train_model(architecture: str, inputs: ModelInputs, job: Job, metrics_on: Sequence[str]) -> Iterator[ModelState]:
    """Train one model and yield its states after epochs 0 to E.

    Training metrics are running means over the epoch in train mode, as 2209.14764 defines them; at epoch 0 they are
    evaluated. Metrics of splits that are not in `metrics_on` or that the images lack are NaN. Epoch 0 of a sparsified
    twin is the state of its parent, bit for bit.

    Args:
        architecture: Name of the architecture.
        inputs: Training and evaluation images.
        job: Training to run.
        metrics_on: Splits to evaluate after every epoch.
    """
    module = build_initial_module(architecture, job).to(memory_format=torch.channels_last)
    optimizer, scheduler = make_optimizer(module.parameters(), job.training, len(inputs.images.labels("train")))
    splits = [split for split in metrics_on if split in inputs.images.splits]
    missing = float("nan"), torch.full((inputs.images.classes,), float("nan"), dtype=torch.float64)
    for epoch in range(job.training.epochs + 1):
        with one_thread():
            running = _train_epoch(module, optimizer, scheduler, inputs, job, epoch) if epoch > 0 else None
            plain = build_plain_module(architecture, module, job, epoch).to(memory_format=torch.channels_last)

            def evaluate(split: str, plain: nn.Module = plain) -> tuple[float, float, Tensor]:
                return _evaluate(plain, inputs, split)

            metrics, recall = evaluate_splits(evaluate, splits, epoch, running, missing)
        if job.sparsify:
            metrics[SPARSITY] = sparsity(module) if epoch > 0 else 0.0
        yield ModelState(epoch, pack_state(plain), metrics, recall, pack_state(module) if job.sparsify else None)


def evaluate_model(
    architecture: str, inputs: ModelInputs, weights: Tensor, network: NetworkSpec, split: str
) -> tuple[float, float, Tensor]:
    """Evaluate one model on a split.

    Args:
        architecture: Name of the architecture.
        inputs: Evaluation images.
        weights: Weights of the model (P,).
        network: Activation and dropout of the model.
        split: Name of the split.

    Returns:
        Mean cross entropy, accuracy, and recall per class (C,).
    """
    with one_thread():
        return _evaluate(_load_module(architecture, weights, network), inputs, split)


@torch.inference_mode()
def compute_model_logits(
    architecture: str, inputs: ModelInputs, weights: Tensor, network: NetworkSpec, split: str
) -> Tensor:
    """Compute the logits (N, C) of one model on all N images of a split.

    Args:
        architecture: Name of the architecture.
        inputs: Images with that split.
        weights: Weights of the model (P,).
        network: Activation and dropout of the model.
        split: Name of the split.
    """
    module = _load_module(architecture, weights, network).eval()
    with one_thread():
        return torch.cat([module(inputs.batch(split, part)) for part in _evaluation_batches(inputs, split)])


def _load_module(architecture: str, weights: Tensor, network: NetworkSpec) -> nn.Module:
    module = get_architecture(architecture).module(network.activation, network.dropout)
    module.load_state_dict(Layout.from_module(module).unpack(weights.clone()))
    return module.to(memory_format=torch.channels_last)


def _train_epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    inputs: ModelInputs,
    job: Job,
    epoch: int,
) -> tuple[float, float]:
    """Train for one epoch; return mean loss without the penalty, and accuracy. The last batch may be smaller."""
    labels, training = inputs.images.labels("train"), job.training
    order = torch.randperm(len(labels), generator=keyed_generator(job.seed, "order", epoch))
    seed_dropout(module, keyed_generator(job.seed, "dropout", epoch))
    seed_noise(module, keyed_generator(job.seed, "noise", epoch))
    generator = keyed_generator(job.seed, "augmentation", epoch)
    weight = penalty_weight(epoch, training.epochs) if job.sparsify else 0.0
    module.train()
    loss_sum, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    for index in order.split(training.batch_size):
        logits = module(_training_batch(inputs, index, training.augmentation, generator))
        loss = cross_entropy(logits, labels[index])
        optimizer.zero_grad()
        (loss + weight * penalty(module) if weight > 0 else loss).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        loss_sum += loss.detach().double() * len(index)
        correct += (logits.detach().argmax(dim=1) == labels[index]).sum()
    return loss_sum.item() / len(labels), correct.item() / len(labels)


def _training_batch(inputs: ModelInputs, index: Tensor, augmentation: str, generator: torch.Generator) -> Tensor:
    """Return training images with their random augmentation, if there is one."""
    if augmentation == "none":
        return inputs.batch("train", index)
    return inputs.normalize(augment(inputs.images.splits["train"].pixels[index], augmentation, generator))


def _evaluation_batches(inputs: ModelInputs, split: str) -> list[slice]:
    n = len(inputs.images.splits[split])
    return [slice(first, first + EVALUATION_BATCH_SIZE) for first in range(0, n, EVALUATION_BATCH_SIZE)]


@torch.inference_mode()
def _evaluate(module: nn.Module, inputs: ModelInputs, split: str) -> tuple[float, float, Tensor]:
    module.eval()
    labels, classes = inputs.images.labels(split), inputs.images.classes
    loss_sum, hits = 0.0, torch.zeros(classes, dtype=torch.int64)
    for part in _evaluation_batches(inputs, split):
        logits, y = module(inputs.batch(split, part)), labels[part]
        loss_sum += cross_entropy(logits, y, reduction="sum").item()
        hits += torch.bincount(y[logits.argmax(dim=1) == y], minlength=classes)
    recall = hits.double() / torch.bincount(labels, minlength=classes)
    return loss_sum / len(labels), int(hits.sum()) / len(labels), recall
