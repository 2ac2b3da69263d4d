"""The native engine: one compiled kernel per architecture, one whole model per thread."""

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..._util import versions
from ...architectures import get_architecture
from ...errors import ArgumentError, CompilerError, NotAChainError
from ...images import Images
from ..base import Engine, Job, NetworkSpec, SplitMetrics, States
from ..common import ModelState, collect_metrics
from ..torch_engine import TorchEngine
from .bindings import CompiledNetwork
from .native_trainer import NativeInputs, evaluate_network, get_compiled_network, train_network

_LOG = logging.getLogger(__name__)
_QUEUE_SIZE = 8  # results per thread that may wait to be consumed; then training waits
_POLL_SECONDS = 0.1  # how often a thread that waits for the queue checks whether it should stop
_ENDED, _FAILED = -1, -2  # indices that stand for messages of a thread


class NativeEngine:
    """The native engine with `num_threads` models at once. Networks that it cannot compile go to the torch engine.

    Example:
        >>> NativeEngine(num_threads=1).resolve("resnet18").name  # not a chain of layers
        'torch'
    """

    name = "native"

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads

    def resolve(self, architecture: str) -> Engine:
        """See `Engine.resolve`: this engine, or the torch engine and one logged line that says why."""
        try:
            get_compiled_network(architecture, "relu", 0.0)
        except (NotAChainError, CompilerError) as error:
            _warn_once(f"{architecture} is trained by the torch engine instead of the native one: {error}")
            return TorchEngine(self.num_threads)
        return self

    def environment(self, architecture: str) -> dict[str, str]:
        """See `Engine.environment`."""
        return versions()

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """See `Engine.estimate_memory`."""
        engine = self.resolve(architecture)
        if engine is not self:
            return engine.estimate_memory(architecture, images, jobs)
        twins = any(job.sparsify for job in jobs)
        inputs = sum(4 * split.pixels.numel() for split in images.splits.values())
        model = get_compiled_network(architecture, "relu", 0.0).model_bytes(variational=twins)
        waiting = _QUEUE_SIZE * 4 * get_architecture(architecture).layout.size * (3 if twins else 1)
        return inputs + min(self.num_threads, len(jobs)) * (model + waiting)

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """See `Engine.train`; yields one state at a time and starts with the longest trainings."""
        engine = self.resolve(architecture)
        if engine is not self:
            yield from engine.train(architecture, images, jobs, metrics_on=metrics_on)
            return
        inputs = NativeInputs.from_images(images, {*metrics_on, "train"})
        order = sorted(range(len(jobs)), key=lambda index: -jobs[index].training.epochs)

        def work(index: int, is_stopped: Callable[[], bool]) -> Iterator[ModelState]:
            return train_network(architecture, inputs, jobs[index], metrics_on, is_stopped)

        for index, state in self._run(order, work):
            yield state.to_states(index)

    def evaluate(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> SplitMetrics:
        """See `Engine.evaluate`."""
        engine = self.resolve(architecture)
        if engine is not self:
            return engine.evaluate(architecture, images, weights, networks, split)
        inputs = NativeInputs.from_images(images, {split}).splits[split]

        def work(index: int, _: Callable[[], bool]) -> Iterator[tuple[float, float, Tensor]]:
            network = _get_network(architecture, networks[index])
            yield evaluate_network(network, weights[index], inputs, images.classes)

        _check_same_length(weights, networks)
        return collect_metrics(self._run(range(len(weights)), work), len(weights), images.classes)

    def compute_logits(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Engine.compute_logits`."""
        engine = self.resolve(architecture)
        if engine is not self:
            yield from engine.compute_logits(architecture, images, weights, networks, split)
            return
        inputs = NativeInputs.from_images(images, {split}).splits[split]

        def work(index: int, _: Callable[[], bool]) -> Iterator[Tensor]:
            logits = torch.empty(len(inputs), images.classes)
            _get_network(architecture, networks[index]).evaluate(weights[index], inputs, images.classes, logits)
            yield logits

        _check_same_length(weights, networks)
        yield from self._run(range(len(weights)), work)

    def _run(
        self, indices: Sequence[int], work: Callable[[int, Callable[[], bool]], Iterator[Any]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) for every result of `work(index, is_stopped)`; a free thread takes the next index.

        Closing the iterator, or an error in a thread, stops all threads before it returns.
        """
        remaining, results = iter(indices), queue.Queue[tuple[int, Any]](maxsize=_QUEUE_SIZE * self.num_threads)
        stop, lock = threading.Event(), threading.Lock()

        def put(index: int, result: Any) -> None:
            while not stop.is_set():
                with suppress(queue.Full):
                    results.put((index, result), timeout=_POLL_SECONDS)
                    return

        def serve() -> None:
            torch.set_num_threads(1)
            try:
                while not stop.is_set():
                    with lock:
                        index = next(remaining, None)
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
            yield from _iterate_results(results, len(threads))
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _iterate_results(results: "queue.Queue[tuple[int, Any]]", num_running: int) -> Iterator[tuple[int, Any]]:
    """Yield results until all threads have ended; raise the error of a thread."""
    while num_running:
        index, result = results.get()
        if index == _FAILED:
            raise result
        if index == _ENDED:
            num_running -= 1
        else:
            yield index, result


def _get_network(architecture: str, network: NetworkSpec) -> CompiledNetwork:
    return get_compiled_network(architecture, network.activation, network.dropout)


def _check_same_length(weights: Tensor, networks: Sequence[NetworkSpec]) -> None:
    if len(weights) != len(networks):
        raise ArgumentError(f"expected one network per row of the weights; got {len(networks)} and {len(weights)}")


_warnings: set[str] = set()


def _warn_once(line: str) -> None:
    if line not in _warnings:
        _warnings.add(line)
        _LOG.warning(line)
