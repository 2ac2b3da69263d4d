"""Epochs of a cohort with stacked weights: what the host draws goes ahead of the steps, and no step is waited for.

M models, K steps of a chunk, B images of a step, D trained numbers of a model
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ...architectures import penalty_weight
from ...images import CropFlip, FlipRotate, crop_flip, flip_rotate
from ...weights import Layout
from ..base import Job
from .cohort_plan import module_of
from .evaluate import DeviceImages
from .graphs import Branches, Replay
from .optimizers import RATES, Optimizers, rates, schedules
from .rng import FIELDS, Chunk, RandomDemand, Stream, demand, parts
from .stacked import Population, Stack, called_together

_CHUNK_BYTES = 1 << 27  # of what is drawn ahead
_MOST_STEPS = 256  # of a chunk


class Trainer:
    """Trains the models of one cohort epoch by epoch; all that a step reads and writes stays in one place."""

    def __init__(
        self, architecture: str, resident: DeviceImages, jobs: Sequence[Job], vectors: Tensor, threads: int
    ) -> None:
        """Vectors (M, P): the weights to begin with, on the host, in the order of the layout of a job's module."""
        self.jobs, self._resident = jobs, resident
        self._trainings = [job.training for job in jobs]
        self._labels = resident.labels["train"]
        self._device = device = self._labels.device
        first = module_of(architecture, jobs[0])
        self.stack = Stack.of(Layout.from_module(first), vectors, device)
        kinds = [(t.activation, t.dropout) for t in self._trainings]
        slices = called_together(first, kinds, resident.images.input_shape)
        modules = [module_of(architecture, jobs[s.start]).to(device) for s in slices]
        self._populations = [Population(m, s, sparsify=jobs[0].sparsify) for m, s in zip(modules, slices, strict=True)]
        self._optimizers = Optimizers(self._trainings, self.stack.trained)
        self._plans = schedules(self._trainings, len(self._labels))
        self._gradients = torch.zeros_like(self.stack.trained)
        self._branches = Branches(device, len(slices))
        self._table = torch.zeros(len(jobs), RATES, device=device)
        self._penalty = torch.zeros((), device=device)
        self._loss = torch.zeros(len(jobs), dtype=torch.float64, device=device)
        self._correct = torch.zeros(len(jobs), dtype=torch.int64, device=device)
        self._steps: dict[int, _Step] = {}
        self._pool = ThreadPoolExecutor(threads)
        self._streams: list[Stream | None] = [None] * len(jobs)
        self._chunks = self._drawn()

    def close(self) -> None:
        """End the threads that draw."""
        self._pool.shutdown(cancel_futures=True)

    def epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Train for the next epoch, counted from 1; mean loss and accuracy over it, (M,) float64 each, on the host."""
        job = self.jobs[0]
        self._penalty.fill_(penalty_weight(epoch, job.training.epochs) if job.sparsify else 0.0)
        self._loss.zero_()
        self._correct.zero_()
        images = len(self._labels)
        for first, steps, batch in self._parts():
            chunk = next(self._chunks)
            assert (chunk.epoch, chunk.first, chunk.steps) == (epoch, first, steps)
            self._run(chunk, batch)
        return self._loss.cpu() / images, self._correct.cpu().double() / images

    def vectors(self) -> Tensor:
        """The weights as they are now, (M, P) on the host."""
        return self.stack.vectors().cpu()

    def _step(self, batch: int) -> "_Step":
        """The step for that many images."""
        if batch not in self._steps:
            self._steps[batch] = _Step(self, batch)
        return self._steps[batch]

    def _parts(self) -> Iterator[tuple[int, int, int]]:
        """Chunks of an epoch, no more drawn ahead than there is room for."""
        batch = min(self.jobs[0].training.batch_size, len(self._labels))
        needed = 4 * sum(p.count * (d.uniforms + d.normals) for p, d in self._step(batch).demands)
        needed += len(self.jobs) * batch * self._resident.pixels["train"][0].numel()
        return parts(len(self._labels), batch, max(1, min(_MOST_STEPS, _CHUNK_BYTES // needed)))

    def _drawn(self) -> Iterator[Chunk]:
        """All chunks of all epochs; while one is used, the next is being drawn."""
        waiting: tuple[Chunk, list[Future[None]]] | None = None
        for epoch in range(1, self.jobs[0].training.epochs + 1):
            for first, steps, batch in self._parts():
                if waiting is not None:  # a stream must not be drawn from by two threads at once
                    yield _finished(*waiting)
                waiting = self._begun(epoch, first, steps, batch)
        if waiting is not None:
            yield _finished(*waiting)

    def _begun(self, epoch: int, first: int, steps: int, batch: int) -> tuple[Chunk, list[Future[None]]]:
        """A chunk that is being filled, and by what."""
        pinned = self._device.type == "cuda"
        fields = FIELDS[self.jobs[0].training.augmentation]

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(*shape, dtype=dtype, pin_memory=pinned)

        demands = self._step(batch).demands
        chunk = Chunk(
            epoch,
            first,
            empty(len(self.jobs), steps, batch, dtype=torch.int64),
            empty(len(self.jobs), steps, fields, batch),
            [empty(p.count, steps, d.uniforms) for p, d in demands],
            [empty(p.count, steps, d.normals) for p, d in demands],
        )
        work = [
            self._pool.submit(self._fill, chunk, which, place)
            for which, (p, _) in enumerate(demands)
            for place in range(p.count)
        ]
        return chunk, work

    def _fill(self, chunk: Chunk, which: int, place: int) -> None:
        """Draw what one model needs in a chunk."""
        steps, batch = chunk.index.shape[1:]
        population, needed = self._step(batch).demands[which]
        model = population.models.start + place
        job = self.jobs[model]
        stream = self._streams[model]
        if stream is None or chunk.first == 0:
            stream = self._streams[model] = Stream(job, chunk.epoch, len(self._labels))
        begin = chunk.first * job.training.batch_size
        chunk.index[model] = stream.order[begin : begin + steps * batch].view(steps, batch)
        if chunk.views.shape[2]:
            stream.views(chunk.views[model], job.training.augmentation)
        if needed.uniforms:
            stream.uniform(chunk.uniform[which][place])
        if needed.normals:
            stream.normal(chunk.normal[which][place], needed.normal)

    def _run(self, chunk: Chunk, batch: int) -> None:
        """All steps of a chunk."""
        step, device = self._step(batch), self._device
        index = chunk.index.to(device, non_blocking=True)
        pixels = self._views(index, chunk.views.to(device, non_blocking=True))
        labels = self._labels[index]
        uniform, normal = ([t.to(device, non_blocking=True) for t in ts] for ts in (chunk.uniform, chunk.normal))
        done = (chunk.epoch - 1) * -(-len(self._labels) // self.jobs[0].training.batch_size) + chunk.first
        table = rates(self._trainings, self._plans, done, chunk.steps)
        table = (table.pin_memory() if device.type == "cuda" else table).to(device, non_blocking=True)
        for k in range(chunk.steps):
            self._table.copy_(table[k])
            step.pixels.copy_(pixels[:, k])
            step.labels.copy_(labels[:, k])
            for here, drawn in zip((*step.uniform, *step.normal), (*uniform, *normal), strict=True):
                here.copy_(drawn[:, k])
            step.replay()

    def _views(self, index: Tensor, drawn: Tensor) -> Tensor:
        """The images (M, K, B, ...) uint8 of a chunk as they are in this epoch; index (M, K, B), drawn (M, K, F, B)."""
        kind, pixels = self.jobs[0].training.augmentation, self._resident.pixels["train"][index]
        if kind == "none":
            return pixels
        fields, flat = drawn.movedim(2, 0).flatten(1), pixels.flatten(0, 2)  # (F, M * K * B)
        if kind == "crop-flip":
            top, left, flip = fields
            return crop_flip(flat, CropFlip(top.long(), left.long(), flip.bool())).view_as(pixels)
        flip, angle = fields
        return flip_rotate(flat, FlipRotate(flip.bool(), angle)).view_as(pixels)

    def one_step(self, step: "_Step") -> None:
        """Forward, backward and optimizer of all models on what lies in the step's tensors."""
        for number, population in enumerate(self._populations):
            with self._branches.branch(number), torch.autocast("cuda", torch.bfloat16, self._autocast, False):
                self._differentiate(step, number, population)
        self._branches.join()
        self._optimizers.step(self._gradients, self._table)

    @property
    def _autocast(self) -> bool:
        return self.stack.channels_last and self._device.type == "cuda"

    def _differentiate(self, step: "_Step", number: int, population: Population) -> None:
        """Gradients of one population into their place, its loss and right answers onto the sums."""
        models = population.models
        leaves = [p.detach().requires_grad_() for p in self.stack.parameters(models)]
        buffers = [buffer[models] for buffer in self.stack.buffers.values()]
        x = self._resident.images.normalize(step.pixels[models].flatten(0, 1))
        if self.stack.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x = x.unflatten(0, (population.count, step.batch))
        objective, loss, correct = population.minimised(
            leaves, buffers, x, step.labels[models], step.uniform[number], step.normal[number], self._penalty
        )
        gradients = torch.autograd.grad(objective.sum(), leaves)
        self._gradients[models] = self.stack.flattened(list(gradients))
        self._loss[models] += loss.detach().double() * step.batch
        self._correct[models] += correct

    @property
    def changed(self) -> list[Tensor]:
        """All that a step leaves behind."""
        optimizers, buffers = self._optimizers, self.stack.buffers.values()
        return [self.stack.trained, optimizers.first, optimizers.second, *buffers, self._loss, self._correct]

    @property
    def populations(self) -> list[Population]:
        """Equal networks of the cohort, in order."""
        return self._populations


class _Step:
    """Where the inputs of a step of B images lie, and the step itself."""

    def __init__(self, trainer: Trainer, batch: int) -> None:
        resident, models = trainer._resident, len(trainer.jobs)
        device, shape = trainer._device, resident.images.input_shape
        known: dict[tuple[str, float], RandomDemand] = {}
        self.batch = batch
        self.demands: list[tuple[Population, RandomDemand]] = []
        for p in trainer.populations:
            training = trainer.jobs[p.models.start].training
            kind = training.activation, training.dropout
            if kind not in known:
                known[kind] = demand(p.module, (batch, *shape))
            self.demands.append((p, known[kind]))
        self.pixels = torch.zeros(models, batch, *shape, dtype=torch.uint8, device=device)
        self.labels = torch.zeros(models, batch, dtype=torch.int64, device=device)
        self.uniform = [torch.zeros(p.count, d.uniforms, device=device) for p, d in self.demands]
        self.normal = [torch.zeros(p.count, d.normals, device=device) for p, d in self.demands]
        self.replay = Replay(lambda: trainer.one_step(self), device, trainer.changed)


def _finished(chunk: Chunk, work: Sequence[Future[None]]) -> Chunk:
    for future in work:
        future.result()
    return chunk
