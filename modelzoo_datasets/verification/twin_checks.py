"""Whether sparsified twins are what their parents and their variational parameters make of them.

P numbers of a state. A weight counts as zero from log alpha = 3 on, log alpha = log sigma² - 2 log|w| (1701.05369).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..architectures import PRUNED_FROM
from ..errors import FormatError
from ..weights import Layout
from ..zoo import ParentInfo, ZooInfo
from .target import Found, Target

_ROUNDING = 1e-4  # of log alpha, whose logarithm is not the same to the bit on all machines
_TINY = 1e-15  # as in the training: keeps the logarithm of a zero finite


@dataclass(frozen=True)
class Twins:
    """What all twins of a zoo are held against; `parent` None: not there, so nothing is said of it."""

    layout: Layout
    variational: Layout
    parent: Target | None
    imported: bool = False  # then the first state too is pruned, as it was evaluated

    @classmethod
    def of(cls, subject: Target, parent: Target | None) -> "Twins | None":
        """Of a zoo of twins, None of any other."""
        if not subject.twins:
            return None
        variational = subject.info.variational_layout
        assert variational is not None
        return cls(subject.info.layout, variational, parent, subject.imported)

    def problem(self, found: Found, parent_id: str, sparsity: float) -> str | None:
        """What is wrong with a readable state, None if nothing; `sparsity` is what is recorded."""
        assert found.weights is not None
        start = self._start(found) if found.epoch == 0 and self.parent else None
        if start is not None and (problem := self._not_the_parent(parent_id, start)):
            return problem
        prunable, pruned = self._prunable, self._pruned_at(found.epoch)
        share = int((found.weights[prunable] == 0).sum()) / int(prunable.sum()) if pruned else 0.0
        # Elsewhere a weight or two at the very limit may have been rounded to its other side.
        slack = 2 / int(prunable.sum()) if self.imported else 0.0
        if not math.isclose(share, sparsity, abs_tol=1e-9 + slack) and not (self.imported and math.isnan(sparsity)):
            return f"{share:.6f} of its weights are pruned, recorded sparsity {sparsity:.6f}"
        if found.variational is not None and (wrong := self._not_pruned(found, found.variational)):
            return f"{wrong} of its numbers do not follow from its variational parameters"
        return None

    def _pruned_at(self, epoch: int) -> bool:
        return epoch > 0 or self.imported

    def _start(self, found: Found) -> Tensor | None:
        """The weights (P,) that a twin's first state started from; None where they are not to be had."""
        if not self.imported:
            return found.weights
        return None if found.variational is None else self._unpruned(found.variational)

    def _unpruned(self, variational: Mapping[str, Tensor]) -> Tensor:
        return self.layout.pack({slot.name: variational[slot.name] for slot in self.layout.slots})

    def _not_the_parent(self, parent_id: str, weights: Tensor) -> str | None:
        assert self.parent is not None
        try:
            last = self.parent.last_weights(parent_id)
        except FormatError as error:
            return f"its parent cannot be read: {error}"
        if last is None:  # left out of a dataset because it diverged, or not generated here
            return None
        epoch = self.parent.last_epochs[parent_id]
        same = _same(weights, last).all()
        return None if same else f"it is not the last state of its parent, {self.parent.where(parent_id, epoch)}"

    def _not_pruned(self, found: Found, variational: Mapping[str, Tensor]) -> int:
        """How many numbers are neither zero nor as in the variational file, as log alpha wants them."""
        assert found.weights is not None
        unpruned = self._unpruned(variational)
        if not self._pruned_at(found.epoch):
            return int((~_same(found.weights, unpruned)).sum())
        log_sigma2 = torch.full((self.layout.size,), -math.inf, dtype=torch.float64)
        for start, stop, name in self._variances:
            log_sigma2[start:stop] = variational[name].flatten()
        log_alpha = log_sigma2 - 2 * torch.log(unpruned.double().abs() + _TINY)
        zero, kept = found.weights == 0, _same(found.weights, unpruned)
        surely_pruned, surely_kept = log_alpha >= PRUNED_FROM + _ROUNDING, log_alpha < PRUNED_FROM - _ROUNDING
        return int((~torch.where(surely_pruned, zero, torch.where(surely_kept, kept, kept | zero))).sum())

    @cached_property
    def _variances(self) -> list[tuple[int, int, str]]:
        """Which stretch of a state which log sigma² belongs to, by its name."""
        slots = {slot.name: slot for slot in self.layout.slots}
        found = []
        for extra in self.variational.slots:
            if extra.name not in slots:
                module, _, last = extra.name.rpartition(".")
                slot = slots[f"{module}.{'bias' if last.endswith('_bias') else 'weight'}"]
                found.append((slot.start, slot.stop, extra.name))
        return found

    @cached_property
    def _prunable(self) -> Tensor:
        """(P,) which numbers count for the sparsity: weights of variational layers, not their biases."""
        chosen = torch.zeros(self.layout.size, dtype=torch.bool)
        for start, stop, name in self._variances:
            chosen[start:stop] = not name.endswith("_bias")
        return chosen


def _same(a: Tensor, b: Tensor) -> Tensor:
    """(P,) whether the bits are equal, those of NaN too."""
    return a.view(torch.int32) == b.view(torch.int32)


def is_parent(twins: ZooInfo, other: ZooInfo) -> bool:
    """Return whether sparsified twins name another zoo as that of their parents."""
    return twins.images_sha256 == other.images_sha256 and twins.parent == ParentInfo.from_zoo(other)


def wrong_parent(parent: Path, name: str) -> FormatError:
    """The error for a folder that was named as that of the parents but is another."""
    return FormatError(f"{parent} is not the zoo whose twins {name} are; name its folder with --parent")
