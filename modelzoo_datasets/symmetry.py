"""Which units of a network may be reordered without changing its function, as data; permute and align.

N models, P weights, S units of a group. A symmetry is a tuple of groups; a group lists every place of the weight vector
that its units index, so one generic function permutes any architecture.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .errors import FormatError
from .layout import Layout, Slot


@dataclass(frozen=True)
class Place:
    """A stretch of the vector that, viewed as (before, units, after), has the units of a group in the middle."""

    start: int
    before: int
    units: int
    after: int

    def view(self, weights: Tensor) -> Tensor:
        """Weights (N, P) -> this place (N, before, units, after), a view where memory allows."""
        stop = self.start + self.before * self.units * self.after
        return weights[:, self.start : stop].reshape(-1, self.before, self.units, self.after)


@dataclass(frozen=True)
class Group:
    """Units that move together: rows of one layer, its bias, and the inputs of the next layer."""

    units: int
    places: tuple[Place, ...]


Symmetry = tuple[Group, ...]


def chain_symmetry(layout: Layout) -> Symmetry:
    """The groups of a plain chain of layers: every layer but the last, a flatten giving blocks of inputs per unit."""
    groups = []
    for layer, following in itertools.pairwise(layout.layers):
        places = [_place(layer.weight, before=1, units=layer.units)]
        if layer.bias is not None:
            places.append(_place(layer.bias, before=1, units=layer.units))
        places.append(_place(following.weight, before=following.units, units=layer.units))
        groups.append(Group(layer.units, tuple(places)))
    return tuple(groups)


def _place(slot: Slot, *, before: int, units: int) -> Place:
    after, rest = divmod(slot.size, before * units)
    if rest:
        raise FormatError(f"{slot.name} of shape {slot.shape} does not take {units} units")
    return Place(slot.start, before, units, after)


def random_permutations(symmetry: Symmetry, n: int, draws: torch.Generator) -> list[Tensor]:
    """For every group n uniform permutations of its units, (n, S) each."""
    return [torch.rand(n, g.units, generator=draws).argsort(dim=1) for g in symmetry]


def permute(weights: Tensor, symmetry: Symmetry, orders: Sequence[Tensor]) -> Tensor:
    """Reorder the units of every model: weights (N, P), orders per group (N, S); the functions stay the same.

    Unit j of the result is unit `orders[g][n, j]` of model n (2110.15288, section 3: permutation equivariance).
    """
    moved = weights.clone()
    for group, order in zip(symmetry, orders, strict=True):
        _permute_group(moved, group, order)
    return moved


def _permute_group(weights: Tensor, group: Group, order: Tensor) -> None:
    for place in group.places:
        index = order.to(weights.device)[:, None, :, None]
        moved = torch.take_along_dim(place.view(weights), index, dim=2)
        stop = place.start + moved[0].numel()
        weights[:, place.start : stop] = moved.flatten(1)


def align(
    weights: Tensor,  # (N, P)
    reference: Tensor,  # (P,)
    symmetry: Symmetry,
    *,
    scale: Tensor | None = None,  # (P,) what a weight is divided by before it is compared
    sweeps: int = 20,
) -> list[Tensor]:
    """Orders (N, S) per group that bring each model closest to the reference: weight matching.

    Coordinate descent over the groups, each step an exact assignment, until nothing moves (Git Re-Basin, 2209.04836,
    section 3.2). `permute(weights, symmetry, align(...))` gives the aligned models.
    """
    scale = torch.ones_like(reference) if scale is None else scale
    scaled = (weights / scale).double().cpu()
    goal = (reference / scale).double().cpu().unsqueeze(0)
    orders = [torch.arange(g.units).expand(len(weights), -1).clone() for g in symmetry]
    active = torch.arange(len(weights))
    for _ in range(sweeps):
        moved = torch.zeros(len(active), dtype=torch.bool)
        current = scaled[active]
        for group, order in zip(symmetry, orders, strict=True):
            step = _best_orders(current, goal, group)
            _permute_group(current, group, step)
            order[active] = torch.take_along_dim(order[active], step, dim=1)
            moved |= (step != torch.arange(group.units)).any(dim=1)
        scaled[active] = current
        active = active[moved]
        if len(active) == 0:
            break
    return orders


def _best_orders(weights: Tensor, goal: Tensor, group: Group) -> Tensor:
    """For each model the order (S,) of one group's units with the largest inner product with the goal."""
    gain = torch.zeros(len(weights), group.units, group.units, dtype=weights.dtype)
    for place in group.places:
        gain += torch.einsum("bsa,nbta->nst", place.view(goal)[0], place.view(weights))
    best = [linear_sum_assignment(one, maximize=True)[1] for one in gain.numpy()]
    return torch.from_numpy(np.stack(best))
