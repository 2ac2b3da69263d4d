"""The reference engine: plain PyTorch, one model at a time, models distributed over processes.

It trains and evaluates each model in the obviously right way, which every other engine is tested against.

B images of a batch, P weights of a model, C classes.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._util import versions
from ..architectures import build_module, get_architecture, penalty, penalty_weight, seed_dropout, seed_noise, sparsity
from ..images import Images, augment
from ..seeds import keyed_generator
from .base import SPARSITY, Job, NetworkSpec, SplitMetrics, States
from .common import (
    ModelState,
    build_initial_module,
    build_plain_module,
    collect_metrics,
    evaluate_splits,
    make_optimizer,
    one_thread,
    pack_state,
)
from .process_pool import run_in_processes

_MAX_NORMALIZED_BYTES = 1_000_000_000  # as float32, which take four times as much as pixels
_EVALUATION_BATCH_SIZE = 500  # images; large enough to be fast, small enough for the caches
_PROCESS_BYTES = 350_000_000  # a Python process that has imported torch
_WEIGHT_COPIES = 6  # weights, gradient, two moments, and twice the state on its way out


@dataclass(frozen=True)
class ModelInputs:
    """Images as models take them, shared by all jobs: normalized once if memory allows, else batch by batch."""

    images: Images
    normalized: Mapping[str, Tensor]  # per split (N, C, H, W) float32

    @classmethod
    def from_images(cls, images: Images, splits: Iterable[str]) -> "ModelInputs":
        """Normalize these splits, if the images have them, unless that takes more than _MAX_NORMALIZED_BYTES."""
        needed = [split for split in images.splits if split in splits]
        size = sum(4 * images.splits[split].pixels.numel() for split in needed)
        in_memory = needed if size <= _MAX_NORMALIZED_BYTES else []
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


class TorchEngine:
    """The reference engine with `num_workers` processes of one thread each; with one, everything runs in this process.

    Example:
        >>> TorchEngine(num_workers=1).resolve("cnn-s").name
        'torch'
    """

    name = "torch"

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def resolve(self, architecture: str) -> "TorchEngine":
        """See `Engine.resolve`; this engine trains any network."""
        return self

    def environment(self, architecture: str) -> dict[str, str]:
        """See `Engine.environment`."""
        return versions()

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """See `Engine.estimate_memory`: normalized images, and per process torch, a model and its largest batch."""
        inputs = sum(4 * split.pixels.numel() for split in images.splits.values())
        batch = max((2 * job.training.batch_size for job in jobs), default=0)  # activations and their gradients
        activations = max(batch, _EVALUATION_BATCH_SIZE) * _activation_bytes(architecture, images.input_shape)
        model = _WEIGHT_COPIES * 4 * get_architecture(architecture).layout.size
        processes = min(self.num_workers, len(jobs)) * (_PROCESS_BYTES + activations + model)
        return min(inputs, _MAX_NORMALIZED_BYTES) + processes

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """See `Engine.train`; yields one state at a time."""
        augmented = any(job.training.augmentation != "none" for job in jobs)
        inputs = ModelInputs.from_images(images, {*metrics_on, "train"} - ({"train"} if augmented else set()))
        calls = [(job, tuple(metrics_on)) for job in jobs]
        for index, state in self._run(train_model, architecture, inputs, calls):
            yield state.to_states(index)

    def evaluate(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> SplitMetrics:
        """See `Engine.evaluate`."""
        calls = [(w, n, split) for w, n in zip(weights, networks, strict=True)]
        inputs = ModelInputs.from_images(images, [split])
        results = self._run(_evaluate_model, architecture, inputs, calls)
        return collect_metrics(results, len(calls), images.classes)

    def compute_logits(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Engine.compute_logits`."""
        calls = [(w, n, split) for w, n in zip(weights, networks, strict=True)]
        yield from self._run(_compute_model_logits, architecture, ModelInputs.from_images(images, [split]), calls)

    def _run(
        self,
        function: Callable[..., Iterator[Any]],
        architecture: str,
        inputs: ModelInputs,
        calls: Sequence[tuple[Any, ...]],
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of a call and a result of it, for every result of every call, as they come."""
        if self.num_workers > 1 and len(calls) > 1:
            yield from run_in_processes(self.num_workers, function, (architecture, inputs), calls)
            return
        for index, call in enumerate(calls):
            for result in function(architecture, inputs, *call):
                yield index, result


@torch.inference_mode()
def _activation_bytes(architecture: str, shape: tuple[int, int, int]) -> int:
    """Return the size of the outputs of all layers for one image."""
    with torch.device("meta"):
        module = get_architecture(architecture).build("relu", 0.0).eval()
        sizes: list[int] = []
        for layer in module.modules():
            if not list(layer.children()):
                layer.register_forward_hook(lambda _, __, output: sizes.append(4 * output.numel()))
        module(torch.empty(1, *shape))
    return sum(sizes)


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


# Workers import the next two by their names. Each yields its only result, since a worker sends results as they come.


def _evaluate_model(
    architecture: str, inputs: ModelInputs, weights: Tensor, network: NetworkSpec, split: str
) -> Iterator[tuple[float, float, Tensor]]:
    """Yield mean cross entropy, accuracy, and recall per class (C,) of one model on a split."""
    module = _load_module(architecture, weights, network)
    with one_thread():
        result = _evaluate(module, inputs, split)
    yield result


def _compute_model_logits(
    architecture: str, inputs: ModelInputs, weights: Tensor, network: NetworkSpec, split: str
) -> Iterator[Tensor]:
    """Yield the logits (N, C) of one model on all N images of a split."""
    module = _load_module(architecture, weights, network)
    with one_thread(), torch.inference_mode():
        logits = torch.cat([module(inputs.batch(split, part)) for part in _evaluation_batches(inputs, split)])
    yield logits


def _load_module(architecture: str, weights: Tensor, network: NetworkSpec) -> nn.Module:
    registered = get_architecture(architecture)
    module = build_module(registered, weights, activation=network.activation, dropout=network.dropout)
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
    return [slice(first, first + _EVALUATION_BATCH_SIZE) for first in range(0, n, _EVALUATION_BATCH_SIZE)]


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
