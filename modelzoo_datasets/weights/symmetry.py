"""Permutation symmetries of networks as data: groups of units that can be reordered without changing the function.

A symmetry is a tuple of groups. A group lists every axis of the weight vector that its units index, so that one generic
function permutes the units of any architecture.

    N models, P weights, S units of a group
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import FormatError
from ..seeds import choose_generator
from .layout import Layer, Layout, Slot


@dataclass(frozen=True)
class UnitAxis:
    """An axis of units: a segment of the weight vector that is viewed as (before, units, after)."""

    start: int
    before: int
    units: int
    after: int

    def view(self, weights: Tensor) -> Tensor:
        """Return the segment of weights (N, P) as (N, before, units, after), a view where strides allow it."""
        stop = self.start + self.before * self.units * self.after
        return weights[:, self.start : stop].reshape(-1, self.before, self.units, self.after)


@dataclass(frozen=True)
class Group:
    """Units that are permuted together, with every axis of the weight vector that they index.

    These are the rows of the layers that produce the units, with their biases and normalizations, and the inputs of the
    layers that consume the units.
    """

    units: int
    axes: tuple[UnitAxis, ...]
    # True if the activation follows directly, without pooling: with an odd activation (tanh) a unit may be negated too.
    signed: bool = False


Symmetry = tuple[Group, ...]


def unit_group(producers: Sequence[Layer], consumers: Sequence[Layer], *, signed: bool = False) -> Group:
    """Return the group of the units that `producers` compute and `consumers` take as inputs.

    For a residual stream, every layer that adds to the stream is a producer and every layer that takes the stream is a
    consumer, through all blocks. Biases and normalizations of the producers are permuted too. A consumer after a
    flatten has a block of inputs per unit.

    Args:
        producers: One layer, or all layers whose outputs are summed.
        consumers: All layers that take these units as inputs.
        signed: True if units may be negated together with an odd activation. Producers with a normalization exclude
            this, because a variance has no sign.

    Returns:
        The group, with one axis for each tensor of the producers and for the weight of each consumer.

    Raises:
        FormatError: The layers do not fit together.
    """
    units = producers[0].units
    axes = []
    for layer in producers:
        if layer.units != units:
            raise FormatError(f"{layer.weight.name} of shape {layer.weight.shape} does not give {units} units")
        axes += [_unit_axis(slot, before=1, units=units) for slot in layer.slots]
    axes += [_unit_axis(layer.weight, before=layer.units, units=units) for layer in consumers]
    return Group(units, tuple(axes), signed and not any(layer.norm for layer in producers))


def chain_symmetry(layout: Layout, pooled: Sequence[bool]) -> Symmetry:
    """Return the groups of a chain of layers: one for every layer but the last.

    Args:
        layout: The layout of the chain.
        pooled: One flag per group: True if max-pooling stands between the layer and its activation.
    """
    pairs = zip(itertools.pairwise(layout.layers), pooled, strict=True)
    return tuple(unit_group([layer], [following], signed=not pool) for (layer, following), pool in pairs)


def no_symmetry(layout: Layout) -> Symmetry:
    """Return a symmetry without groups, the default for an architecture with unknown symmetries."""
    return ()


def _unit_axis(slot: Slot, *, before: int, units: int) -> UnitAxis:
    after, rest = divmod(slot.size, before * units)
    if rest:
        raise FormatError(f"{slot.name} of shape {slot.shape} does not take {units} units")
    return UnitAxis(slot.start, before, units, after)


def sample_permutations(
    symmetry: Symmetry, n: int, generator: torch.Generator | None = None, *, seed: int | None = None
) -> list[Tensor]:
    """Return n uniform random permutations (n, S) of the units of every group.

    Args:
        symmetry: The groups.
        n: The number of permutations per group.
        generator: A generator on the CPU.
        seed: A seed instead of the generator; 0 by default.
    """
    generator = choose_generator(generator, seed, "permutations")
    return [torch.rand(n, g.units, generator=generator).argsort(dim=1) for g in symmetry]


@dataclass(frozen=True)
class UnitPermutation:
    """A signed permutation of one group of N models: unit j becomes unit `order[n, j]`, times `sign[n, j]`."""

    order: Tensor  # (N, S) int64
    sign: Tensor  # (N, S), 1 or -1


def permute_units(weights: Tensor, symmetry: Symmetry, orders: Sequence[Tensor]) -> Tensor:
    """Permute the units of every model without changing its function (2110.15288, section 3).

    Args:
        weights: The weights (N, P).
        symmetry: The groups of units.
        orders: One tensor (N, S) per group. Unit j of the result is unit `orders[g][n, j]` of model n.

    Returns:
        New weights (N, P).

    Example:
        >>> import torch
        >>> from modelzoo_datasets.architectures import get_architecture
        >>> symmetry = get_architecture("cnn-s").symmetry
        >>> weights, generator = torch.zeros(2, 2464), torch.Generator().manual_seed(0)
        >>> permute_units(weights, symmetry, sample_permutations(symmetry, 2, generator)).shape
        torch.Size([2, 2464])
    """
    permutations = [UnitPermutation(order, torch.ones_like(order, dtype=weights.dtype)) for order in orders]
    return apply_permutations(weights, symmetry, permutations)


def apply_permutations(weights: Tensor, symmetry: Symmetry, permutations: Sequence[UnitPermutation]) -> Tensor:
    """Permute and negate units.

    Args:
        weights: The weights (N, P).
        symmetry: The groups of units.
        permutations: One signed permutation per group.

    Returns:
        New weights (N, P).
    """
    result = weights.clone()
    for group, permutation in zip(symmetry, permutations, strict=True):
        _permute_group(result, group, permutation)
    return result


def _permute_group(weights: Tensor, group: Group, permutation: UnitPermutation) -> None:
    """Permute one group in place."""
    index, sign = permutation.order[:, None, :, None], permutation.sign[:, None, :, None].to(weights)
    for axis in group.axes:
        values = torch.take_along_dim(axis.view(weights), index.to(weights.device), dim=2) * sign
        stop = axis.start + values[0].numel()
        weights[:, axis.start : stop] = values.flatten(1)


def align_weights(
    weights: Tensor,
    reference: Tensor,
    symmetry: Symmetry,
    *,
    scale: Tensor | None = None,
    signs: bool = False,
    sweeps: int = 20,
) -> list[UnitPermutation]:
    """Find the permutations that bring each model closest to a reference, by weight matching.

    This is coordinate descent over the groups with an exact assignment per step, until no unit moves (Git Re-Basin,
    2209.04836, section 3.2). `apply_permutations` with the result gives the aligned weights.

    Args:
        weights: The weights (N, P).
        reference: The weights (P,) of the model to align to.
        symmetry: The groups of units.
        scale: Divisors (P,) of the weights before they are compared; ones by default.
        signs: True to negate units of signed groups too. This keeps the function only if the activation is odd.
        sweeps: The maximum number of passes over all groups.

    Returns:
        One signed permutation per group.

    Example:
        >>> import torch
        >>> from modelzoo_datasets.architectures import get_architecture
        >>> symmetry = get_architecture("cnn-s").symmetry
        >>> weights = torch.randn(3, 2464, generator=torch.Generator().manual_seed(0))
        >>> permutations = align_weights(weights, weights[0], symmetry)
        >>> bool((apply_permutations(weights, symmetry, permutations)[0] == weights[0]).all())
        True
    """
    scale = torch.ones_like(reference) if scale is None else scale
    scaled = (weights / scale).double().cpu()
    target = (reference / scale).double().cpu().unsqueeze(0)
    permutations = [_identity(len(weights), group) for group in symmetry]
    active = torch.arange(len(weights))  # models whose units moved in the sweep before
    for _ in range(sweeps):
        changed = torch.zeros(len(active), dtype=torch.bool)
        current = scaled[active]
        for group, total in zip(symmetry, permutations, strict=True):
            step = _match_units(current, target, group, signs=signs and group.signed)
            _permute_group(current, group, step)
            # The permutations of all sweeps are composed into one.
            total.sign[active] = torch.take_along_dim(total.sign[active], step.order, 1) * step.sign
            total.order[active] = torch.take_along_dim(total.order[active], step.order, 1)
            changed |= (step.order != torch.arange(group.units)).any(dim=1)
            changed |= (step.sign < 0).any(dim=1)
        scaled[active] = current
        active = active[changed]
        if len(active) == 0:
            break
    return permutations


def _identity(n: int, group: Group) -> UnitPermutation:
    return UnitPermutation(torch.arange(group.units).repeat(n, 1), torch.ones(n, group.units))


def _match_units(weights: Tensor, target: Tensor, group: Group, *, signs: bool) -> UnitPermutation:
    """Return the order and signs (N, S) of one group's units with the largest inner product with the target."""
    gain = torch.zeros(len(weights), group.units, group.units, dtype=weights.dtype)
    for axis in group.axes:
        gain += torch.einsum("bsa,nbta->nst", axis.view(target)[0], axis.view(weights))
    costs = (gain.abs() if signs else gain).numpy()
    order = torch.from_numpy(np.stack([_assign(cost) for cost in costs]))
    matched = torch.take_along_dim(gain, order.unsqueeze(2), dim=2).squeeze(2)
    sign = torch.where(matched < 0, -1.0, 1.0) if signs else torch.ones_like(matched)
    return UnitPermutation(order, sign.float())


def _assign(gain: np.ndarray) -> np.ndarray:
    """Return the column of each row in the assignment with the largest sum, for gains (S, S)."""
    from scipy.optimize import linear_sum_assignment  # here, so that only an alignment imports scipy

    columns: np.ndarray = linear_sum_assignment(gain, maximize=True)[1]
    return columns
