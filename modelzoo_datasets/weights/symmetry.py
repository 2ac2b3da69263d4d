"""Which units of a network may be reordered or negated without changing its function, as data; permute and align.

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

from ..errors import FormatError
from .layout import Layer, Layout, Slot


@dataclass(frozen=True)
class UnitAxis:
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
    """Units that move together: rows of the layers that make them with all that goes with a row, inputs of readers."""

    units: int
    places: tuple[UnitAxis, ...]
    # The activation follows directly, with no pooling between: where it is odd (tanh), a unit may also change its sign.
    signed: bool = False


Symmetry = tuple[Group, ...]


def unit_group(makers: Sequence[Layer], readers: Sequence[Layer], *, signed: bool = False) -> Group:
    """The group of units that `makers` write, one layer or all the terms of a sum, and `readers` take as inputs.

    Of a residual stream every layer that adds to it is a maker and every layer that takes it is a reader, through all
    blocks. Biases and the normalisations behind the makers move along; a reader behind a flatten has blocks of inputs
    per unit.

    Args:
        signed: whether an odd activation may be negated here; never with a normalisation, whose variance has no sign.

    Raises:
        FormatError: the layers do not fit together.
    """
    units = makers[0].units
    places = []
    for layer in makers:
        if layer.units != units:
            raise FormatError(f"{layer.weight.name} of shape {layer.weight.shape} does not give {units} units")
        places += [_place(slot, before=1, units=units) for slot in layer.slots]
    places += [_place(layer.weight, before=layer.units, units=units) for layer in readers]
    return Group(units, tuple(places), signed and not any(layer.norm for layer in makers))


def chain_symmetry(layout: Layout, pooled: Sequence[bool]) -> Symmetry:
    """The groups of a plain chain of layers: every layer but the last, a flatten giving blocks of inputs per unit.

    Args:
        pooled: for each of these layers whether max-pooling stands between it and its activation.
    """
    pairs = zip(itertools.pairwise(layout.layers), pooled, strict=True)
    return tuple(unit_group([layer], [following], signed=not pool) for (layer, following), pool in pairs)


def no_symmetry(layout: Layout) -> Symmetry:
    """No group at all: what is known of an architecture about which nothing was said."""
    return ()


def _place(slot: Slot, *, before: int, units: int) -> UnitAxis:
    after, rest = divmod(slot.size, before * units)
    if rest:
        raise FormatError(f"{slot.name} of shape {slot.shape} does not take {units} units")
    return UnitAxis(slot.start, before, units, after)


def sample_permutations(symmetry: Symmetry, n: int, draws: torch.Generator) -> list[Tensor]:
    """For every group n uniform permutations of its units, (n, S) each."""
    return [torch.rand(n, g.units, generator=draws).argsort(dim=1) for g in symmetry]


@dataclass(frozen=True)
class UnitPermutation:
    """What happens to one group of N models: unit j becomes unit `order[n, j]`, times `sign[n, j]`."""

    order: Tensor  # (N, S) int64
    sign: Tensor  # (N, S), 1 or -1


def permute_units(weights: Tensor, symmetry: Symmetry, orders: Sequence[Tensor]) -> Tensor:
    """Reorder the units of every model: weights (N, P), orders per group (N, S); the functions stay the same.

    Unit j of the result is unit `orders[g][n, j]` of model n (2110.15288, section 3: permutation equivariance).
    """
    moves = [UnitPermutation(order, torch.ones_like(order, dtype=weights.dtype)) for order in orders]
    return apply_permutations(weights, symmetry, moves)


def apply_permutations(weights: Tensor, symmetry: Symmetry, moves: Sequence[UnitPermutation]) -> Tensor:
    """Reorder and negate units: weights (N, P), one move per group; a new tensor."""
    moved = weights.clone()
    for group, move in zip(symmetry, moves, strict=True):
        _move_group(moved, group, move)
    return moved


def _move_group(weights: Tensor, group: Group, move: UnitPermutation) -> None:
    index, sign = move.order[:, None, :, None], move.sign[:, None, :, None].to(weights)
    for place in group.places:
        moved = torch.take_along_dim(place.view(weights), index.to(weights.device), dim=2) * sign
        stop = place.start + moved[0].numel()
        weights[:, place.start : stop] = moved.flatten(1)


def align_weights(
    weights: Tensor,  # (N, P)
    reference: Tensor,  # (P,)
    symmetry: Symmetry,
    *,
    scale: Tensor | None = None,  # (P,) what a weight is divided by before it is compared
    signs: bool = False,
    sweeps: int = 20,
) -> list[UnitPermutation]:
    """The move per group that brings each model closest to the reference: weight matching.

    Coordinate descent over the groups, each step an exact assignment, until nothing moves (Git Re-Basin, 2209.04836,
    section 3.2). `apply_permutations(weights, symmetry, align_weights(...))` gives the aligned models.

    Args:
        signs: units of signed groups may also be negated; keeps the function only where the activation is odd.
    """
    scale = torch.ones_like(reference) if scale is None else scale
    scaled = (weights / scale).double().cpu()
    goal = (reference / scale).double().cpu().unsqueeze(0)
    moves = [_no_move(len(weights), group) for group in symmetry]
    active = torch.arange(len(weights))
    for _ in range(sweeps):
        changed = torch.zeros(len(active), dtype=torch.bool)
        current = scaled[active]
        for group, move in zip(symmetry, moves, strict=True):
            step = _best_move(current, goal, group, signs=signs and group.signed)
            _move_group(current, group, step)
            move.sign[active] = torch.take_along_dim(move.sign[active], step.order, 1) * step.sign
            move.order[active] = torch.take_along_dim(move.order[active], step.order, 1)
            changed |= (step.order != torch.arange(group.units)).any(dim=1)
            changed |= (step.sign < 0).any(dim=1)
        scaled[active] = current
        active = active[changed]
        if len(active) == 0:
            break
    return moves


def _no_move(n: int, group: Group) -> UnitPermutation:
    return UnitPermutation(torch.arange(group.units).repeat(n, 1), torch.ones(n, group.units))


def _best_move(weights: Tensor, goal: Tensor, group: Group, *, signs: bool) -> UnitPermutation:
    """For each model the order and signs (N, S) of one group's units with the largest inner product with the goal."""
    gain = torch.zeros(len(weights), group.units, group.units, dtype=weights.dtype)
    for place in group.places:
        gain += torch.einsum("bsa,nbta->nst", place.view(goal)[0], place.view(weights))
    assigned = (gain.abs() if signs else gain).numpy()
    order = np.stack([linear_sum_assignment(one, maximize=True)[1] for one in assigned])
    chosen = torch.from_numpy(order)
    taken = torch.take_along_dim(gain, chosen.unsqueeze(2), dim=2).squeeze(2)
    sign = torch.where(taken < 0, -1.0, 1.0) if signs else torch.ones_like(taken)
    return UnitPermutation(chosen, sign.float())
