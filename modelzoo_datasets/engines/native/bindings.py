"""Python bindings of a compiled network: models in training, evaluation, and gradients.

P weights of a model, N images, C classes.
"""

import ctypes
from dataclasses import dataclass, replace
from functools import lru_cache
from weakref import finalize

import torch
from torch import Tensor

from ...errors import CompilerError
from ...recipes import Training
from ...weights import Layout
from ..chain import Stage
from .compiler import (
    KERNEL,
    InstructionSet,
    compile_library,
    detect_instruction_set,
    input_pitches,
    kernel_text,
    network_source,
)

_ACTIVATIONS = {None: 0, "tanh": 1, "relu": 2, "sigmoid": 3, "gelu": 4}
_OPTIMIZERS = {"sgd": 0, "adam": 1, "adamw": 2}
_SLACK = 16  # floats after the last image that the kernel may read


class _StageOptions(ctypes.Structure):
    _fields_ = (("activations", ctypes.c_void_p), ("dropouts", ctypes.c_void_p))


class _Settings(ctypes.Structure):
    _fields_ = (
        ("options", _StageOptions),
        ("weight_offsets", ctypes.c_void_p),
        ("sigma_offsets", ctypes.c_void_p),
        ("optimizer", ctypes.c_int32),
        ("variational", ctypes.c_int32),
        ("weight_decay", ctypes.c_double),
    )


class _StepArrays(ctypes.Structure):
    _fields_ = (
        ("images", ctypes.c_void_p),
        ("labels", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("batch_size", ctypes.c_int64),
        ("lr", ctypes.c_void_p),
        ("momentum", ctypes.c_void_p),
        ("penalty_weight", ctypes.c_double),
    )


class _RunningSums(ctypes.Structure):
    _fields_ = (("loss", ctypes.c_double), ("correct", ctypes.c_int64))


@dataclass(frozen=True)
class KernelImages:
    """Normalized images in the memory order of the kernel: pixel by pixel, channels innermost, then some slack."""

    images: Tensor  # (N * H * W * C + slack,) float32
    labels: Tensor  # (N,) int64

    @classmethod
    def from_tensors(cls, inputs: Tensor, labels: Tensor) -> "KernelImages":
        """Copy inputs (N, C, H, W) float32 and labels (N,) int64 into the order of the kernel."""
        n, channels, height, width = inputs.shape
        flat = torch.zeros(inputs.numel() + _SLACK)
        flat[: inputs.numel()].view(n, height, width, channels).copy_(inputs.permute(0, 2, 3, 1))
        return cls(flat, labels.contiguous())

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class TrainingSteps:
    """Consecutive training steps; the last batch may be smaller."""

    order: Tensor  # (n,) int64, indices of images, batch by batch
    batch_size: int
    lr: Tensor  # (steps,) float64
    momentum: Tensor  # (steps,) float64; the first beta of Adam
    penalty_weight: float = 0.0  # for twins


@lru_cache
def load_library(stages: tuple[Stage, ...], target: InstructionSet) -> ctypes.CDLL:
    """Compile the network of these stages, unless it is in the cache, and load it.

    Raises:
        CompilerError: There is no compiler, it failed, or this system does not load the library.
    """
    source = network_source(stages, input_pitches(stages, target.widest))
    path = compile_library(source, kernel_text(), KERNEL, target)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # for example, no program may be run from the disk of the cache (noexec)
        advice = "set XDG_CACHE_HOME to another folder"
        raise CompilerError(f"the compiled kernel cannot be loaded: {error}; {advice}") from error
    library.zoo_open.restype = ctypes.c_void_p
    library.zoo_evaluate.restype = ctypes.c_double
    library.zoo_gradient.restype = ctypes.c_double
    library.zoo_bytes.restype = ctypes.c_int64
    return library


class CompiledNetwork:
    """The compiled kernel of some stages, with their activations, their dropout and the layout of their weights."""

    def __init__(self, stages: tuple[Stage, ...], layout: Layout, target: InstructionSet | None = None) -> None:
        """Compile or load the kernel.

        Args:
            stages: Stages of the network.
            layout: Layout of the module that the stages were read from, or of its variational form.
            target: Instruction set to compile for; by default that of this machine.

        Raises:
            CompilerError: There is no compiler, or it failed.
        """
        # One library serves all activations and any dropout.
        plain = tuple(replace(stage, activation=None, dropout=0.0, weight=stage.weight and "") for stage in stages)
        self.library = load_library(plain, target or detect_instruction_set())
        self.layout = layout
        self.classes = stages[-1].units
        self._activations = torch.tensor([_ACTIVATIONS[stage.activation] for stage in stages], dtype=torch.int32)
        self._dropouts = torch.tensor([stage.dropout for stage in stages])
        self._weight_offsets = self._offsets([(stage.weight, stage.bias) for stage in stages])
        self._sigma_offsets = self._offsets([_sigma_names(stage) for stage in stages])

    def _offsets(self, names: list[tuple[str | None, str | None]]) -> Tensor:
        """Return where weights and biases begin in a vector, (2 * stages,) int64; -1 for a missing one."""
        starts = {slot.name: slot.start for slot in self.layout.slots}
        return torch.tensor([starts.get(name, -1) if name else -1 for pair in names for name in pair])

    def _settings(self, optimizer: str = "sgd", weight_decay: float = 0.0, *, variational: bool = False) -> _Settings:
        return _Settings(
            _StageOptions(self._activations.data_ptr(), self._dropouts.data_ptr()),
            self._weight_offsets.data_ptr(),
            self._sigma_offsets.data_ptr(),
            _OPTIMIZERS[optimizer],
            variational,
            weight_decay,
        )

    def model_bytes(self, *, variational: bool = False) -> int:
        """Return about how many bytes one model in training takes."""
        return int(self.library.zoo_bytes(ctypes.c_int32(variational)))

    def evaluate(
        self, vector: Tensor, images: KernelImages, classes: int, logits: Tensor | None = None
    ) -> tuple[float, Tensor]:
        """Evaluate one model in eval mode.

        Args:
            vector: Weights (P,).
            images: Images to evaluate on.
            classes: Number of classes of the labels.
            logits: Tensor (N, classes) float32 to fill with the logits, if given.

        Returns:
            Sum of the cross entropies, and number of correct predictions per class (classes,) int64.
        """
        vector, hits = vector.contiguous(), torch.zeros(classes, dtype=torch.int64)
        loss = self.library.zoo_evaluate(
            ctypes.byref(self._settings()),
            ctypes.c_void_p(vector.data_ptr()),
            ctypes.c_void_p(images.images.data_ptr()),
            ctypes.c_void_p(images.labels.data_ptr()),
            ctypes.c_int64(len(images)),
            ctypes.c_void_p(hits.data_ptr()),
            ctypes.c_void_p(None if logits is None else logits.data_ptr()),
        )
        return float(loss), hits

    def gradient(self, vector: Tensor, images: KernelImages, order: Tensor, targets: Tensor, out: Tensor) -> float:
        """Compute the mean cross entropy with soft targets in eval mode, and its gradient by the weights.

        Args:
            vector: Weights (P,).
            images: Images to choose from.
            order: Indices of the images to use, (n,) int64.
            targets: Distributions over the classes, (n, classes) float32.
            out: Tensor (P,) float32 to fill with the gradient; numbers outside of all stages are not changed.
        """
        vector, order, targets = vector.contiguous(), order.contiguous(), targets.contiguous()
        return float(
            self.library.zoo_gradient(
                ctypes.byref(self._settings()),
                ctypes.c_void_p(vector.data_ptr()),
                ctypes.c_void_p(images.images.data_ptr()),
                ctypes.c_void_p(order.data_ptr()),
                ctypes.c_void_p(targets.data_ptr()),
                ctypes.c_int64(len(order)),
                ctypes.c_void_p(out.data_ptr()),
            )
        )


class NativeModel:
    """One model in training with its optimizer. Its calls release the GIL, so that other threads can run."""

    def __init__(
        self, network: CompiledNetwork, training: Training, vector: Tensor, *, variational: bool = False
    ) -> None:
        """Start from the weights `vector` (P,) in the layout of the network, with a fresh optimizer.

        Args:
            network: The compiled network.
            training: Hyperparameters of the optimizer.
            vector: Initial weights (P,), which are copied.
            variational: Whether to train by variational dropout.
        """
        self._network = network  # owns the arrays that the settings point to
        settings = network._settings(training.optimizer, training.weight_decay, variational=variational)
        initial = vector.clone()
        self._handle = ctypes.c_void_p(
            network.library.zoo_open(ctypes.byref(settings), ctypes.c_void_p(initial.data_ptr()))
        )
        if not self._handle:
            raise MemoryError("not enough memory for another model in training; use fewer --threads")
        finalize(self, network.library.zoo_close, self._handle)

    def begin_epoch(self, dropout_seed: int, noise_seed: int) -> None:
        """Seed the generators of dropout and of variational noise, as `torch.Generator.manual_seed` does."""
        self._network.library.zoo_begin_epoch(self._handle, ctypes.c_uint64(dropout_seed), ctypes.c_uint64(noise_seed))

    def train(self, images: KernelImages, steps: TrainingSteps) -> tuple[float, int]:
        """Run training steps.

        Args:
            images: Images that the steps index into.
            steps: Steps to run.

        Returns:
            Sum of cross entropies and number of correct predictions in train mode since the epoch began.
        """
        arrays = _StepArrays(
            images.images.data_ptr(),
            images.labels.data_ptr(),
            steps.order.data_ptr(),
            len(steps.order),
            steps.batch_size,
            steps.lr.data_ptr(),
            steps.momentum.data_ptr(),
            steps.penalty_weight,
        )
        sums = _RunningSums()
        self._network.library.zoo_train(self._handle, ctypes.byref(arrays), ctypes.byref(sums))
        return sums.loss, sums.correct

    def vector(self) -> Tensor:
        """Return the current weights (P,) in the layout of the network."""
        out = torch.zeros(self._network.layout.size)
        self._network.library.zoo_read(self._handle, ctypes.c_void_p(out.data_ptr()))
        return out


def _sigma_names(stage: Stage) -> tuple[str | None, str | None]:
    """Return the names of log sigma² of weights and biases in a variational layout; a linear bias has none."""
    if stage.weight is None:
        return None, None
    prefix = stage.weight.removesuffix("weight")
    return f"{prefix}log_sigma2", None if stage.linear else f"{prefix}log_sigma2_bias"
