"""Epochs of a cohort by one kernel: a whole model per thread block, one launch per epoch.

M models, N training images, S stages, P weights of a model
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from ...errors import NoKernelError, NotAChainError
from ...recipes import Training
from ...seeds import derive_seed, keyed_generator
from ...weights import Layout
from ..base import Job
from ..chain import Stage, chain_of
from .block_kernel import Block
from .cohort_plan import module_of
from .compile import Compile
from .evaluate import DeviceImages
from .optimizers import rates, schedules

_ACTIVATIONS = (None, "tanh", "relu", "sigmoid", "gelu")  # by the kernel's numbers
_MOST_CLASSES = 64  # one thread goes through them all


class CohortTrainer(Protocol):
    """What trains a cohort epoch by epoch."""

    def epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Train for the next epoch, from 1; mean loss and accuracy over it, (M,) float64 each, on the host."""
        ...

    def vectors(self) -> Tensor:
        """The weights as they are now, (M, P) on the host."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def block_for(architecture: str, jobs: Sequence[Job]) -> Block:
    """The sizes of the kernel for these jobs, all of one group.

    Raises:
        NoKernelError: it cannot do what they ask for.
    """
    job = jobs[0]
    if job.sparsify or job.training.augmentation != "none":
        raise NoKernelError("twins and augmented images are trained without it")
    try:
        stages = [chain_of(architecture, j.training.activation, j.training.dropout) for j in jobs]
    except NotAChainError as error:
        raise NoKernelError(str(error)) from error
    if len({tuple(map(_bare, chain)) for chain in stages}) > 1:
        raise NoKernelError("the networks differ in more than activation and dropout")
    if stages[0][-1].units > _MOST_CLASSES:
        raise NoKernelError(f"it has more than {_MOST_CLASSES} classes")
    return Block.fitting(stages[0], job.training.batch_size)


def _bare(stage: Stage) -> tuple[object, ...]:
    """What decides the kernel."""
    return stage.input_shape, stage.units, stage.kernel, stage.weight is None, stage.bias is None, stage.pool


class BlockTrainer:
    """See `CohortTrainer`; while the device trains an epoch, the host draws the orders of the next."""

    def __init__(
        self,
        architecture: str,
        resident: DeviceImages,
        jobs: Sequence[Job],
        vectors: Tensor,  # (M, P) to begin with, on the host
        threads: int,
        compile: Compile,
    ) -> None:
        """Raises NoKernelError as `block_for` and `compile` do."""
        block = block_for(architecture, jobs)
        self._launch = compile(block)
        self.jobs, self._resident = jobs, resident
        self._trainings = [job.training for job in jobs]
        device = self._device = resident.labels["train"].device
        self._places = block.places(Layout.from_module(module_of(architecture, jobs[0]))).to(device)
        self._weights = vectors.to(device)[:, self._places]
        self._first, self._second = torch.zeros_like(self._weights), torch.zeros_like(self._weights)
        self._pixels, self._labels = resident.pixels["train"].contiguous(), resident.labels["train"].int()
        self._table = _table(resident).to(device)
        chains = [chain_of(architecture, t.activation, t.dropout) for t in self._trainings]
        self._activations = torch.tensor([[_ACTIVATIONS.index(s.activation) for s in c] for c in chains]).int()
        self._activations = self._activations.to(device)
        self._dropouts = torch.tensor([[s.dropout for s in chain] for chain in chains], device=device)
        self._adaptive = torch.tensor([t.optimizer != "sgd" for t in self._trainings]).int().to(device)
        self._kinds, which = _kinds(self._trainings)
        self._which = torch.tensor(which).int().to(device)
        self._plans = schedules(self._kinds, len(self._labels))
        self._pool = ThreadPoolExecutor(threads)
        self._orders = self._drawing(1)

    def close(self) -> None:
        """End the threads that draw."""
        self._pool.shutdown(cancel_futures=True)

    def vectors(self) -> Tensor:
        """See `CohortTrainer`."""
        return self._in_layout(self._weights)

    def momenta(self) -> Tensor:
        """Momentum of SGD, or the first moment of Adam, (M, P) on the host; after one step of SGD the gradient."""
        return self._in_layout(self._first)

    def _in_layout(self, numbers: Tensor) -> Tensor:
        """(M, P) in the kernel's order -> in the layout's, on the host."""
        found = torch.empty_like(numbers)
        found[:, self._places] = numbers
        return found.cpu()

    def epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """See `CohortTrainer`."""
        images, models, device = len(self._labels), len(self.jobs), self._device
        steps = -(-images // self._trainings[0].batch_size)
        orders = torch.stack([future.result() for future in self._orders]).to(device)
        table = rates(self._kinds, self._plans, (epoch - 1) * steps, steps).movedim(1, 0).contiguous().to(device)
        seeds = [derive_seed(job.seed, "dropout", epoch) for job in self.jobs]
        low = torch.tensor(seeds).bitwise_and(0xFFFFFFFF).to(torch.uint32).to(device)  # all that mt19937 begins with
        losses = torch.empty(models, dtype=torch.float64, device=device)
        correct = torch.empty(models, dtype=torch.int64, device=device)
        tensors = (
            *(self._pixels, self._labels, orders, self._table, self._weights, self._first, self._second, table),
            *(self._which, self._adaptive, self._activations, self._dropouts, low, losses, correct),
        )
        fields = [*(tensor.data_ptr() for tensor in tensors), images, self._trainings[0].batch_size]
        self._launch(torch.tensor(fields).to(device), models)
        if epoch < self._trainings[0].epochs:
            self._orders = self._drawing(epoch + 1)
        return losses.cpu() / images, correct.cpu().double() / images

    def _drawing(self, epoch: int) -> list[Future[Tensor]]:
        images = len(self._resident.labels["train"])

        def order(job: Job) -> Tensor:
            return torch.randperm(images, generator=keyed_generator(job.seed, "order", epoch)).int()

        return [self._pool.submit(order, job) for job in self.jobs]


def _table(resident: DeviceImages) -> Tensor:
    """What each value of a pixel is for the network, (channels, 256), by the images' own arithmetic."""
    channels = resident.images.input_shape[0]
    values = torch.arange(256).to(torch.uint8).view(256, 1, 1, 1).expand(-1, channels, 1, 1)
    return resident.images.normalize(values).view(256, channels).T.contiguous()


def _kinds(trainings: Sequence[Training]) -> tuple[list[Training], list[int]]:
    """Trainings of which each has rates of its own, and for every model which of them it has."""
    known: dict[tuple[object, ...], int] = {}
    kinds: list[Training] = []
    which: list[int] = []
    for t in trainings:
        key = (t.optimizer, t.lr, t.weight_decay, t.momentum, t.schedule)
        if key not in known:
            known[key] = len(kinds)
            kinds.append(t)
        which.append(known[key])
    return kinds, which
