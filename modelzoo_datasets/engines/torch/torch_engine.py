"""The reference engine: plain PyTorch, one model at a time, models distributed over processes."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...architectures import get_architecture
from ...images import Images
from ..base import Job, NetworkSpec, SplitMetrics, States
from ..process_pool import run_in_processes
from .reference import (
    EVALUATION_BATCH_SIZE,
    MAX_NORMALIZED_BYTES,
    ModelInputs,
    compute_model_logits,
    evaluate_model,
    train_model,
)

_PROCESS_BYTES = 350_000_000  # a Python process that has imported torch
_WEIGHT_COPIES = 6  # weights, gradient, two moments, and twice the state on its way out


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

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """See `Engine.estimate_memory`: normalized images, and per process torch, a model and its largest batch."""
        inputs = sum(4 * split.pixels.numel() for split in images.splits.values())
        batch = max((2 * job.training.batch_size for job in jobs), default=0)  # activations and their gradients
        activations = max(batch, EVALUATION_BATCH_SIZE) * _activation_bytes(architecture, images.input_shape)
        model = _WEIGHT_COPIES * 4 * get_architecture(architecture).layout.size
        processes = min(self.num_workers, len(jobs)) * (_PROCESS_BYTES + activations + model)
        return min(inputs, MAX_NORMALIZED_BYTES) + processes

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
        loss, accuracy = torch.empty(2, len(calls), dtype=torch.float64)
        recall = torch.empty(len(calls), images.classes, dtype=torch.float64)
        inputs = ModelInputs.from_images(images, [split])
        for index, result in self._run(_iterate_evaluation, architecture, inputs, calls):
            loss[index], accuracy[index], recall[index] = result
        return SplitMetrics(loss, accuracy, recall)

    def compute_logits(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Engine.compute_logits`."""
        calls = [(w, n, split) for w, n in zip(weights, networks, strict=True)]
        yield from self._run(_iterate_logits, architecture, ModelInputs.from_images(images, [split]), calls)

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


def _iterate_evaluation(*arguments: Any) -> Iterator[tuple[float, float, Tensor]]:
    yield evaluate_model(*arguments)


def _iterate_logits(*arguments: Any) -> Iterator[Tensor]:
    yield compute_model_logits(*arguments)
