"""The reference engine: plain PyTorch, one model at a time, models spread over processes."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelZooError
from ..images import Images
from .interface import METRICS, Job, Network, States
from .single import Inputs, evaluate_one, train_one

_WORKER: dict[str, Any] = {}  # what the jobs of one call share; set once in each worker process


class TorchEngine:
    """`processes` workers of one thread each; with one, everything runs in this process."""

    name = "torch"

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Iterator[States]:
        """See `Engine.train`; yields the whole trajectory of one job at a time, in order of completion."""
        calls = [(job, tuple(metrics_on)) for job in jobs]
        for index, (weights, metrics) in self._run(_train, architecture, images, calls):
            table = torch.from_numpy(metrics)
            yield States(
                jobs=torch.full((len(weights),), index),
                epochs=torch.arange(len(weights)),
                weights=torch.from_numpy(weights),
                metrics={name: table[:, i] for i, name in enumerate(METRICS)},
            )

    def evaluate(
        self,
        architecture: str,
        images: Images,
        weights: Tensor,
        networks: Sequence[Network],
        split: str,
    ) -> tuple[Tensor, Tensor]:
        """See `Engine.evaluate`."""
        calls = [(w, n, split) for w, n in zip(weights, networks, strict=True)]
        result = torch.empty(len(calls), 2, dtype=torch.float64)
        for index, found in self._run(_evaluate, architecture, images, calls):
            result[index] = torch.tensor(found, dtype=torch.float64)
        return result[:, 0], result[:, 1]

    def _run(
        self,
        function: Callable[..., Any],
        architecture: str,
        images: Images,
        calls: Sequence[tuple[Any, ...]],
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) of every call as it finishes."""
        if self.processes == 1 or len(calls) < 2:
            _set_up(architecture, images)
            yield from ((index, function(*call)) for index, call in enumerate(calls))
            return
        with ProcessPoolExecutor(
            max_workers=min(self.processes, len(calls)),
            mp_context=_context(),
            initializer=_set_up_worker,
            initargs=(architecture, images),
        ) as pool:
            indices: dict[Future[Any], int] = {}
            try:
                for index, call in enumerate(calls):
                    indices[pool.submit(function, *call)] = index
                for future in as_completed(indices):
                    yield indices.pop(future), future.result()
            except BrokenProcessPool as error:
                raise ModelZooError(
                    "a worker process was killed, most often for want of memory; run the same command again to go "
                    "on, with fewer --threads"
                ) from error
            except BaseException:  # Ctrl-C, a failed job, or a consumer that stopped: drop what has not begun
                # One by one: the pool forgets cancel_futures if it is collected before its own thread wakes up.
                for future in indices:
                    future.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _context() -> Any:
    """Workers are forked from a clean server that has imported torch once; elsewhere each imports it itself."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Optimizers import dynamo at their first step, seconds of work: once in the server, not in every worker.
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    return context


def _set_up(architecture: str, images: Images) -> None:
    _WORKER.update(architecture=architecture, inputs=Inputs.of(images))


def _set_up_worker(architecture: str, images: Images) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _set_up(architecture, images)


def _exit_with_parent() -> None:
    """A killed parent cannot tell its workers to stop; without this they would train on for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _train(job: Job, metrics_on: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    weights, metrics = train_one(_WORKER["architecture"], _WORKER["inputs"], job, metrics_on)
    return (
        weights.numpy(),
        metrics.numpy(),
    )  # plain arrays: tensors would travel as shared-memory files


def _evaluate(weights: Tensor, network: Network, split: str) -> tuple[float, float]:
    return evaluate_one(_WORKER["architecture"], _WORKER["inputs"], weights, network, split)
