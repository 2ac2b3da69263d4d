"""Checks that sparsified twins follow from their parents and their variational parameters.

P numbers of a state. A weight is pruned if log alpha >= 3, with log alpha = log sigma² - 2 log|w| (1701.05369).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..architectures import PRUNED_FROM
from ..errors import FormatError
from ..weights import Layout
from ..zoo import ParentInfo, ZooInfo
from .target import StoredState, Target

_ROUNDING = 1e-4  # tolerance of log alpha: logarithms differ in their last bits between machines
_TINY = 1e-15  # keeps the logarithm of a zero finite, as in the training


@dataclass(frozen=True)
class TwinChecker:
    """Checks the states of one zoo of sparsified twins."""

    layout: Layout
    variational: Layout
    parent: Target | None  # None: not available, so no twin is compared with its parent
    is_imported: bool = False  # published twins are pruned at epoch 0 too, as they were evaluated

    @classmethod
    def from_target(cls, target: Target, parent: Target | None) -> "TwinChecker | None":
        """Return the checker of a zoo of twins, None for any other zoo."""
        if target.info.variational_layout is None:
            return None
        return cls(target.info.layout, target.info.variational_layout, parent, target.is_imported)

    def find_problem(self, state: StoredState, parent_id: str, sparsity: float) -> str | None:
        """Return the problem of a readable state, None if there is none.

        Args:
            state: the state of a twin.
            parent_id: the model that the twin started from.
            sparsity: the recorded share of pruned weights.
        """
        assert state.weights is not None
        start = self._read_start(state) if state.epoch == 0 and self.parent else None
        if start is not None and (problem := self._compare_with_parent(parent_id, start)):
            return problem
        num_prunable = int(self._prunable.sum())
        num_zeros = int((state.weights[self._prunable] == 0).sum()) if self._is_pruned(state.epoch) else 0
        # Elsewhere one or two weights at the threshold may have been rounded to its other side.
        slack = 2 / num_prunable if self.is_imported else 0.0
        share, is_known = num_zeros / num_prunable, not (self.is_imported and math.isnan(sparsity))
        if is_known and not math.isclose(share, sparsity, abs_tol=1e-9 + slack):
            return f"{share:.6f} of its weights are pruned, recorded sparsity {sparsity:.6f}"
        if state.variational is not None and (count := self._count_deviations(state.weights, state)):
            return f"{count} of its numbers do not follow from its variational parameters"
        return None

    def _is_pruned(self, epoch: int) -> bool:
        return epoch > 0 or self.is_imported

    def _read_start(self, state: StoredState) -> Tensor | None:
        """Return the weights (P,) before the first epoch, None if they are not available."""
        if not self.is_imported:
            return state.weights
        return None if state.variational is None else self._pack_unpruned(state.variational)

    def _pack_unpruned(self, variational: Mapping[str, Tensor]) -> Tensor:
        return self.layout.pack({slot.name: variational[slot.name] for slot in self.layout.slots})

    def _compare_with_parent(self, parent_id: str, weights: Tensor) -> str | None:
        assert self.parent is not None
        try:
            last = self.parent.read_last_weights(parent_id)
        except FormatError as error:
            return f"its parent cannot be read: {error}"
        if last is None:  # not in the dataset because it diverged, or not generated here
            return None
        where = self.parent.locate(parent_id, self.parent.last_epochs[parent_id])
        return None if _equal_bits(weights, last).all() else f"it is not the last state of its parent, {where}"

    def _count_deviations(self, weights: Tensor, state: StoredState) -> int:
        """Count the numbers that are neither zero nor as in the variational file where log alpha demands it."""
        assert state.variational is not None
        unpruned = self._pack_unpruned(state.variational)
        intact = _equal_bits(weights, unpruned)
        if not self._is_pruned(state.epoch):
            return int((~intact).sum())
        log_sigma2 = torch.full((self.layout.size,), -math.inf, dtype=torch.float64)
        for start, stop, name in self._variances:
            log_sigma2[start:stop] = state.variational[name].flatten()
        log_alpha = log_sigma2 - 2 * torch.log(unpruned.double().abs() + _TINY)
        zero = weights == 0
        must_be_zero, must_be_intact = log_alpha >= PRUNED_FROM + _ROUNDING, log_alpha < PRUNED_FROM - _ROUNDING
        return int((~torch.where(must_be_zero, zero, torch.where(must_be_intact, intact, intact | zero))).sum())

    @cached_property
    def _variances(self) -> list[tuple[int, int, str]]:
        """(start, stop, name): the range of a state that each log sigma² belongs to."""
        slots = {slot.name: slot for slot in self.layout.slots}
        ranges = []
        for variance in (slot for slot in self.variational.slots if slot.name not in slots):
            module, _, last = variance.name.rpartition(".")
            slot = slots[f"{module}.{'bias' if last.endswith('_bias') else 'weight'}"]
            ranges.append((slot.start, slot.stop, variance.name))
        return ranges

    @cached_property
    def _prunable(self) -> Tensor:
        """A mask (P,) of the numbers that count for the sparsity: weights of variational layers, not their biases."""
        mask = torch.zeros(self.layout.size, dtype=torch.bool)
        for start, stop, name in self._variances:
            mask[start:stop] = not name.endswith("_bias")
        return mask


def _equal_bits(a: Tensor, b: Tensor) -> Tensor:
    """Return a mask (P,) of the numbers with equal bits, which NaNs have too."""
    return a.view(torch.int32) == b.view(torch.int32)


def is_parent(twins: ZooInfo, other: ZooInfo) -> bool:
    """Return True if sparsified twins name another zoo as that of their parents."""
    return twins.images_sha256 == other.images_sha256 and twins.parent == ParentInfo.from_zoo(other)
