"""A compiled network as Python sees it: models in training, and evaluation."""

import ctypes
from dataclasses import dataclass, replace
from functools import lru_cache
from weakref import finalize

import torch
from torch import Tensor

from ...recipes import Training
from ...weights import Layout
from ..chain import Stage
from .codegen import KERNEL, input_pitches, kernel_text, network_source
from .compiler import Instructions, compiled, instructions

_ACTIVATIONS = {None: 0, "tanh": 1, "relu": 2, "sigmoid": 3, "gelu": 4}
_OPTIMIZERS = {"sgd": 0, "adam": 1, "adamw": 2}
_SLACK = 16  # numbers behind the last image that the kernel may read


class _Behaviour(ctypes.Structure):
    _fields_ = (("activations", ctypes.c_void_p), ("dropouts", ctypes.c_void_p))


class _Settings(ctypes.Structure):
    _fields_ = (
        ("behaviour", _Behaviour),
        ("weight_places", ctypes.c_void_p),
        ("sigma_places", ctypes.c_void_p),
        ("optimizer", ctypes.c_int32),
        ("variational", ctypes.c_int32),
        ("weight_decay", ctypes.c_double),
    )


class _Stretch(ctypes.Structure):
    _fields_ = (
        ("images", ctypes.c_void_p),
        ("labels", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("lr", ctypes.c_void_p),
        ("momentum", ctypes.c_void_p),
        ("penalty_weight", ctypes.c_double),
    )


class _Tally(ctypes.Structure):
    _fields_ = (("loss", ctypes.c_double), ("correct", ctypes.c_int64))


@dataclass(frozen=True)
class Pixels:
    """Normalised images as the kernel reads them: pixel by pixel, channels side by side, and some slack at the end."""

    images: Tensor  # (N * H * W * C + slack,) float32
    labels: Tensor  # (N,) int64

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor) -> "Pixels":
        """Inputs (N, C, H, W) float32 -> a copy in the kernel's order."""
        n, channels, height, width = inputs.shape
        flat = torch.zeros(inputs.numel() + _SLACK)
        flat[: inputs.numel()].view(n, height, width, channels).copy_(inputs.permute(0, 2, 3, 1))
        return cls(flat, labels.contiguous())

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Training steps in a row: `order` are places in the images, batch by batch; the last batch may be smaller."""

    order: Tensor  # (n,) int64
    batch_size: int
    lr: Tensor  # (steps,) float64
    momentum: Tensor  # (steps,) float64; of Adam its first beta
    penalty_weight: float = 0.0  # of a twin


@lru_cache
def library_of(stages: tuple[Stage, ...], target: Instructions) -> ctypes.CDLL:
    """The compiled network of these stages.

    Raises:
        CompilerError: no compiler, or it failed.
    """
    source = network_source(stages, input_pitches(stages, target.widest))
    library = ctypes.CDLL(str(compiled(source, kernel_text(), KERNEL, target)))
    library.zoo_open.restype = ctypes.c_void_p
    library.zoo_evaluate.restype = ctypes.c_double
    library.zoo_gradient.restype = ctypes.c_double
    library.zoo_bytes.restype = ctypes.c_int64
    return library


class CompiledNetwork:
    """Stages with their activations and dropout, and where each has its numbers in vectors of a layout."""

    def __init__(self, stages: tuple[Stage, ...], layout: Layout, target: Instructions | None = None) -> None:
        """`layout` is that of the module that the stages were read from, or of its variational form.

        Raises:
            CompilerError: no compiler, or it failed.
        """
        # One library serves all activations and any dropout.
        plain = tuple(replace(stage, activation=None, dropout=0.0, weight=stage.weight and "") for stage in stages)
        self.library = library_of(plain, target or instructions())
        self.layout = layout
        self.classes = stages[-1].units
        self._activations = torch.tensor([_ACTIVATIONS[stage.activation] for stage in stages], dtype=torch.int32)
        self._dropouts = torch.tensor([stage.dropout for stage in stages])
        self._weight_places = self._places([(stage.weight, stage.bias) for stage in stages])
        self._sigma_places = self._places([_sigmas(stage) for stage in stages])

    def _places(self, names: list[tuple[str | None, str | None]]) -> Tensor:
        """Where weights and biases begin (2 * stages,) int64; -1 for what is not there."""
        starts = {slot.name: slot.start for slot in self.layout.slots}
        return torch.tensor([starts.get(name, -1) if name else -1 for pair in names for name in pair])

    def _settings(self, optimizer: str = "sgd", weight_decay: float = 0.0, *, variational: bool = False) -> _Settings:
        return _Settings(
            _Behaviour(self._activations.data_ptr(), self._dropouts.data_ptr()),
            self._weight_places.data_ptr(),
            self._sigma_places.data_ptr(),
            _OPTIMIZERS[optimizer],
            variational,
            weight_decay,
        )

    def model_bytes(self, *, variational: bool = False) -> int:
        """What one model in training takes, about."""
        return int(self.library.zoo_bytes(ctypes.c_int32(variational)))

    def evaluate(
        self, vector: Tensor, pixels: Pixels, classes: int, logits: Tensor | None = None
    ) -> tuple[float, Tensor]:
        """(Summed cross entropy, hits per class (classes,) int64) of weights (P,) in eval mode.

        Args:
            logits: (N, classes) float32, filled if given.
        """
        vector, hits = vector.contiguous(), torch.zeros(classes, dtype=torch.int64)
        loss = self.library.zoo_evaluate(
            ctypes.byref(self._settings()),
            ctypes.c_void_p(vector.data_ptr()),
            ctypes.c_void_p(pixels.images.data_ptr()),
            ctypes.c_void_p(pixels.labels.data_ptr()),
            ctypes.c_int64(len(pixels)),
            ctypes.c_void_p(hits.data_ptr()),
            ctypes.c_void_p(None if logits is None else logits.data_ptr()),
        )
        return float(loss), hits

    def gradient(self, vector: Tensor, pixels: Pixels, order: Tensor, targets: Tensor, out: Tensor) -> float:
        """Mean cross entropy of weights (P,) in eval mode with distributions over the classes; its gradient in `out`.

        Args:
            order: places (n,) in the images, int64.
            targets: (n, classes) float32, rows that sum to 1.
            out: (P,) float32; numbers that are no parameters of a stage keep what they were.
        """
        vector, order, targets = vector.contiguous(), order.contiguous(), targets.contiguous()
        return float(
            self.library.zoo_gradient(
                ctypes.byref(self._settings()),
                ctypes.c_void_p(vector.data_ptr()),
                ctypes.c_void_p(pixels.images.data_ptr()),
                ctypes.c_void_p(order.data_ptr()),
                ctypes.c_void_p(targets.data_ptr()),
                ctypes.c_int64(len(order)),
                ctypes.c_void_p(out.data_ptr()),
            )
        )


class Model:
    """One model in training, with its optimizer. Calls take as long as they take without holding up other threads."""

    def __init__(
        self, network: CompiledNetwork, training: Training, vector: Tensor, *, variational: bool = False
    ) -> None:
        """Begins with `vector` (P,) in the network's layout, and a fresh optimizer."""
        self._network = network  # owns the arrays that the settings point into
        settings = network._settings(training.optimizer, training.weight_decay, variational=variational)
        start = vector.clone()
        self._handle = ctypes.c_void_p(
            network.library.zoo_open(ctypes.byref(settings), ctypes.c_void_p(start.data_ptr()))
        )
        if not self._handle:
            raise MemoryError("no memory for another model in training")
        finalize(self, network.library.zoo_close, self._handle)

    def begin_epoch(self, dropout_seed: int, noise_seed: int) -> None:
        """Seed the streams of dropout and of variational noise, as `torch.Generator.manual_seed` does."""
        self._network.library.zoo_begin_epoch(self._handle, ctypes.c_uint64(dropout_seed), ctypes.c_uint64(noise_seed))

    def train(self, pixels: Pixels, steps: Steps) -> tuple[float, int]:
        """Go on by these steps; (summed cross entropy, hits) in train mode of all images since the epoch began."""
        part = _Stretch(
            pixels.images.data_ptr(),
            pixels.labels.data_ptr(),
            steps.order.data_ptr(),
            len(steps.order),
            steps.batch_size,
            steps.lr.data_ptr(),
            steps.momentum.data_ptr(),
            steps.penalty_weight,
        )
        tally = _Tally()
        self._network.library.zoo_train(self._handle, ctypes.byref(part), ctypes.byref(tally))
        return tally.loss, tally.correct

    def vector(self) -> Tensor:
        """All its numbers (P,), in the order of the network's layout."""
        out = torch.zeros(self._network.layout.size)
        self._network.library.zoo_read(self._handle, ctypes.c_void_p(out.data_ptr()))
        return out


def _sigmas(stage: Stage) -> tuple[str | None, str | None]:
    """Names of log sigma² of a stage's weights and biases in a variational layout; a linear bias has none."""
    if stage.weight is None:
        return None, None
    prefix = stage.weight.removesuffix("weight")
    return f"{prefix}log_sigma2", None if stage.linear else f"{prefix}log_sigma2_bias"
