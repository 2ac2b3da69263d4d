"""The engine of one GPU: many models at once, with the semantics of the reference engine.

A kernel trains chains, a whole model per thread block (`block_trainer`). All other networks are trained with stacked
weights (`stacked_trainer`); large ones run one by one, beside each other. Metrics are computed in float32.

Nothing has run on a GPU yet, so no speed is known. On the CPU the same code is tested against the reference engine,
except for CUDA graphs, streams, pinned memory, bf16 and the calls of CuPy. nvcc and NVRTC compile the kernel; its
arithmetic and, with ThreadSanitizer, its barriers are tested in CPU builds of the same source. The noise of twins is
drawn on the host, which will be their bottleneck.

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
from ..common import build_initial_module, collect_metrics, pack_state
from .block_kernel import CompileKernel, compile_with_cupy
from .block_trainer import BlockTrainer, CohortTrainer
from .device import choose_cohort_size, device_context, free_memory
from .evaluate import CohortEvaluator, DeviceImages, StateRecorder
from .optimizers import find_runs
from .rng import measure_demand
from .stacked import StackedModels, StackedWeights, build_training_module, group_jobs, is_unbatched
from .stacked_trainer import StackedTrainer

_LOG = logging.getLogger(__name__)
_MAX_UNBATCHED = 4  # networks that are called one by one, each in its own stream; not measured yet
_WEIGHT_COPIES = 8  # in a step: weights, optimizer state, gradients and intermediate results
_ACTIVATION_COPIES = 4  # per output of a layer: itself, its gradient, and the workspace of convolutions


class CudaEngine:
    """The engine of one GPU. On a device of type cpu it does the same, slowly, so that it can be tested there.

    Example:
        >>> CudaEngine(torch.device("cpu")).resolve("resnet18").name
        'cuda'
    """

    name = "cuda"

    def __init__(
        self,
        device: torch.device | None = None,
        num_threads: int = 1,
        compile_kernel: CompileKernel | None = None,
    ) -> None:
        """Choose the device.

        Args:
            device: Device to train on; by default the first GPU.
            num_threads: Threads of the host that draw random numbers.
            compile_kernel: Compiles the kernel of a chain; by default CuPy on a GPU, and no kernel on the CPU.

        Raises:
            DeviceError: torch sees no GPU.
        """
        self.device = torch.device("cuda") if device is None else device
        self.num_threads = num_threads
        is_gpu = self.device.type == "cuda"
        self._compile_kernel = compile_with_cupy if compile_kernel is None and is_gpu else compile_kernel
        if is_gpu and not torch.cuda.is_available():
            raise DeviceError("engine 'cuda': torch sees no CUDA GPU here; use --engine native or torch")

    def resolve(self, architecture: str) -> "CudaEngine":
        """See `Engine.resolve`; this engine trains any network."""
        return self

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """See `Engine.estimate_memory`: memory of the device for the largest cohort."""
        device_images = DeviceImages.from_images(images, set(), self.device)
        needed = 0
        for members in group_jobs(architecture, jobs):
            group = [jobs[index] for index in members]
            size = self._cohort_size(architecture, device_images, group)
            needed = max(needed, size * _model_bytes(architecture, images, group))
        return needed

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """See `Engine.train`; yields the states of a whole cohort at a time."""
        device_images = DeviceImages.from_images(images, {"train", *metrics_on}, self.device)
        for members in group_jobs(architecture, jobs):
            size = self._cohort_size(architecture, device_images, [jobs[index] for index in members])
            for first in range(0, len(members), size):
                cohort = members[first : first + size]
                yield from self._train_cohort(architecture, device_images, jobs, cohort, metrics_on)

    def evaluate(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> SplitMetrics:
        """See `Engine.evaluate`."""
        device_images = DeviceImages.from_images(images, {split}, self.device)

        def evaluate_groups() -> Iterator[tuple[list[int], tuple[Tensor, Tensor, Tensor]]]:
            for index, evaluator, stack in self._load(architecture, device_images, weights, networks):
                with device_context(self.device):
                    result = evaluator.evaluate(stack, split)
                yield index, result

        return collect_metrics(evaluate_groups(), len(networks), images.classes)

    def compute_logits(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Engine.compute_logits`."""
        device_images = DeviceImages.from_images(images, {split}, self.device)
        for index, evaluator, stack in self._load(architecture, device_images, weights, networks):
            with torch.no_grad(), device_context(self.device):
                parts = [logits.cpu() for *_, logits in evaluator.iterate_logits(stack, split)]
            yield from zip(index, torch.cat(parts, dim=1), strict=True)

    def _load(
        self, architecture: str, images: DeviceImages, weights: Tensor, networks: Sequence[NetworkSpec]
    ) -> Iterator[tuple[list[int], CohortEvaluator, StackedWeights]]:
        """Yield indices, evaluator and weights of as many equal networks as fit at once."""
        order = sorted(range(len(networks)), key=lambda index: (networks[index].activation, networks[index].dropout))
        registered, shape = get_architecture(architecture), images.images.input_shape
        for run in find_runs([networks[index] for index in order]):
            network = networks[order[run.start]]
            module = registered.module(network.activation, network.dropout)
            num_activations = measure_demand(module, (1, *shape)).num_activations
            size = 1
            if not is_unbatched(module, shape):
                model_bytes = 8 * weights.shape[1] + 4 * num_activations
                size = choose_cohort_size(free_memory(self.device), 0, model_bytes, run.stop - run.start)
            for first in range(run.start, run.stop, size):
                index = order[first : min(first + size, run.stop)]
                stack = StackedWeights.from_vectors(Layout.from_module(module), weights[index], self.device)
                models = StackedModels(module.to(self.device), slice(0, len(index)))
                yield index, CohortEvaluator([models], images, num_activations), stack

    def _cohort_size(self, architecture: str, images: DeviceImages, jobs: Sequence[Job]) -> int:
        """Return how many of these jobs, all of one group, are trained at once."""
        unbatched = is_unbatched(build_training_module(architecture, jobs[0]), images.images.input_shape)
        num_models = min(len(jobs), _MAX_UNBATCHED) if unbatched else len(jobs)
        model_bytes = _model_bytes(architecture, images.images, jobs)
        return choose_cohort_size(free_memory(self.device), images.num_bytes, model_bytes, num_models)

    def _train_cohort(
        self,
        architecture: str,
        images: DeviceImages,
        jobs: Sequence[Job],
        members: list[int],
        metrics_on: Sequence[str],
    ) -> Iterator[States]:
        """Yield the states of some jobs, epoch by epoch."""
        cohort = [jobs[index] for index in members]
        initial = torch.stack([pack_state(build_initial_module(architecture, job)) for job in cohort])
        trainer = self._make_trainer(architecture, images, cohort, initial)
        recorder = StateRecorder(architecture, images, cohort, metrics_on)
        try:
            for epoch in range(cohort[0].training.epochs + 1):
                with device_context(self.device):
                    running = trainer.train_epoch(epoch) if epoch > 0 else None
                    states = recorder.record(torch.tensor(members), epoch, trainer.vectors(), running)
                yield states
        finally:
            trainer.close()

    def _make_trainer(
        self, architecture: str, images: DeviceImages, jobs: Sequence[Job], vectors: Tensor
    ) -> CohortTrainer:
        """Return the kernel's trainer if there is one; otherwise that of stacked weights, and log why."""
        if self._compile_kernel is not None:
            try:
                with device_context(self.device):
                    return BlockTrainer(architecture, images, jobs, vectors, self.num_threads, self._compile_kernel)
            except NoKernelError as error:
                line = "engine 'cuda' trains %s with stacked weights, without its kernel: %s"
                level = logging.WARNING if isinstance(error, NoCompilerError) else logging.INFO
                _LOG.log(level, line, architecture, error)
        return StackedTrainer(architecture, images, jobs, vectors, self.num_threads)


def _model_bytes(architecture: str, images: Images, jobs: Sequence[Job]) -> int:
    """Return the device memory that one model of these jobs, all of one group, takes in a step, at most."""
    batch_size = min(jobs[0].training.batch_size, len(images.labels("train")))
    largest = 0
    for job in {job.training.dropout: job for job in jobs}.values():
        module = build_training_module(architecture, job)
        demand = measure_demand(module, (batch_size, *images.input_shape))
        numbers = _WEIGHT_COPIES * Layout.from_module(module).size + _ACTIVATION_COPIES * demand.num_activations
        numbers += demand.num_uniforms + demand.num_normals + len(images.labels("train"))  # and the data order
        largest = max(largest, 4 * numbers)
    return largest
