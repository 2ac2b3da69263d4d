"""Random numbers of a cohort, the same as of its models alone: drawn on the host, many steps ahead, and then given out.

Dropout and noise come from CPU generators, one per model and epoch, in the order in which a forward asks for them.
What it asks for is found by watching one forward on shapes alone; from then on `Given` answers instead.

    M models, K steps of a chunk, B images of a step
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

FIELDS = {"none": 0, "crop-flip": 3, "flip-rotate": 2}  # numbers drawn for one view of an image


@dataclass(frozen=True)
class RandomDemand:
    """What a forward in train mode draws and holds."""

    uniform: tuple[tuple[int, ...], ...]  # shapes, in order
    normal: tuple[tuple[int, ...], ...]
    activations: int  # numbers in what all layers give

    @property
    def uniforms(self) -> int:
        """How many uniform numbers in all."""
        return sum(prod(shape) for shape in self.uniform)

    @property
    def normals(self) -> int:
        """How many normal numbers in all."""
        return sum(prod(shape) for shape in self.normal)


class _Watch(TorchFunctionMode):
    """Notes what is drawn from a generator that was passed."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self.drawn: dict[Any, list[tuple[int, ...]]] = {torch.rand: [], torch.randn: []}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.drawn and kwargs and kwargs.get("generator") is not None:
            self.drawn[func].append(tuple(args[0]))
            return torch.zeros(args[0], device=self._device)
        return func(*args, **(kwargs or {}))


class ReplayedRandom(TorchFunctionMode):
    """Within, what is drawn from a generator is taken from these numbers, (R,) uniform and (S,) normal, in order."""

    def __init__(self, uniform: Tensor, normal: Tensor) -> None:
        super().__init__()
        self._left = {torch.rand: uniform, torch.randn: normal}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.rand, torch.randn) and kwargs and kwargs.get("generator") is not None:
            size = prod(args[0])
            taken, self._left[func] = self._left[func][:size], self._left[func][size:]
            return taken.view(args[0])
        return func(*args, **(kwargs or {}))


def ask(module: nn.Module) -> None:
    """Let the layers of a module draw from a generator, so that `Given` can answer."""
    seed_dropout(module, torch.Generator())
    seed_noise(module, torch.Generator())


def demand(module: nn.Module, shape: tuple[int, ...]) -> RandomDemand:
    """What a forward on inputs of this shape draws and holds; computed only where the forward looks at values."""
    try:
        return _watched(copy.deepcopy(module).to("meta"), torch.empty(shape, device="meta"))
    except Exception:  # whatever a forward of somebody's own does with a value that is not there
        return _watched(copy.deepcopy(module).cpu(), torch.zeros(shape))


def _watched(module: nn.Module, x: Tensor) -> RandomDemand:
    ask(module.train())
    sizes: list[int] = []
    for layer in module.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda layer, inputs, output: sizes.append(output.numel()))
    with torch.no_grad(), _Watch(x.device) as watch:
        module(x)
    return RandomDemand(tuple(watch.drawn[torch.rand]), tuple(watch.drawn[torch.randn]), sum(sizes))


class Stream:
    """All that one model draws in one epoch, in the order of its steps."""

    def __init__(self, job: Job, epoch: int, images: int) -> None:
        self.order = torch.randperm(images, generator=keyed_generator(job.seed, "order", epoch))
        self._uniform, self._normal, self._views = (
            keyed_generator(job.seed, purpose, epoch) for purpose in ("dropout", "noise", "augmentation")
        )

    def uniform(self, out: Tensor) -> None:
        """Fill out (K, R): how the numbers are cut into layers and steps makes no difference to a uniform stream."""
        torch.rand(out.shape, generator=self._uniform, out=out)

    def normal(self, out: Tensor, shapes: Sequence[tuple[int, ...]]) -> None:
        """Fill out (K, S); here every draw consumes by its own size, so each is made as the layer would make it."""
        for step in out:
            parts = [torch.randn(shape, generator=self._normal).flatten() for shape in shapes]
            step.copy_(torch.cat(parts))

    def views(self, out: Tensor, kind: str) -> None:
        """Fill out (K, F, B) with the parameters of random views."""
        draw: Callable[[int, torch.Generator], Any] = sample_crop_flip if kind == "crop-flip" else sample_flip_rotate
        for step in out:
            for row, field in zip(step, vars(draw(step.shape[1], self._views)).values(), strict=True):
                row.copy_(field)


@dataclass(frozen=True)
class Chunk:
    """Some consecutive steps of one epoch, all of B images; what is drawn for them, on the host."""

    epoch: int
    first: int  # step of the epoch
    index: Tensor  # (M, K, B) places in the training split
    views: Tensor  # (M, K, F, B) float32
    uniform: Sequence[Tensor]  # per run of equal networks (m, K, R)
    normal: Sequence[Tensor]  # (m, K, S)

    @property
    def steps(self) -> int:
        """K."""
        return self.index.shape[1]


def parts(images: int, batch_size: int, steps: int) -> Iterator[tuple[int, int, int]]:
    """(first step, K, B) of the chunks of an epoch; a smaller last batch is one of its own."""
    whole, rest = divmod(images, batch_size)
    for first in range(0, whole, steps):
        yield first, min(steps, whole - first), batch_size
    if rest:
        yield whole, 1, rest
