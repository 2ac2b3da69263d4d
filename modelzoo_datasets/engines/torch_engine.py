"""The reference engine: plain PyTorch, one model at a time, models spread over processes."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..images import Images
from .interface import Job, Measured, Network, States
from .single import Inputs, State, evaluate_one, outputs_one, train_one
from .workers import in_workers


class TorchEngine:
    """`processes` workers of one thread each; with one, everything runs in this process."""

    name = "torch"

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """See `Engine.train`; yields one state at a time."""
        augmented = any(job.training.augmentation != "none" for job in jobs)
        inputs = Inputs.of(images, {*metrics_on, "train"} - ({"train"} if augmented else set()))
        calls = [(job, tuple(metrics_on)) for job in jobs]
        for index, state in self._run(train_one, architecture, inputs, calls):
            yield _states(index, state)

    def evaluate(
        self,
        architecture: str,
        images: Images,
        weights: Tensor,
        networks: Sequence[Network],
        split: str,
    ) -> Measured:
        """See `Engine.evaluate`."""
        calls = [(w, n, split) for w, n in zip(weights, networks, strict=True)]
        loss, accuracy = torch.empty(2, len(calls), dtype=torch.float64)
        recall = torch.empty(len(calls), images.classes, dtype=torch.float64)
        for index, found in self._run(_evaluate, architecture, Inputs.of(images, [split]), calls):
            loss[index], accuracy[index], recall[index] = found
        return Measured(loss, accuracy, recall)

    def outputs(
        self,
        architecture: str,
        images: Images,
        weights: Tensor,
        networks: Sequence[Network],
        split: str,
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Engine.outputs`."""
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
        if self.processes > 1 and len(calls) > 1:
            yield from in_workers(self.processes, function, (architecture, inputs), calls)
            return
        for index, call in enumerate(calls):
            for result in function(architecture, inputs, *call):
                yield index, result


def _evaluate(*arguments: Any) -> Iterator[tuple[float, float, Tensor]]:
    yield evaluate_one(*arguments)


def _outputs(*arguments: Any) -> Iterator[Tensor]:
    yield outputs_one(*arguments)


def _states(index: int, state: State) -> States:
    return States(
        jobs=torch.tensor([index]),
        epochs=torch.tensor([state.epoch]),
        weights=state.weights.unsqueeze(0),
        metrics={name: torch.tensor([value], dtype=torch.float64) for name, value in state.metrics.items()},
        recall=state.recall.unsqueeze(0),
        variational=None if state.variational is None else state.variational.unsqueeze(0),
    )
