"""The native engine: one compiled kernel, one whole model per thread."""

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ...architectures import get_architecture
from ...errors import CompilerError, NotAChainError
from ...images import Images
from ..base import Engine, Job, SplitMetrics, States
from ..base import NetworkSpec as Behaviour
from ..torch.reference import State
from ..torch.torch_engine import TorchEngine
from .bindings import CompiledNetwork
from .native_trainer import Inputs, measured, network_of, train_model

_LOG = logging.getLogger(__name__)
_WAITING = 8  # states per thread that may wait to be taken; then training waits
_QUEUED = 0.1  # seconds after which a thread looks whether it should stop


class NativeEngine:
    """The native engine: `num_threads` models at once. Networks that it cannot compile go to the torch engine."""

    name = "native"

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads

    def resolve(self, architecture: str) -> Engine:
        """See `Engine.resolve`: this engine, or the torch engine and one logged line that says why."""
        try:
            network_of(architecture, "relu", 0.0)
        except (NotAChainError, CompilerError) as error:
            _say_once(f"{architecture}: the torch engine instead of the native one: {error}")
            return TorchEngine(self.num_threads)
        return self

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """See `Engine.estimate_memory`."""
        engine = self.resolve(architecture)
        if engine is not self:
            return engine.estimate_memory(architecture, images, jobs)
        twins = any(job.sparsify for job in jobs)
        pixels = sum(4 * split.pixels.numel() for split in images.splits.values())
        at_once = min(self.num_threads, len(jobs))
        model = network_of(architecture, "relu", 0.0).model_bytes(variational=twins)
        waiting = _WAITING * 4 * get_architecture(architecture).layout.size * (3 if twins else 1)
        return pixels + at_once * (model + waiting)

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """See `Engine.train`; yields one state at a time, of the longest trainings first."""
        engine = self.resolve(architecture)
        if engine is not self:
            yield from engine.train(architecture, images, jobs, metrics_on=metrics_on)
            return
        split = Inputs.of(images, {*metrics_on, "train"})
        order = sorted(range(len(jobs)), key=lambda index: -jobs[index].training.epochs)

        def work(index: int, stopped: Callable[[], bool]) -> Iterator[State]:
            return train_model(architecture, split, jobs[index], metrics_on, stopped)

        for index, state in self._run(order, work):
            yield state.alone(index)

    def evaluate(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[Behaviour], split: str
    ) -> SplitMetrics:
        """See `Engine.evaluate`."""
        engine = self.resolve(architecture)
        if engine is not self:
            return engine.evaluate(architecture, images, weights, networks, split)
        pixels = Inputs.of(images, {split}).pixels[split]
        loss, accuracy = torch.empty(2, len(weights), dtype=torch.float64)
        recall = torch.empty(len(weights), images.classes, dtype=torch.float64)

        def work(index: int, _: Callable[[], bool]) -> Iterator[tuple[float, float, Tensor]]:
            network = _network(architecture, networks[index])
            yield measured(network, weights[index], pixels, images.classes)

        _same_length(weights, networks)
        for index, found in self._run(range(len(weights)), work):
            loss[index], accuracy[index], recall[index] = found
        return SplitMetrics(loss, accuracy, recall)

    def compute_logits(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[Behaviour], split: str
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Engine.compute_logits`."""
        engine = self.resolve(architecture)
        if engine is not self:
            yield from engine.compute_logits(architecture, images, weights, networks, split)
            return
        pixels = Inputs.of(images, {split}).pixels[split]

        def work(index: int, _: Callable[[], bool]) -> Iterator[Tensor]:
            logits = torch.empty(len(pixels), images.classes)
            _network(architecture, networks[index]).evaluate(weights[index], pixels, images.classes, logits)
            yield logits

        _same_length(weights, networks)
        yield from self._run(range(len(weights)), work)

    def _run(
        self, indices: Sequence[int], work: Callable[[int, Callable[[], bool]], Iterator[Any]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) for every result of `work(index, stopped)`; a thread that is free takes the next index.

        Closing the iterator, or an error in a thread, stops all threads before it returns.
        """
        todo, results = iter(indices), queue.Queue[tuple[int, Any]](maxsize=_WAITING * self.num_threads)
        stop, taking = threading.Event(), threading.Lock()

        def put(index: int, result: Any) -> None:
            while not stop.is_set():
                with suppress(queue.Full):
                    results.put((index, result), timeout=_QUEUED)
                    return

        def serve() -> None:
            torch.set_num_threads(1)
            try:
                while not stop.is_set():
                    with taking:
                        index = next(todo, None)
                    if index is None:
                        break
                    for result in work(index, stop.is_set):
                        put(index, result)
            except BaseException as error:
                put(_FAILED, error)
            put(_ENDED, None)

        threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(self.num_threads, len(indices)))]
        try:
            for thread in threads:
                thread.start()
            yield from _until_all_ended(results, len(threads))
        finally:
            stop.set()
            for thread in threads:
                thread.join()


_ENDED, _FAILED = -1, -2


def _until_all_ended(results: "queue.Queue[tuple[int, Any]]", running: int) -> Iterator[tuple[int, Any]]:
    while running:
        index, result = results.get()
        if index == _FAILED:
            raise result
        if index == _ENDED:
            running -= 1
        else:
            yield index, result


def _network(architecture: str, behaviour: Behaviour) -> CompiledNetwork:
    return network_of(architecture, behaviour.activation, behaviour.dropout)


def _same_length(weights: Tensor, networks: Sequence[Behaviour]) -> None:
    if len(weights) != len(networks):
        raise ValueError(f"expected as many networks as weights, got {len(networks)} and {len(weights)}")


_said: set[str] = set()


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        _LOG.warning(line)
