"""Train a cohort with one kernel, epoch by epoch: a whole model per thread block, one launch per epoch.

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
from ..chain import Stage, get_chain
from .block_kernel import Block, CompileKernel, KernelEpoch
from .evaluate import DeviceImages
from .kernel_compiler import check_launch
from .optimizers import tabulate_rates, tabulate_schedules
from .stacked import build_training_module

_ACTIVATIONS = (None, "tanh", "relu", "sigmoid", "gelu")  # in the order of the kernel's enum
_MAX_CLASSES = 64  # one thread iterates over all of them


class CohortTrainer(Protocol):
    """Trains a cohort epoch by epoch."""

    def train_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Train for the next epoch, counted from 1; return its mean loss and accuracy, (M,) float64 on the host."""
        ...

    def vectors(self) -> Tensor:
        """Return the current weights (M, P) on the host."""
        ...

    def close(self) -> None:
        """Release threads and other resources."""
        ...


def make_block(architecture: str, jobs: Sequence[Job]) -> Block:
    """Choose the sizes of the kernel for these jobs, all of one group.

    Raises:
        NoKernelError: The kernel cannot train them.
    """
    job = jobs[0]
    if job.sparsify or job.training.augmentation != "none":
        raise NoKernelError("it supports neither twins nor augmentation")
    try:
        chains = [get_chain(architecture, j.training.activation, j.training.dropout) for j in jobs]
    except NotAChainError as error:
        raise NoKernelError(str(error)) from error
    if len({tuple(map(_shape_key, chain)) for chain in chains}) > 1:
        raise NoKernelError("the networks differ in more than activation and dropout")
    if chains[0][-1].units > _MAX_CLASSES:
        raise NoKernelError(f"the network has more than {_MAX_CLASSES} classes")
    return Block.from_stages(chains[0], job.training.batch_size)


def _shape_key(stage: Stage) -> tuple[object, ...]:
    """Return the properties of a stage that the kernel is compiled for."""
    return stage.input_shape, stage.units, stage.kernel, stage.weight is None, stage.bias is None, stage.pool


class BlockTrainer:
    """See `CohortTrainer`. While the device trains an epoch, the host draws the data order of the next one."""

    def __init__(
        self,
        architecture: str,
        images: DeviceImages,
        jobs: Sequence[Job],
        vectors: Tensor,
        num_threads: int,
        compile_kernel: CompileKernel,
    ) -> None:
        """Compile the kernel and copy the cohort to the device.

        Args:
            architecture: Name of the architecture.
            images: Training images.
            jobs: Jobs of the cohort.
            vectors: Initial weights (M, P) on the host.
            num_threads: Threads that draw random numbers.
            compile_kernel: Compiles the kernel for a block.

        Raises:
            NoKernelError: As of `make_block`, `compile_kernel` and `check_launch`.
        """
        block = make_block(architecture, jobs)
        self._launch = compile_kernel(block)
        self.jobs, self._trainings = jobs, [job.training for job in jobs]
        device = self._device = images.labels["train"].device
        check_launch(self._launch, block, device)
        self._order = block.kernel_order(Layout.from_module(build_training_module(architecture, jobs[0]))).to(device)
        self._weights = vectors.to(device)[:, self._order]
        self._first, self._second = torch.zeros_like(self._weights), torch.zeros_like(self._weights)
        self._pixels, self._labels = images.pixels["train"].contiguous(), images.labels["train"].int()
        self._pixel_table = _make_pixel_table(images).to(device)
        chains = [get_chain(architecture, t.activation, t.dropout) for t in self._trainings]
        self._activations = torch.tensor([[_ACTIVATIONS.index(s.activation) for s in c] for c in chains]).int()
        self._activations = self._activations.to(device)
        self._dropouts = torch.tensor([[s.dropout for s in chain] for chain in chains], device=device)
        self._adaptive = torch.tensor([t.optimizer != "sgd" for t in self._trainings]).int().to(device)
        self._kinds, kind_of_model = _find_kinds(self._trainings)
        self._kind_of_model = torch.tensor(kind_of_model).int().to(device)
        self._schedules = tabulate_schedules(self._kinds, len(self._labels))
        self._pool = ThreadPoolExecutor(num_threads)
        self._next_orders = self._draw_orders(1)

    def close(self) -> None:
        """End the threads that draw random numbers."""
        self._pool.shutdown(cancel_futures=True)

    def vectors(self) -> Tensor:
        """See `CohortTrainer.vectors`."""
        return self._to_layout(self._weights)

    def momenta(self) -> Tensor:
        """Return the momentum of SGD or the first moment of Adam (M, P); after one step of SGD it is the gradient."""
        return self._to_layout(self._first)

    def _to_layout(self, numbers: Tensor) -> Tensor:
        """Reorder numbers (M, P) from the order of the kernel to that of the layout, on the host."""
        vectors = torch.empty_like(numbers)
        vectors[:, self._order] = numbers
        return vectors.cpu()

    def train_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """See `CohortTrainer.train_epoch`."""
        num_images = len(self._labels)
        prepared = self._prepare_epoch(epoch)
        self._launch(prepared.pack_fields(self._trainings[0].batch_size), len(self.jobs))
        if epoch < self._trainings[0].epochs:
            self._next_orders = self._draw_orders(epoch + 1)
        return prepared.losses.cpu() / num_images, prepared.correct.cpu().double() / num_images

    def _prepare_epoch(self, epoch: int) -> KernelEpoch:
        """Return everything that the kernel reads and writes in an epoch."""
        num_models, device = len(self.jobs), self._device
        steps = -(-len(self._labels) // self._trainings[0].batch_size)
        rates = tabulate_rates(self._kinds, self._schedules, (epoch - 1) * steps, steps)
        seeds = torch.tensor([derive_seed(job.seed, "dropout", epoch) for job in self.jobs])
        return KernelEpoch(
            pixels=self._pixels,
            labels=self._labels,
            orders=torch.stack([future.result() for future in self._next_orders]).to(device),
            pixel_table=self._pixel_table,
            weights=self._weights,
            first_moment=self._first,
            second_moment=self._second,
            rates=rates.movedim(1, 0).contiguous().to(device),
            table_of_model=self._kind_of_model,
            adaptive=self._adaptive,
            activations=self._activations,
            dropouts=self._dropouts,
            seeds=seeds.bitwise_and(0xFFFFFFFF).to(torch.uint32).to(device),  # mt19937 uses the low 32 bits
            losses=torch.empty(num_models, dtype=torch.float64, device=device),
            correct=torch.empty(num_models, dtype=torch.int64, device=device),
        )

    def _draw_orders(self, epoch: int) -> list[Future[Tensor]]:
        """Begin to draw the data order of every model in an epoch."""
        num_images = len(self._labels)

        def draw(job: Job) -> Tensor:
            return torch.randperm(num_images, generator=keyed_generator(job.seed, "order", epoch)).int()

        return [self._pool.submit(draw, job) for job in self.jobs]


def _make_pixel_table(images: DeviceImages) -> Tensor:
    """Return the normalized value of every pixel value (channels, 256), by the images' own arithmetic."""
    channels = images.images.input_shape[0]
    values = torch.arange(256).to(torch.uint8).view(256, 1, 1, 1).expand(-1, channels, 1, 1)
    return images.images.normalize(values).view(256, channels).T.contiguous()


def _find_kinds(trainings: Sequence[Training]) -> tuple[list[Training], list[int]]:
    """Return one training for every distinct table of rates, and for every model the index of its table."""
    keys = [(t.optimizer, t.lr, t.weight_decay, t.momentum, t.schedule) for t in trainings]
    examples = dict(zip(keys, trainings, strict=True))
    numbers = {key: number for number, key in enumerate(examples)}
    return list(examples.values()), [numbers[key] for key in keys]
