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
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from ..._util import versions
from ...architectures import get_architecture
from ...errors import DeviceError, NoCompilerError, NoKernelError, NotAChainError
from ...images import Images
from ...weights import Layout
from ..base import Job, NetworkSpec, SplitMetrics, States
from ..chain import get_chain
from ..common import build_initial_module, collect_metrics, pack_state
from .block_kernel import Block, CompileKernel
from .block_trainer import BlockTrainer, CohortTrainer
from .device import device_context
from .evaluate import CohortEvaluator, DeviceImages, StateRecorder
from .kernel_compiler import check_launch, compile_with_cupy, find_compiler_versions
from .memory import choose_cohort_size, estimate_model_bytes, free_memory, is_out_of_memory, release_memory
from .optimizers import find_runs
from .rng import measure_demand
from .stacked import StackedModels, StackedWeights, build_training_module, group_jobs, is_unbatched
from .stacked_trainer import StackedTrainer

_LOG = logging.getLogger(__name__)
_MAX_UNBATCHED = 4  # networks that are called one by one, each in its own stream; not measured yet
_USUAL_BATCH_SIZE = 10  # in the published recipes
EvaluateStack = Callable[[CohortEvaluator, StackedWeights], Any]


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
        memory_share: float = 1.0,
    ) -> None:
        """Choose the device.

        Args:
            device: Device to train on; by default the current GPU of torch, which is the first one.
            num_threads: Threads of the host that draw random numbers.
            compile_kernel: Compiles the kernel of a chain; by default CuPy on a GPU, and no kernel on the CPU.
            memory_share: Share of the memory of the GPU that belongs to this process.

        Raises:
            DeviceError: torch sees no GPU.
        """
        device = torch.device("cuda") if device is None else device
        if device.type == "cuda":
            if not torch.cuda.is_available():
                raise DeviceError("engine 'cuda': torch sees no CUDA GPU here; use --engine native or torch")
            index = torch.cuda.current_device() if device.index is None else device.index
            device = torch.device("cuda", index)
            compile_kernel = compile_kernel or partial(compile_with_cupy, device_index=index)
        self.device, self.num_threads, self.memory_share = device, num_threads, memory_share
        self._compile_kernel = compile_kernel

    def resolve(self, architecture: str) -> "CudaEngine":
        """See `Engine.resolve`; this engine trains any network."""
        return self

    def environment(self, architecture: str) -> dict[str, str]:
        """See `Engine.environment`: also the GPU and the path, and what compiled the kernel if there is one."""
        major_minor = torch.cuda.get_device_capability(self.device) if self.device.type == "cuda" else ()
        gpu = {"gpu": f"sm_{''.join(map(str, major_minor))}"} if major_minor else {}
        if not self._has_kernel(architecture):
            return {**versions(), **gpu, "path": "stacked"}
        compiler = find_compiler_versions() if self.device.type == "cuda" else {}
        return {**versions(), **gpu, **compiler, "path": "kernel"}

    def _has_kernel(self, architecture: str) -> bool:
        """Return whether the kernel trains this architecture, apart from twins and augmentation."""
        if self._compile_kernel is None:
            return False
        try:
            block = Block.from_stages(get_chain(architecture, "relu", 0.0), _USUAL_BATCH_SIZE)
            with device_context(self.device):
                check_launch(self._compile_kernel(block), block, self.device)
        except (NoKernelError, NotAChainError):
            return False
        return True

    def estimate_memory(self, architecture: str, images: Images, jobs: Sequence[Job]) -> int:
        """See `Engine.estimate_memory`: memory of the device for the largest cohort."""
        resident = sum(split.pixels.numel() + 8 * len(split) for split in images.splits.values())
        needed = 0
        for members in group_jobs(architecture, jobs):
            group = [jobs[index] for index in members]
            size = self._cohort_size(architecture, images, group, image_bytes=resident)
            needed = max(needed, size * estimate_model_bytes(architecture, images, group))
        return needed

    def train(
        self, architecture: str, images: Images, jobs: Sequence[Job], *, metrics_on: Sequence[str]
    ) -> Generator[States]:
        """See `Engine.train`; yields the states of a whole cohort at a time.

        A cohort for which the memory is too little is halved, and its halves are trained from the start.

        Raises:
            DeviceError: The memory of the device is too little for one model.
        """
        device_images = self._load_images(images, {"train", *metrics_on})
        for members in group_jobs(architecture, jobs):
            size = self._cohort_size(architecture, images, [jobs[index] for index in members])
            for first in range(0, len(members), size):
                cohort = members[first : first + size]
                yield from self._train_halving(architecture, device_images, jobs, cohort, metrics_on)

    def evaluate(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> SplitMetrics:
        """See `Engine.evaluate`."""

        def evaluate_stack(evaluator: CohortEvaluator, stack: StackedWeights) -> tuple[Tensor, Tensor, Tensor]:
            return evaluator.evaluate(stack, split)

        results = self._evaluate_all(architecture, images, weights, networks, split, evaluate_stack)
        return collect_metrics(results, len(networks), images.classes)

    def compute_logits(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Engine.compute_logits`."""

        def compute_stack(evaluator: CohortEvaluator, stack: StackedWeights) -> Tensor:
            return torch.cat([logits.cpu() for *_, logits in evaluator.iterate_logits(stack, split)], dim=1)

        for index, logits in self._evaluate_all(architecture, images, weights, networks, split, compute_stack):
            yield from zip(index, logits, strict=True)

    def _evaluate_all(
        self,
        architecture: str,
        images: Images,
        weights: Tensor,
        networks: Sequence[NetworkSpec],
        split: str,
        evaluate_stack: EvaluateStack,
    ) -> Iterator[tuple[list[int], Any]]:
        """Yield indices and result of as many equal networks as fit at once."""
        device_images = self._load_images(images, {split})
        order = sorted(range(len(networks)), key=lambda index: (networks[index].activation, networks[index].dropout))
        for run in find_runs([networks[index] for index in order]):
            network = networks[order[run.start]]
            module = get_architecture(architecture).module(network.activation, network.dropout)
            num_activations = measure_demand(module, (1, *images.input_shape)).num_activations
            size = 1
            if not is_unbatched(module, images.input_shape):
                free, model_bytes = self._free_memory(), 8 * weights.shape[1] + 4 * num_activations
                size = choose_cohort_size(free, 0, model_bytes, run.stop - run.start)
            evaluate_part = partial(
                self._evaluate_part, module.to(self.device), num_activations, device_images, weights, evaluate_stack
            )
            for first in range(run.start, run.stop, size):
                index = order[first : min(first + size, run.stop)]
                yield from self._evaluate_halving(architecture, index, evaluate_part)

    def _evaluate_part(
        self,
        module: nn.Module,
        num_activations: int,
        images: DeviceImages,
        weights: Tensor,
        evaluate_stack: EvaluateStack,
        index: list[int],
    ) -> Any:
        """Return the result of equal networks, all at once."""
        with torch.no_grad(), device_context(self.device):
            stack = StackedWeights.from_vectors(Layout.from_module(module), weights[index], self.device)
            models = StackedModels(module, slice(0, len(index)))
            return evaluate_stack(CohortEvaluator([models], images, num_activations), stack)

    def _evaluate_halving(
        self, architecture: str, index: list[int], evaluate_part: Callable[[list[int]], Any]
    ) -> Iterator[tuple[list[int], Any]]:
        """Yield indices and result of equal networks; where the memory is too little, of each half of them."""
        result = None
        try:
            result = evaluate_part(index)
        except RuntimeError as error:
            self._check_divisible(error, architecture, len(index))
        if result is not None:
            yield index, result
            return
        release_memory(self.device)
        for part in _halve(index):
            yield from self._evaluate_halving(architecture, part, evaluate_part)

    def _load_images(self, images: Images, splits: set[str]) -> DeviceImages:
        """Copy splits to the device.

        Raises:
            DeviceError: They do not fit.
        """
        try:
            return DeviceImages.from_images(images, splits, self.device)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"engine 'cuda': the free memory of the device is too little for the images {images.name}; end other "
                "programs that use it, or use --engine native"
            ) from error

    def _free_memory(self) -> int:
        return free_memory(self.device, self.memory_share)

    def _cohort_size(self, architecture: str, images: Images, jobs: Sequence[Job], image_bytes: int = 0) -> int:
        """Return how many of these jobs, all of one group, are trained at once; images take no more `image_bytes`."""
        unbatched = is_unbatched(build_training_module(architecture, jobs[0]), images.input_shape)
        num_models = min(len(jobs), _MAX_UNBATCHED) if unbatched else len(jobs)
        model_bytes = estimate_model_bytes(architecture, images, jobs)
        return choose_cohort_size(self._free_memory(), image_bytes, model_bytes, num_models)

    def _train_halving(
        self,
        architecture: str,
        images: DeviceImages,
        jobs: Sequence[Job],
        members: list[int],
        metrics_on: Sequence[str],
        last_epoch: int = -1,
    ) -> Iterator[States]:
        """Yield the states of some jobs after `last_epoch`; where the memory is too little, those of each half."""
        stream = self._train_cohort(architecture, images, jobs, members, metrics_on)
        try:
            with closing(stream):
                # Most memory is taken by the end of epoch 1, so nothing is handed out before.
                started = list(islice(stream, 2))
                for states in chain(started, stream):
                    if (epoch := int(states.epochs[0])) > last_epoch:
                        last_epoch = epoch
                        yield states
            return
        except RuntimeError as error:
            self._check_divisible(error, architecture, len(members))
        release_memory(self.device)
        for part in _halve(members):
            yield from self._train_halving(architecture, images, jobs, part, metrics_on, last_epoch)

    def _check_divisible(self, error: RuntimeError, architecture: str, num_models: int) -> None:
        """Log that models are halved if an error is a lack of memory; raise any other one, and one of a single model.

        Raises:
            DeviceError: The memory is too little for one model.
        """
        if not is_out_of_memory(error):
            raise error
        if num_models == 1:
            raise DeviceError(
                f"engine 'cuda': the free memory of the device is too little for one model of {architecture}; end "
                "other programs that use it, take a smaller batch_size, or use --engine native"
            ) from error
        _LOG.info("engine 'cuda': too little memory for %d models of %s, halving", num_models, architecture)

    def _train_cohort(
        self,
        architecture: str,
        images: DeviceImages,
        jobs: Sequence[Job],
        members: list[int],
        metrics_on: Sequence[str],
    ) -> Generator[States]:
        """Yield the states of some jobs, epoch by epoch."""
        cohort = [jobs[index] for index in members]
        initial = torch.stack([pack_state(build_initial_module(architecture, job)) for job in cohort])
        trainer = self._make_trainer(architecture, images, cohort, initial)
        try:
            recorder = StateRecorder(architecture, images, cohort, metrics_on)
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


def _halve(members: list[int]) -> tuple[list[int], list[int]]:
    middle = -(-len(members) // 2)
    return members[:middle], members[middle:]
