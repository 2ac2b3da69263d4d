"""Stacked weights: many models as one tensor, and networks that run all models of one kind in one call.

M models, P numbers of a model, D of them trained (the others are buffers), B images, C classes; m of M models
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from ...architectures import make_variational, penalty
from ...weights import Layout
from ..base import Job
from ..common import build_job_module
from .optimizers import find_runs
from .rng import ReplayedRandom, measure_demand, use_generators

# Trained numbers from which on one network fills a GPU: then plain convolutions in bf16 and channels last are faster.
_LARGE = 500_000


@dataclass(frozen=True)
class StackedWeights:
    """The weights of M models on a device, parameters and buffers apart."""

    layout: Layout
    trained: Tensor  # (M, D) float32
    buffers: dict[str, Tensor]  # (M, ...) each, with its own dtype
    channels_last: bool  # kernels of convolutions are (O, H, W, I) in memory

    @classmethod
    def from_vectors(cls, layout: Layout, vectors: Tensor, device: torch.device) -> "StackedWeights":
        """Stack the weights of M models; large networks get channels last.

        Args:
            layout: Layout of one model.
            vectors: Weights (M, P) in the order of the layout.
            device: Device to copy them to.
        """
        channels_last = is_large(layout)
        parameters = [slot for slot in layout.slots if not slot.buffer]
        state = layout.unpack(vectors.to(device))
        flat = [_move_channels(state[slot.name], channels_last).flatten(1) for slot in parameters]
        buffers = {slot.name: state[slot.name].clone() for slot in layout.slots if slot.buffer}
        return cls(layout, torch.cat(flat, dim=1), buffers, channels_last)

    def parameters(self, models: slice) -> list[Tensor]:
        """Return the parameters of some models as views (m, ...) of the trained numbers."""
        slots = [slot for slot in self.layout.slots if not slot.buffer]
        parts = self.trained[models].split([slot.size for slot in slots], dim=1)
        return [self._view(part, slot.shape) for part, slot in zip(parts, slots, strict=True)]

    def flatten(self, tensors: list[Tensor]) -> Tensor:
        """Invert `parameters`: turn tensors (m, ...) into one (m, D)."""
        return torch.cat([_move_channels(tensor, self.channels_last).flatten(1) for tensor in tensors], dim=1)

    def vectors(self) -> Tensor:
        """Return all weights (M, P) on the device, in the order of the layout."""
        parts = [p.flatten(1) for p in self.parameters(slice(None))]
        parts += [buffer.reshape(len(buffer), -1).float() for buffer in self.buffers.values()]
        return torch.cat(parts, dim=1)

    def _view(self, part: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.channels_last and len(shape) == 4:
            units, inputs, height, width = shape
            return part.view(-1, units, height, width, inputs).permute(0, 1, 4, 2, 3)
        return part.view(-1, *shape)


def is_large(layout: Layout) -> bool:
    """Return whether one network of this layout fills a GPU."""
    return sum(slot.size for slot in layout.slots if not slot.buffer) >= _LARGE


def _move_channels(tensor: Tensor, channels_last: bool) -> Tensor:
    """Permute kernels (M, O, I, H, W) to (M, O, H, W, I); return other tensors unchanged."""
    return tensor.permute(0, 1, 3, 4, 2) if channels_last and tensor.dim() == 5 else tensor


class _Objective(nn.Module):
    """A network with its objective; it adds a prefix to the names of the state dict."""

    def __init__(self, network: nn.Module, sparsify: bool) -> None:
        super().__init__()
        self.network, self.sparsify = network, sparsify

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the objective, the loss without penalty and the number of correct predictions, as device scalars."""
        logits = self.network(x)
        loss = cross_entropy(logits, y)
        correct = (logits.argmax(dim=1) == y).sum()
        return loss + weight * penalty(self.network) if self.sparsify else loss, loss, correct


class StackedModels:
    """Equal networks of some models of a cohort: one vectorized call for all, or a plain call for a single one."""

    def __init__(self, module: nn.Module, models: slice, *, sparsify: bool = False) -> None:
        """Wrap a module that stands for all the models.

        Args:
            module: A module of the kind of these models; its own weights are not used.
            models: Indices of the models within the cohort.
            sparsify: Whether the objective has the penalty of variational dropout.
        """
        use_generators(module)
        self.models, self.module = models, module
        self._objective = _Objective(module, sparsify)

    @property
    def num_models(self) -> int:
        """Number of models m."""
        return len(range(self.models.start, self.models.stop))

    def compute_objective(
        self,
        parameters: list[Tensor],
        buffers: list[Tensor],
        x: Tensor,
        y: Tensor,
        uniform: Tensor,
        normal: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run a training step forward, in train mode.

        Args:
            parameters: Parameters (m, ...) each.
            buffers: Buffers (m, ...) each, updated in place.
            x: Inputs (m, B, channels, height, width).
            y: Labels (m, B).
            uniform: Uniform random numbers (m, R).
            normal: Normal random numbers (m, S).
            weight: Weight of the penalty, a scalar.

        Returns:
            Objective, loss and number of correct predictions, (m,) each.
        """

        def run_one(p: list[Tensor], b: list[Tensor], x: Tensor, y: Tensor, u: Tensor, n: Tensor) -> Any:
            with ReplayedRandom(u, n):
                return functional_call(self._objective, self._state(p, b), (x, y, weight))

        self.module.train()
        objective, loss, correct = self._vectorize(run_one, (0,) * 6)(parameters, buffers, x, y, uniform, normal)
        return objective, loss, correct

    def compute_logits(self, parameters: list[Tensor], buffers: list[Tensor], x: Tensor) -> Tensor:
        """Compute the logits of every model on the same images, in eval mode.

        Args:
            parameters: Parameters (m, ...) each.
            buffers: Buffers (m, ...) each.
            x: Inputs (B, channels, height, width).

        Returns:
            (m, B, C).
        """

        def run_one(p: list[Tensor], b: list[Tensor], x: Tensor) -> Any:
            state = {name.removeprefix("network."): tensor for name, tensor in self._state(p, b).items()}
            return functional_call(self.module, state, (x,))

        self.module.eval()
        logits: Tensor = self._vectorize(run_one, (0, 0, None))(parameters, buffers, x)
        return logits

    def _state(self, parameters: list[Tensor], buffers: list[Tensor]) -> dict[str, Tensor]:
        slots = Layout.from_module(self.module).slots  # the names depend on whether there is dropout
        values = [*parameters, *buffers]
        return {f"network.{slot.name}": value for slot, value in zip(slots, values, strict=True)}

    def _vectorize(self, run_one: Callable[..., Any], dims: tuple[int | None, ...]) -> Callable[..., Any]:
        """Turn a function of one model into a function of all models."""
        if self.num_models > 1:
            return vmap(run_one, in_dims=dims)  # vmap refuses random numbers that do not come from a generator

        def run_single(*arguments: Any) -> Any:
            result = run_one(*(_take_first(a) if dim == 0 else a for a, dim in zip(arguments, dims, strict=True)))
            return tuple(r.unsqueeze(0) for r in result) if isinstance(result, tuple) else result.unsqueeze(0)

        return run_single


def _take_first(stacked: Any) -> Any:
    return [tensor[0] for tensor in stacked] if isinstance(stacked, list) else stacked[0]


def build_training_module(architecture: str, job: Job) -> nn.Module:
    """Build a module of the kind that the job trains, variational for a twin; its weights are not set."""
    module = build_job_module(architecture, job)
    return make_variational(module) if job.sparsify else module


def group_jobs(architecture: str, jobs: Sequence[Job]) -> list[list[int]]:
    """Return lists of the indices of jobs that may share a cohort; within each list, equal networks are neighbors.

    Jobs of one list take the same steps on tensors of equal shapes. Jobs with other numbers of epochs or batch sizes
    are in other lists, so that no job waits for a longer one. The lists decide the speed alone: no result depends on
    them.
    """
    shapes: dict[tuple[object, ...], tuple[tuple[int, ...], ...]] = {}  # kind of network -> shapes of its tensors
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        t = job.training
        kind = (t.activation, t.dropout, job.sparsify)
        if kind not in shapes:
            layout = Layout.from_module(build_training_module(architecture, job))
            shapes[kind] = tuple(slot.shape for slot in layout.slots)
        groups.setdefault((t.batch_size, t.epochs, t.augmentation, job.sparsify, shapes[kind]), []).append(index)
    return [sorted(members, key=lambda index: _sort_key(jobs[index])) for members in groups.values()]


def _sort_key(job: Job) -> tuple[str, float, bool]:
    """Sort by network, then by kind of optimizer: every run of equal ones is one call on the device."""
    return job.training.activation, job.training.dropout, job.training.optimizer == "sgd"


def stack_models(
    build: Callable[[Job], nn.Module],
    jobs: Sequence[Job],
    shape: tuple[int, ...],
    device: torch.device,
    *,
    sparsify: bool = False,
) -> list[StackedModels]:
    """Return the networks of a cohort as they are called together: runs of equal networks, or each one by itself.

    Args:
        build: Builds the module of a job; its weights need not be set.
        jobs: Jobs of the cohort.
        shape: Shape of an image.
        device: Device of all tensors.
        sparsify: Whether the objective has the penalty of variational dropout.
    """
    unbatched = is_unbatched(build(jobs[0]), shape)
    kinds = range(len(jobs)) if unbatched else [(job.training.activation, job.training.dropout) for job in jobs]
    return [StackedModels(build(jobs[run.start]).to(device), run, sparsify=sparsify) for run in find_runs(kinds)]


def is_unbatched(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Return whether models run one by one: large networks, and those that vmap cannot run on images of that shape."""
    return is_large(Layout.from_module(module)) or not _supports_vmap(module, shape)


def _supports_vmap(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Try a step of two models and two images, on shapes alone."""

    def two(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(2, *shape, dtype=dtype, device="meta")

    demand, slots = measure_demand(module, (2, *shape)), Layout.from_module(module).slots
    parameters, buffers = (
        [two(*s.shape, dtype=s.dtype) for s in slots if s.buffer == which] for which in (False, True)
    )
    images, labels = two(2, *shape), two(2, dtype=torch.int64)
    models = StackedModels(copy.deepcopy(module).to("meta"), slice(0, 2))
    uniform, normal = two(demand.num_uniforms), two(demand.num_normals)
    try:
        models.compute_objective(parameters, buffers, images, labels, uniform, normal, images[0])
    except Exception:  # vmap, or a custom forward within it, may raise anything when it needs values
        return False
    return True
