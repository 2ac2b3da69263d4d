"""Many models as one: their weights stacked, and networks that run all models of one kind in one call.

M models, P numbers of a model, D of them trained (the others are buffers), B images, C classes
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from ...architectures import penalty
from ...weights import Layout
from .cohort_plan import runs
from .rng import ReplayedRandom, ask, demand

_LARGE = 500_000  # trained numbers from which a network fills a GPU alone: dense convolutions, bf16, channels last


@dataclass(frozen=True)
class Stack:
    """The weights of M models on a device, parameters apart from buffers."""

    layout: Layout
    trained: Tensor  # (M, D) float32
    buffers: dict[str, Tensor]  # (M, ...) each, of its own dtype
    channels_last: bool  # kernels of convolutions are (O, H, W, I) in memory

    @classmethod
    def of(cls, layout: Layout, vectors: Tensor, device: torch.device) -> "Stack":
        """From vectors (M, P) in the order of the layout; large networks get channels last."""
        channels_last = is_large(layout)
        parameters = [slot for slot in layout.slots if not slot.buffer]
        state = layout.unpack(vectors.to(device))
        flat = [_last(state[slot.name], channels_last).flatten(1) for slot in parameters]
        buffers = {slot.name: state[slot.name].clone() for slot in layout.slots if slot.buffer}
        return cls(layout, torch.cat(flat, dim=1), buffers, channels_last)

    @property
    def names(self) -> list[str]:
        """Of the parameters, in order."""
        return [slot.name for slot in self.layout.slots if not slot.buffer]

    def parameters(self, models: slice) -> list[Tensor]:
        """Views of the trained numbers of some models, (m, ...) each."""
        slots = [slot for slot in self.layout.slots if not slot.buffer]
        parts = self.trained[models].split([slot.size for slot in slots], dim=1)
        return [self._shaped(part, slot.shape) for part, slot in zip(parts, slots, strict=True)]

    def flattened(self, tensors: list[Tensor]) -> Tensor:
        """The inverse of `parameters`: (m, ...) each -> (m, D)."""
        return torch.cat([_last(tensor, self.channels_last).flatten(1) for tensor in tensors], dim=1)

    def vectors(self) -> Tensor:
        """(M, P) on the device, in the order of the layout."""
        parts = [p.flatten(1) for p in self.parameters(slice(None))]
        parts += [buffer.reshape(len(buffer), -1).float() for buffer in self.buffers.values()]
        return torch.cat(parts, dim=1)

    def _shaped(self, part: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.channels_last and len(shape) == 4:
            units, inputs, height, width = shape
            return part.view(-1, units, height, width, inputs).permute(0, 1, 4, 2, 3)
        return part.view(-1, *shape)


def is_large(layout: Layout) -> bool:
    """Whether a network fills a GPU by itself."""
    return sum(slot.size for slot in layout.slots if not slot.buffer) >= _LARGE


def _last(tensor: Tensor, channels_last: bool) -> Tensor:
    """(M, O, I, H, W) -> (M, O, H, W, I), other tensors as they are."""
    return tensor.permute(0, 1, 3, 4, 2) if channels_last and tensor.dim() == 5 else tensor


class _Objective(nn.Module):
    """A network with what is minimised; the state dict's names get a prefix by it."""

    def __init__(self, network: nn.Module, sparsify: bool) -> None:
        super().__init__()
        self.network, self.sparsify = network, sparsify

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What to minimise, the loss without a penalty, and how many are right; scalars, all on the device."""
        logits = self.network(x)
        loss = cross_entropy(logits, y)
        correct = (logits.argmax(dim=1) == y).sum()
        return loss + weight * penalty(self.network) if self.sparsify else loss, loss, correct


class Population:
    """Equal networks of some models of a cohort: one call for all of them, or a plain call where there is but one."""

    def __init__(self, module: nn.Module, models: slice, *, sparsify: bool = False) -> None:
        ask(module)
        self.models, self.module = models, module
        self._objective = _Objective(module, sparsify)

    @property
    def count(self) -> int:
        """How many models."""
        return len(range(self.models.start, self.models.stop))

    def minimised(
        self,
        parameters: list[Tensor],  # (m, ...) each
        buffers: list[Tensor],  # (m, ...) each, changed in place
        x: Tensor,  # (m, B, channels, height, width)
        y: Tensor,  # (m, B)
        uniform: Tensor,  # (m, R)
        normal: Tensor,  # (m, S)
        weight: Tensor,  # of the penalty, a scalar
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Objective, loss and number of right answers, (m,) each, in train mode."""

        def one(p: list[Tensor], b: list[Tensor], x: Tensor, y: Tensor, u: Tensor, n: Tensor) -> Any:
            with ReplayedRandom(u, n):
                return functional_call(self._objective, self._state(p, b), (x, y, weight))

        self.module.train()
        objective, loss, correct = self._mapped(one, (0,) * 6)(parameters, buffers, x, y, uniform, normal)
        return objective, loss, correct

    def logits(self, parameters: list[Tensor], buffers: list[Tensor], x: Tensor) -> Tensor:
        """(m, B, C) of the same images (B, channels, height, width) for every model, in eval mode."""

        def one(p: list[Tensor], b: list[Tensor], x: Tensor) -> Any:
            state = {name.removeprefix("network."): tensor for name, tensor in self._state(p, b).items()}
            return functional_call(self.module, state, (x,))

        self.module.eval()
        found: Tensor = self._mapped(one, (0, 0, None))(parameters, buffers, x)
        return found

    def _state(self, parameters: list[Tensor], buffers: list[Tensor]) -> dict[str, Tensor]:
        slots = Layout.from_module(self.module).slots  # the names differ with dropout
        values = [*parameters, *buffers]
        return {f"network.{slot.name}": value for slot, value in zip(slots, values, strict=True)}

    def _mapped(self, one: Callable[..., Any], dims: tuple[int | None, ...]) -> Callable[..., Any]:
        """The function of one model as one of all."""
        if self.count > 1:
            return vmap(one, in_dims=dims)  # what draws but from a generator is refused

        def alone(*arguments: Any) -> Any:
            found = one(*(_first(a) if dim == 0 else a for a, dim in zip(arguments, dims, strict=True)))
            return tuple(f.unsqueeze(0) for f in found) if isinstance(found, tuple) else found.unsqueeze(0)

        return alone


def _first(stacked: Any) -> Any:
    return [tensor[0] for tensor in stacked] if isinstance(stacked, list) else stacked[0]


def called_together(module: nn.Module, kinds: Sequence[object], shape: tuple[int, ...]) -> list[slice]:
    """Which models of a cohort are one population: all of a run of equal kinds, or each by itself."""
    return runs(range(len(kinds)) if is_alone(module, shape) else kinds)


def is_alone(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether models are called one by one: large ones, and those that vmap does not take (images of that shape)."""
    return is_large(Layout.from_module(module)) or not _stacks(module, shape)


def _stacks(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Tried out for two models and two images, on shapes alone."""

    def two(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(2, *shape, dtype=dtype, device="meta")

    needed, slots = demand(module, (2, *shape)), Layout.from_module(module).slots
    parameters, buffers = (
        [two(*s.shape, dtype=s.dtype) for s in slots if s.buffer == which] for which in (False, True)
    )
    images, labels = two(2, *shape), two(2, dtype=torch.int64)
    population = Population(copy.deepcopy(module).to("meta"), slice(0, 2))
    try:
        population.minimised(parameters, buffers, images, labels, two(needed.uniforms), two(needed.normals), images[0])
    except Exception:  # whatever vmap, or a forward of somebody's own within it, does with a value that is not there
        return False
    return True
