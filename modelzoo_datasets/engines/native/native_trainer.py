"""Train and evaluate one model with the compiled kernel. It draws, stores and measures what the reference engine does.

P weights of a model, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...architectures import get_architecture, make_variational, penalty_weight, sparsity
from ...images import Images, augment
from ...recipes import Training
from ...seeds import derive_seed, keyed_generator
from ...weights import Layout
from ..base import SPARSITY, Job
from ..chain import get_chain
from ..common import (
    ModelState,
    build_initial_module,
    evaluate_splits,
    pack_state,
    prune_vector,
    tabulate_learning_rates,
)
from .bindings import CompiledNetwork, KernelImages, NativeModel, TrainingSteps

# Training images per call of the kernel: bounds the wait for a stop, and the augmented images in memory.
_IMAGES_PER_CALL = 10_000


@dataclass(frozen=True)
class NativeInputs:
    """The images of one training or evaluation, shared by all threads."""

    images: Images
    splits: Mapping[str, KernelImages]  # normalized

    @classmethod
    def from_images(cls, images: Images, splits: Iterable[str]) -> "NativeInputs":
        """Copy these splits, if the images have them, into the order of the kernel."""
        needed = [split for split in images.splits if split in splits]
        return cls(images, {s: KernelImages.from_tensors(images.inputs(s), images.labels(s)) for s in needed})


@lru_cache(maxsize=1000)
def get_compiled_network(
    architecture: str, activation: str, dropout: float, *, variational: bool = False
) -> CompiledNetwork:
    """Return the compiled network of an architecture.

    Args:
        architecture: Name of the architecture.
        activation: Name of the activation.
        dropout: Probability of dropping an output.
        variational: Whether vectors have the variational layout.

    Raises:
        NotAChainError: The architecture is not a chain of layers that the kernel knows.
        CompilerError: There is no compiler, or it failed.
    """
    stages = get_chain(architecture, activation, dropout)
    module = get_architecture(architecture).module(activation, dropout)  # dropout can change the names of its layers
    return CompiledNetwork(stages, Layout.from_module(make_variational(module) if variational else module))


def train_network(
    architecture: str, inputs: NativeInputs, job: Job, metrics_on: Sequence[str], is_stopped: Callable[[], bool]
) -> Iterator[ModelState]:
    """Train one model and yield its states after epochs 0 to E, as `torch_engine.train_model` does.

    Args:
        architecture: Name of the architecture.
        inputs: Training and evaluation images.
        job: Training to run.
        metrics_on: Splits to evaluate after every epoch.
        is_stopped: Returns whether to end early.
    """
    training, classes = job.training, inputs.images.classes
    module = build_initial_module(architecture, job)  # variational for a twin
    initial = pack_state(module)
    plain = get_compiled_network(architecture, training.activation, training.dropout)
    network = get_compiled_network(architecture, training.activation, training.dropout, variational=job.sparsify)
    model = NativeModel(network, training, initial, variational=job.sparsify)
    rates = _learning_rates(training, len(inputs.images.labels("train")))
    splits = [split for split in metrics_on if split in inputs.splits]
    missing = float("nan"), torch.full((classes,), float("nan"), dtype=torch.float64)
    for epoch in range(training.epochs + 1):
        running = _train_epoch(model, inputs, job, epoch, rates, is_stopped) if epoch > 0 else None
        if epoch > 0 and running is None:
            return
        vector = model.vector() if epoch > 0 else initial
        weights = prune_vector(architecture, module, job, epoch, vector) if job.sparsify else vector

        def evaluate(split: str, weights: Tensor = weights) -> tuple[float, float, Tensor]:
            return evaluate_network(plain, weights, inputs.splits[split], classes)

        metrics, recall = evaluate_splits(evaluate, splits, epoch, running, missing)
        if job.sparsify:
            metrics[SPARSITY] = sparsity(module) if epoch > 0 else 0.0
        yield ModelState(epoch, weights, metrics, recall, vector if job.sparsify else None)


def evaluate_network(
    network: CompiledNetwork, weights: Tensor, images: KernelImages, classes: int
) -> tuple[float, float, Tensor]:
    """Evaluate one model.

    Args:
        network: The compiled network.
        weights: Weights of the model (P,).
        images: Images to evaluate on.
        classes: Number of classes of the labels.

    Returns:
        Mean cross entropy, accuracy, and recall per class (C,).
    """
    loss, hits = network.evaluate(weights, images, classes)
    recall = hits.double() / torch.bincount(images.labels, minlength=classes)
    return loss / len(images), int(hits.sum()) / len(images), recall


def _train_epoch(
    model: NativeModel,
    inputs: NativeInputs,
    job: Job,
    epoch: int,
    rates: tuple[Tensor, Tensor],
    is_stopped: Callable[[], bool],
) -> tuple[float, float] | None:
    """Train for one epoch; return mean loss without the penalty, and accuracy. None means that it was stopped."""
    training, n = job.training, len(inputs.images.labels("train"))
    order = torch.randperm(n, generator=keyed_generator(job.seed, "order", epoch))
    generator = keyed_generator(job.seed, "augmentation", epoch)
    model.begin_epoch(derive_seed(job.seed, "dropout", epoch), derive_seed(job.seed, "noise", epoch))
    weight = penalty_weight(epoch, training.epochs) if job.sparsify else 0.0
    steps_per_epoch, steps_per_call = -(-n // training.batch_size), max(1, _IMAGES_PER_CALL // training.batch_size)
    loss, correct = 0.0, 0  # sums over the epoch so far
    for first in range(0, steps_per_epoch, steps_per_call):
        if is_stopped():
            return None
        last = min(first + steps_per_call, steps_per_epoch)
        part = order[first * training.batch_size : last * training.batch_size]
        images = inputs.splits["train"]
        if training.augmentation != "none":
            images, part = _augment(inputs.images, part, training, generator), torch.arange(len(part))
        offset = (epoch - 1) * steps_per_epoch
        lr, momentum = (rate[offset + first : offset + last] for rate in rates)
        steps = TrainingSteps(
            order=part, batch_size=training.batch_size, lr=lr, momentum=momentum, penalty_weight=weight
        )
        loss, correct = model.train(images, steps)
    return loss / n, correct / n


def _augment(images: Images, order: Tensor, training: Training, generator: torch.Generator) -> KernelImages:
    """Return the training images with these indices and their random augmentation, drawn batch by batch."""
    split = images.splits["train"]
    views = [augment(split.pixels[part], training.augmentation, generator) for part in order.split(training.batch_size)]
    return KernelImages.from_tensors(images.normalize(torch.cat(views)), split.labels[order])


@lru_cache(maxsize=64)
def _learning_rates(training: Training, num_images: int) -> tuple[Tensor, Tensor]:
    """Return learning rate and momentum of every step, (steps,) float64 each, for `TrainingSteps`."""
    steps = training.epochs * -(-num_images // training.batch_size)
    lr, momentum = tabulate_learning_rates(training, num_images).expand(steps, 2).T.contiguous()
    return lr, momentum
