"""Random numbers of a cohort, the same as of its models alone: drawn on the host, many steps ahead, then replayed.

Dropout and noise come from CPU generators, one per model and epoch, in the order in which a forward draws them. One
forward on shapes alone records what it draws; from then on `ReplayedRandom` answers in place of the generators.

    M models, K steps of a chunk, B images of a step, F numbers per augmented image, R uniform and S normal numbers
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...architectures import seed_dropout, seed_noise
from ...images import sample_crop_flip, sample_flip_rotate
from ...seeds import keyed_generator
from ..base import Job

VIEW_FIELDS = {"none": 0, "crop-flip": 3, "flip-rotate": 2}  # numbers drawn per augmented image


@dataclass(frozen=True)
class RandomDemand:
    """The random numbers that a forward in train mode draws, and the size of its activations."""

    uniform: tuple[tuple[int, ...], ...]  # shapes of uniform draws, in order
    normal: tuple[tuple[int, ...], ...]  # shapes of normal draws, in order
    num_activations: int  # numbers in the outputs of all layers

    @property
    def num_uniforms(self) -> int:
        """Number of uniform numbers."""
        return sum(prod(shape) for shape in self.uniform)

    @property
    def num_normals(self) -> int:
        """Number of normal numbers."""
        return sum(prod(shape) for shape in self.normal)


class _RandomRecorder(TorchFunctionMode):
    """Records the shapes that are drawn from explicit generators, and returns zeros instead."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self.shapes: dict[Any, list[tuple[int, ...]]] = {torch.rand: [], torch.randn: []}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.shapes and kwargs and kwargs.get("generator") is not None:
            self.shapes[func].append(tuple(args[0]))
            return torch.zeros(args[0], device=self._device)
        return func(*args, **(kwargs or {}))


class ReplayedRandom(TorchFunctionMode):
    """Within this context, draws from explicit generators take these numbers in order: (R,) uniform, (S,) normal."""

    def __init__(self, uniform: Tensor, normal: Tensor) -> None:
        super().__init__()
        self._remaining = {torch.rand: uniform, torch.randn: normal}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.rand, torch.randn) and kwargs and kwargs.get("generator") is not None:
            size, numbers = prod(args[0]), self._remaining[func]
            self._remaining[func] = numbers[size:]
            return numbers[:size].view(args[0])
        return func(*args, **(kwargs or {}))


def use_generators(module: nn.Module) -> None:
    """Let the layers of a module draw from explicit generators, so that `ReplayedRandom` can answer instead."""
    seed_dropout(module, torch.Generator())
    seed_noise(module, torch.Generator())


def measure_demand(module: nn.Module, shape: tuple[int, ...]) -> RandomDemand:
    """Return what a forward on inputs of this shape draws; it runs on shapes alone unless it depends on values."""
    try:
        return _record_demand(copy.deepcopy(module).to("meta"), torch.empty(shape, device="meta"))
    except Exception:  # a custom forward may raise anything when it needs values
        return _record_demand(copy.deepcopy(module).cpu(), torch.zeros(shape))


def _record_demand(module: nn.Module, x: Tensor) -> RandomDemand:
    use_generators(module.train())
    sizes: list[int] = []
    for layer in module.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda layer, inputs, output: sizes.append(output.numel()))
    with torch.no_grad(), _RandomRecorder(x.device) as recorder:
        module(x)
    return RandomDemand(tuple(recorder.shapes[torch.rand]), tuple(recorder.shapes[torch.randn]), sum(sizes))


class RandomStream:
    """All random numbers of one model in one epoch, in the order of its steps."""

    def __init__(self, job: Job, epoch: int, num_images: int) -> None:
        """Draw the data order of an epoch and seed the other generators.

        Args:
            job: Job of the model.
            epoch: Epoch, counted from 1.
            num_images: Number of training images.
        """
        self.order = torch.randperm(num_images, generator=keyed_generator(job.seed, "order", epoch))
        self._uniform, self._normal, self._views = (
            keyed_generator(job.seed, purpose, epoch) for purpose in ("dropout", "noise", "augmentation")
        )

    def fill_uniform(self, out: Tensor) -> None:
        """Fill out (K, R); a stream of uniform numbers does not depend on how it is divided into layers and steps."""
        torch.rand(out.shape, generator=self._uniform, out=out)

    def fill_normal(self, out: Tensor, shapes: Sequence[tuple[int, ...]]) -> None:
        """Fill out (K, S); normal numbers depend on the size of a draw, so each is drawn as the layer would draw it."""
        for step in out:
            numbers = [torch.randn(shape, generator=self._normal).flatten() for shape in shapes]
            step.copy_(torch.cat(numbers))

    def fill_views(self, out: Tensor, augmentation: str) -> None:
        """Fill out (K, F, B) with the parameters of random augmentations."""
        draw: Callable[[int, torch.Generator], Any] = (
            sample_crop_flip if augmentation == "crop-flip" else sample_flip_rotate
        )
        for step in out:
            for row, field in zip(step, vars(draw(step.shape[1], self._views)).values(), strict=True):
                row.copy_(field)


@dataclass(frozen=True)
class StepChunk:
    """Consecutive steps of one epoch, all with B images, and their random numbers on the host."""

    epoch: int
    first: int  # step of the epoch
    index: Tensor  # (M, K, B) indices of training images
    views: Tensor  # (M, K, F, B) float32
    uniform: Sequence[Tensor]  # per run of equal networks (m, K, R)
    normal: Sequence[Tensor]  # per run of equal networks (m, K, S)

    @property
    def steps(self) -> int:
        """Number of steps K."""
        return self.index.shape[1]


def split_epoch(num_images: int, batch_size: int, max_steps: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first step, K, B) of the chunks of an epoch; a smaller last batch is a chunk of its own.

    Args:
        num_images: Number of training images.
        batch_size: Images of a step.
        max_steps: Maximum number of steps of a chunk.
    """
    whole, rest = divmod(num_images, batch_size)
    for first in range(0, whole, max_steps):
        yield first, min(max_steps, whole - first), batch_size
    if rest:
        yield whole, 1, rest
