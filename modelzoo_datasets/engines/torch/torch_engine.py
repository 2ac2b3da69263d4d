"""The reference engine: plain PyTorch, one model at a time, models spread over processes."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...architectures import get_architecture
from ...images import Images
from ..base import Job, NetworkSpec, SplitMetrics, States
from ..process_pool import in_workers
from .reference import EVALUATION_BATCH, MOST_NORMALISED, Inputs, evaluate_one, outputs_one, train_one

_PROCESS_BYTES = 350_000_000  # of a Python with torch in it
_COPIES = 6  # of the weights: they, their gradient, two moments, and the state on its way out, twice


class TorchEngine:
    """`num_workers` workers of one thread each; with one, everything runs in this process."""

    name = "torch"

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def resolve(self, architecture: str) -> "TorchEngine":
        """See `Engine.resolve`: it trains any network."""
        return self

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """See `Engine.estimate_memory`: normalized images, and per process torch, a model and its largest batch."""
        inputs = sum(4 * split.pixels.numel() for split in images.splits.values())
        batch = max((2 * job.training.batch_size for job in jobs), default=0)  # outputs and their gradients
        outputs = max(batch, EVALUATION_BATCH) * _bytes_per_image(architecture, images.input_shape)
        model = _COPIES * 4 * get_architecture(architecture).layout.size
        return min(inputs, MOST_NORMALISED) + min(self.num_workers, len(jobs)) * (_PROCESS_BYTES + outputs + model)

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """See `Engine.train`; yields one state at a time."""
        augmented = any(job.training.augmentation != "none" for job in jobs)
        inputs = Inputs.of(images, {*metrics_on, "train"} - ({"train"} if augmented else set()))
        calls = [(job, tuple(metrics_on)) for job in jobs]
        for index, state in self._run(train_one, architecture, inputs, calls):
            yield state.alone(index)

    def evaluate(
        self,
        architecture: str,
        images: Images,
        weights: Tensor,
        networks: Sequence[NetworkSpec],
        split: str,
    ) -> SplitMetrics:
        """See `Engine.evaluate`."""
        calls = [(w, n, split) for w, n in zip(weights, networks, strict=True)]
        loss, accuracy = torch.empty(2, len(calls), dtype=torch.float64)
        recall = torch.empty(len(calls), images.classes, dtype=torch.float64)
        for index, found in self._run(_evaluate, architecture, Inputs.of(images, [split]), calls):
            loss[index], accuracy[index], recall[index] = found
        return SplitMetrics(loss, accuracy, recall)

    def compute_logits(
        self,
        architecture: str,
        images: Images,
        weights: Tensor,
        networks: Sequence[NetworkSpec],
        split: str,
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Engine.compute_logits`."""
        calls = [(w, n, split) for w, n in zip(weights, networks, strict=True)]
        yield from self._run(_outputs, architecture, Inputs.of(images, [split]), calls)

    def _run(
        self,
        function: Callable[..., Iterator[Any]],
        architecture: str,
        inputs: Inputs,
        calls: Sequence[tuple[Any, ...]],
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index of a call, result) for every result of every call, as they come."""
        if self.num_workers > 1 and len(calls) > 1:
            yield from in_workers(self.num_workers, function, (architecture, inputs), calls)
            return
        for index, call in enumerate(calls):
            for result in function(architecture, inputs, *call):
                yield index, result


@torch.inference_mode()
def _bytes_per_image(architecture: str, shape: tuple[int, int, int]) -> int:
    """What the outputs of all layers take for one image."""
    with torch.device("meta"):
        module = get_architecture(architecture).build("relu", 0.0).eval()
        sizes: list[int] = []
        for layer in module.modules():
            if not list(layer.children()):
                layer.register_forward_hook(lambda _, __, output: sizes.append(4 * output.numel()))
        module(torch.empty(1, *shape))
    return sum(sizes)


def _evaluate(*arguments: Any) -> Iterator[tuple[float, float, Tensor]]:
    yield evaluate_one(*arguments)


def _outputs(*arguments: Any) -> Iterator[Tensor]:
    yield outputs_one(*arguments)
