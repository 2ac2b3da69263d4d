"""Train a cohort with stacked weights, epoch by epoch; random numbers are drawn ahead, and no step waits for the host.

M models, K steps of a chunk, B images of a step, D trained numbers of a model
"""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from ...architectures import penalty_weight
from ...images import CropFlip, FlipRotate, crop_flip, flip_rotate
from ...weights import Layout
from ..base import Job
from .device import GraphedStep, GraphPool, StreamBranches
from .evaluate import DeviceImages
from .optimizers import NUM_RATES, StackedOptimizer, tabulate_rates, tabulate_schedules
from .rng import VIEW_FIELDS, RandomDemand, RandomStream, StepChunk, measure_demand, split_epoch
from .stacked import StackedModels, StackedWeights, build_training_module, stack_models

_CHUNK_BYTES = 1 << 27  # for random numbers drawn ahead
_MAX_STEPS = 256  # per chunk


class StackedTrainer:
    """Trains the models of one cohort. All tensors that a step reads and writes stay at their addresses."""

    def __init__(
        self, architecture: str, images: DeviceImages, jobs: Sequence[Job], vectors: Tensor, num_threads: int
    ) -> None:
        """Allocate the state of the cohort and begin to draw random numbers.

        Args:
            architecture: Name of the architecture.
            images: Training images.
            jobs: Jobs of the cohort.
            vectors: Initial weights (M, P) on the host, in the order of the layout of the module of a job.
            num_threads: Threads that draw random numbers.
        """
        self.jobs, self._images = jobs, images
        self._trainings = [job.training for job in jobs]
        self._labels = images.labels["train"]
        self._device = device = self._labels.device
        build, shape = partial(build_training_module, architecture), images.images.input_shape
        self.stack = StackedWeights.from_vectors(Layout.from_module(build(jobs[0])), vectors, device)
        self.groups = stack_models(build, jobs, shape, device, sparsify=jobs[0].sparsify)
        self._optimizer = StackedOptimizer(self._trainings, self.stack.trained)
        self._schedules = tabulate_schedules(self._trainings, len(self._labels))
        self._gradients = torch.zeros_like(self.stack.trained)
        self._branches = StreamBranches(device, len(self.groups))
        self._rates = torch.zeros(len(jobs), NUM_RATES, device=device)
        self._penalty = torch.zeros((), device=device)
        self._loss = torch.zeros(len(jobs), dtype=torch.float64, device=device)
        self._correct = torch.zeros(len(jobs), dtype=torch.int64, device=device)
        self._graph_pool = GraphPool(device)
        self._steps: dict[int, _StepBuffers] = {}
        self._pool = ThreadPoolExecutor(num_threads)
        self._streams: list[RandomStream | None] = [None] * len(jobs)
        self._chunks = self._iterate_chunks()

    def close(self) -> None:
        """End the threads that draw random numbers, and let go of the device memory of all steps."""
        self._pool.shutdown(cancel_futures=True)
        self._chunks.close()
        self._steps.clear()  # they refer to this trainer, which would hold its memory until the next collection

    def train_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """See `CohortTrainer.train_epoch`."""
        job = self.jobs[0]
        self._penalty.fill_(penalty_weight(epoch, job.training.epochs) if job.sparsify else 0.0)
        self._loss.zero_()
        self._correct.zero_()
        num_images = len(self._labels)
        for first, steps, batch_size in self._plan_chunks():
            chunk = next(self._chunks)
            assert (chunk.epoch, chunk.first, chunk.steps) == (epoch, first, steps)
            self._run_chunk(chunk, batch_size)
        return self._loss.cpu() / num_images, self._correct.cpu().double() / num_images

    def vectors(self) -> Tensor:
        """See `CohortTrainer.vectors`."""
        return self.stack.vectors().cpu()

    def _get_step(self, batch_size: int) -> "_StepBuffers":
        if batch_size not in self._steps:
            self._steps[batch_size] = _StepBuffers(self, batch_size)
        return self._steps[batch_size]

    def _plan_chunks(self) -> Iterator[tuple[int, int, int]]:
        """Yield the chunks of an epoch, each small enough that its random numbers fit into memory."""
        batch_size = min(self.jobs[0].training.batch_size, len(self._labels))
        demands = self._get_step(batch_size).demands
        step_bytes = 4 * sum(group.num_models * (d.num_uniforms + d.num_normals) for group, d in demands)
        step_bytes += len(self.jobs) * batch_size * self._images.pixels["train"][0].numel()
        return split_epoch(len(self._labels), batch_size, max(1, min(_MAX_STEPS, _CHUNK_BYTES // step_bytes)))

    def _iterate_chunks(self) -> Generator[StepChunk]:
        """Yield the chunks of all epochs; while one is used, the next one is drawn."""
        pending: tuple[StepChunk, list[Future[None]]] | None = None
        for epoch in range(1, self.jobs[0].training.epochs + 1):
            for first, steps, batch_size in self._plan_chunks():
                if pending is not None:  # two threads must not draw from one stream at once
                    yield _finish_chunk(*pending)
                pending = self._start_chunk(epoch, first, steps, batch_size)
        if pending is not None:
            yield _finish_chunk(*pending)

    def _start_chunk(self, epoch: int, first: int, steps: int, batch_size: int) -> tuple[StepChunk, list[Future[None]]]:
        """Allocate a chunk and begin to fill it; return it with the futures that fill it."""
        pinned = self._device.type == "cuda"
        fields = VIEW_FIELDS[self.jobs[0].training.augmentation]

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(*shape, dtype=dtype, pin_memory=pinned)

        demands = self._get_step(batch_size).demands
        chunk = StepChunk(
            epoch,
            first,
            empty(len(self.jobs), steps, batch_size, dtype=torch.int64),
            empty(len(self.jobs), steps, fields, batch_size),
            [empty(group.num_models, steps, d.num_uniforms) for group, d in demands],
            [empty(group.num_models, steps, d.num_normals) for group, d in demands],
        )
        futures = [
            self._pool.submit(self._fill, chunk, number, place)
            for number, (group, _) in enumerate(demands)
            for place in range(group.num_models)
        ]
        return chunk, futures

    def _fill(self, chunk: StepChunk, number: int, place: int) -> None:
        """Draw the random numbers of one model, at a place of a group, for a chunk."""
        steps, batch_size = chunk.index.shape[1:]
        group, demand = self._get_step(batch_size).demands[number]
        model = group.models.start + place
        job = self.jobs[model]
        stream = self._streams[model]
        if stream is None or chunk.first == 0:
            stream = self._streams[model] = RandomStream(job, chunk.epoch, len(self._labels))
        begin = chunk.first * job.training.batch_size
        chunk.index[model] = stream.order[begin : begin + steps * batch_size].view(steps, batch_size)
        if chunk.views.shape[2]:
            stream.fill_views(chunk.views[model], job.training.augmentation)
        if demand.num_uniforms:
            stream.fill_uniform(chunk.uniform[number][place])
        if demand.num_normals:
            stream.fill_normal(chunk.normal[number][place], demand.normal)

    def _run_chunk(self, chunk: StepChunk, batch_size: int) -> None:
        """Run all steps of a chunk."""
        step, device = self._get_step(batch_size), self._device
        index = chunk.index.to(device, non_blocking=True)
        pixels = self._augment(index, chunk.views.to(device, non_blocking=True))
        labels = self._labels[index]
        uniform, normal = ([t.to(device, non_blocking=True) for t in ts] for ts in (chunk.uniform, chunk.normal))
        first = (chunk.epoch - 1) * -(-len(self._labels) // self.jobs[0].training.batch_size) + chunk.first
        rates = tabulate_rates(self._trainings, self._schedules, first, chunk.steps)
        rates = (rates.pin_memory() if device.type == "cuda" else rates).to(device, non_blocking=True)
        for k in range(chunk.steps):
            self._rates.copy_(rates[k])
            step.pixels.copy_(pixels[:, k])
            step.labels.copy_(labels[:, k])
            for buffer, numbers in zip((*step.uniform, *step.normal), (*uniform, *normal), strict=True):
                buffer.copy_(numbers[:, k])
            step.run()

    def _augment(self, index: Tensor, views: Tensor) -> Tensor:
        """Return the images (M, K, B, ...) uint8 of a chunk with their augmentation; views (M, K, F, B)."""
        augmentation, pixels = self.jobs[0].training.augmentation, self._images.pixels["train"][index]
        if augmentation == "none":
            return pixels
        fields, flat = views.movedim(2, 0).flatten(1), pixels.flatten(0, 2)  # (F, M * K * B)
        if augmentation == "crop-flip":
            row, column, flip = fields
            return crop_flip(flat, CropFlip(row.long(), column.long(), flip.bool())).view_as(pixels)
        flip, angle = fields
        return flip_rotate(flat, FlipRotate(flip.bool(), angle)).view_as(pixels)

    def run_step(self, step: "_StepBuffers") -> None:
        """Run forward, backward and optimizer of all models on the buffers of a step."""
        for number, group in enumerate(self.groups):
            with self._branches.branch(number), torch.autocast("cuda", torch.bfloat16, self._uses_autocast, False):
                self._differentiate(step, number, group)
        self._branches.join()
        self._optimizer.step(self._gradients, self._rates)

    @property
    def _uses_autocast(self) -> bool:
        return self.stack.channels_last and self._device.type == "cuda"

    def _differentiate(self, step: "_StepBuffers", number: int, group: StackedModels) -> None:
        """Compute the gradients of one group, and add its loss and correct predictions to the sums."""
        models = group.models
        leaves = [p.detach().requires_grad_() for p in self.stack.parameters(models)]
        buffers = [buffer[models] for buffer in self.stack.buffers.values()]
        x = self._images.images.normalize(step.pixels[models].flatten(0, 1))
        if self.stack.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x = x.unflatten(0, (group.num_models, step.batch_size))
        objective, loss, correct = group.compute_objective(
            leaves, buffers, x, step.labels[models], step.uniform[number], step.normal[number], self._penalty
        )
        gradients = torch.autograd.grad(objective.sum(), leaves)
        self._gradients[models] = self.stack.flatten(list(gradients))
        self._loss[models] += loss.detach().double() * step.batch_size
        self._correct[models] += correct

    @property
    def state_tensors(self) -> list[Tensor]:
        """All tensors that outlive a step."""
        moments = self._optimizer.first_moment, self._optimizer.second_moment
        return [self.stack.trained, *moments, *self.stack.buffers.values(), self._loss, self._correct]


class _StepBuffers:
    """The input tensors of a step of B images, and the step itself."""

    def __init__(self, trainer: StackedTrainer, batch_size: int) -> None:
        images, num_models = trainer._images, len(trainer.jobs)
        device, shape = trainer._device, images.images.input_shape
        known: dict[tuple[str, float], RandomDemand] = {}
        self.batch_size = batch_size
        self.demands: list[tuple[StackedModels, RandomDemand]] = []
        for group in trainer.groups:
            training = trainer.jobs[group.models.start].training
            kind = training.activation, training.dropout
            if kind not in known:
                known[kind] = measure_demand(group.module, (batch_size, *shape))
            self.demands.append((group, known[kind]))
        self.pixels = torch.zeros(num_models, batch_size, *shape, dtype=torch.uint8, device=device)
        self.labels = torch.zeros(num_models, batch_size, dtype=torch.int64, device=device)
        self.uniform = [torch.zeros(group.num_models, d.num_uniforms, device=device) for group, d in self.demands]
        self.normal = [torch.zeros(group.num_models, d.num_normals, device=device) for group, d in self.demands]
        self.run = GraphedStep(lambda: trainer.run_step(self), trainer._graph_pool, trainer.state_tensors)


def _finish_chunk(chunk: StepChunk, futures: Sequence[Future[None]]) -> StepChunk:
    for future in futures:
        future.result()
    return chunk
