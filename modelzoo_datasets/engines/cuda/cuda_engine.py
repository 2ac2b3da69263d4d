"""The engine of one GPU: many models at once, with the semantics of the reference engine.

Chains are trained by a kernel, a whole model per thread block (`block_training`); everything else with stacked weights
(`training`), large networks one by one beside each other. Metrics are measured in float32 with stacked weights.

What has run on a GPU: nothing yet, so no figure of speed is known. On the CPU the same code is tested against the
reference engine, all but CUDA graphs, streams, pinned memory, bf16 and the call of CuPy. The kernel is compiled by nvcc
and NVRTC; its arithmetic, and with ThreadSanitizer its barriers, are tested in CPU builds of the same source. Of twins
the noise is drawn on the host, which will be what they wait for.

    M models, P numbers of a model, E epochs
"""

import logging
from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from ...architectures import get_architecture
from ...errors import DeviceError, NoCompilerError, NoKernelError
from ...images import Images
from ...weights import Layout
from ..base import Job, NetworkSpec, SplitMetrics, States
from .block_trainer import BlockTrainer, CohortTrainer
from .cohort_plan import cohort_size, free_bytes, groups, module_of, runs
from .compile import Compile, compiled_by_cupy
from .evaluate import DeviceImages, logits_of, measure
from .graphs import computing
from .recorder import StateRecorder, started
from .rng import demand
from .stacked import Population, Stack, is_alone
from .stacked_trainer import Trainer

_LOG = logging.getLogger(__name__)
_ALONE_AT_ONCE = 4  # networks that are called one by one, each in a stream of its own; not measured yet
_COPIES = 8  # of the weights in a step: themselves, optimizer, gradients and what is worked out between
_HELD = 4  # numbers of memory per number that a layer gives: it, its gradient, and what convolutions want


class CudaEngine:
    """Trains on `device`; on a device of type cpu it does the same, slowly, so that it can be tested there."""

    name = "cuda"

    def __init__(
        self, device: torch.device | None = None, num_threads: int = 1, compile: Compile | None = None
    ) -> None:
        """On `num_threads` cores of the host random numbers are drawn.

        Args:
            device: the first GPU, if not said.
            num_threads: of the host.
            compile: makes the kernel of a chain; if not said CuPy does on a GPU, and on the CPU there is none.

        Raises:
            DeviceError: no device was given and there is no GPU, or the one given is not there.
        """
        self.device = torch.device("cuda") if device is None else device
        self.num_threads = num_threads
        self._compile = compiled_by_cupy if compile is None and self.device.type == "cuda" else compile
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise DeviceError("engine 'cuda': torch sees no CUDA GPU here; use --engine native or torch")

    def resolve(self, architecture: str) -> "CudaEngine":
        """See `Engine.resolve`: what the kernel cannot do is done here too."""
        return self

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """See `Engine.estimate_memory`: that of the device, for the largest cohort there may be."""
        resident = DeviceImages.of(images, set(), self.device)
        needed = 0
        for members in groups(architecture, jobs):
            some = [jobs[index] for index in members]
            size = self._cohort_size(architecture, resident, some)
            needed = max(needed, size * _bytes_of_one(architecture, images, some))
        return needed

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """See `Engine.train`; yields the states of a whole cohort at a time."""
        resident = DeviceImages.of(images, {"train", *metrics_on}, self.device)
        for members in groups(architecture, jobs):
            size = self._cohort_size(architecture, resident, [jobs[index] for index in members])
            for first in range(0, len(members), size):
                cohort = members[first : first + size]
                yield from self._cohort(architecture, resident, jobs, cohort, metrics_on)

    def evaluate(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> SplitMetrics:
        """See `Engine.evaluate`."""
        loss, accuracy = torch.empty(2, len(networks), dtype=torch.float64)
        recall = torch.empty(len(networks), images.classes, dtype=torch.float64)
        resident = DeviceImages.of(images, {split}, self.device)
        for index, populations, stack, activations in self._loaded(architecture, images, weights, networks):
            with computing(self.device):
                found = measure(populations, stack, resident, split, activations)
            loss[index], accuracy[index], recall[index] = found.loss, found.accuracy, found.recall
        return SplitMetrics(loss, accuracy, recall)

    def compute_logits(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Engine.compute_logits`."""
        resident = DeviceImages.of(images, {split}, self.device)
        for index, populations, stack, activations in self._loaded(architecture, images, weights, networks):
            for population in populations:
                with torch.no_grad(), computing(self.device):
                    parts = [z.cpu() for *_, z in logits_of([population], stack, resident, split, activations)]
                yield from zip(index[population.models], torch.cat(parts, dim=1), strict=True)

    def _loaded(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec]
    ) -> Iterator[tuple[list[int], list[Population], Stack, int]]:
        """(indices, networks, weights on the device, activations of an image) of as many models as fit at once."""
        order = sorted(range(len(networks)), key=lambda index: (networks[index].activation, networks[index].dropout))
        found = get_architecture(architecture)
        for run in runs([networks[index] for index in order]):
            network = networks[order[run.start]]
            module = found.module(network.activation, network.dropout)
            held = demand(module, (1, *images.input_shape)).activations
            alone, size = is_alone(module, images.input_shape), 1
            if not alone:
                size = cohort_size(free_bytes(self.device), 0, 8 * weights.shape[1] + 4 * held, run.stop - run.start)
            for first in range(run.start, run.stop, size):
                index = order[first : min(first + size, run.stop)]
                stack = Stack.of(Layout.from_module(module), weights[index], self.device)
                yield index, [Population(module.to(self.device), slice(0, len(index)))], stack, held

    def _cohort_size(self, architecture: str, resident: DeviceImages, jobs: Sequence[Job]) -> int:
        """How many of these jobs, all of one group, are trained at once."""
        alone = is_alone(module_of(architecture, jobs[0]), resident.images.input_shape)
        most = min(len(jobs), _ALONE_AT_ONCE) if alone else len(jobs)
        return cohort_size(
            free_bytes(self.device), resident.size, _bytes_of_one(architecture, resident.images, jobs), most
        )

    def _cohort(
        self,
        architecture: str,
        resident: DeviceImages,
        jobs: Sequence[Job],
        members: list[int],
        metrics_on: Sequence[str],
    ) -> Iterator[States]:
        """The states of some jobs, epoch by epoch."""
        own = [jobs[index] for index in members]
        begin = torch.stack([started(architecture, job) for job in own])
        trainer = self._trainer(architecture, resident, own, begin)
        measuring = StateRecorder(architecture, resident, own, metrics_on)
        try:
            for epoch in range(own[0].training.epochs + 1):
                with computing(self.device):
                    running = trainer.epoch(epoch) if epoch > 0 else None
                    yielded = measuring.states(torch.tensor(members), epoch, trainer.vectors(), running)
                yield yielded
        finally:
            trainer.close()

    def _trainer(self, architecture: str, resident: DeviceImages, jobs: Sequence[Job], begin: Tensor) -> CohortTrainer:
        """The kernel where it can be had; else stacked weights, and one line that says why."""
        if self._compile is not None:
            try:
                with computing(self.device):
                    return BlockTrainer(architecture, resident, jobs, begin, self.num_threads, self._compile)
            except NoKernelError as error:
                level = logging.WARNING if isinstance(error, NoCompilerError) else logging.INFO
                _LOG.log(level, "engine 'cuda': no kernel for %s, weights are stacked instead: %s", architecture, error)
        return Trainer(architecture, resident, jobs, begin, self.num_threads)


def _bytes_of_one(architecture: str, images: Images, jobs: Sequence[Job]) -> int:
    """Device memory that one model of these jobs, all of one group, takes in a step; of the widest of them."""
    batch = min(jobs[0].training.batch_size, len(images.labels("train")))
    most = 0
    for job in {job.training.dropout: job for job in jobs}.values():
        module = module_of(architecture, job)
        needed = demand(module, (batch, *images.input_shape))
        numbers = (
            _COPIES * Layout.from_module(module).size + _HELD * needed.activations + needed.uniforms + needed.normals
        )
        most = max(most, 4 * (numbers + len(images.labels("train"))))  # and the order of the images
    return most
