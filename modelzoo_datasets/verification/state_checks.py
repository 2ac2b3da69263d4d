"""Checks of every state: it is the one that was trained, finite where the table says so, and a twin of its parent.

P numbers of a state. A weight of a sparsified twin is pruned if log alpha >= 3, with log alpha = log sigma² - 2 log|w|
(1701.05369).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..architectures import PRUNED_FROM
from ..engines import SPARSITY
from ..errors import FormatError
from ..progress import Progress
from ..weights import Layout
from ..zoo import hash_weights
from .base import Check, Key, StoredState, Target, shorten_hash, to_number

_THREADS = 4  # reading and hashing large states releases Python's lock
_ROUNDING = 1e-4  # tolerance of log alpha: logarithms differ in their last bits between machines
_TINY = 1e-15  # keeps the logarithm of a zero finite, as in the training
_Report = tuple[Key, Mapping[str, str | None]]  # a state, and for each of its checks the problem or None


def check_states(target: Target, parent: Target | None, progress: Progress) -> tuple[list[Check], list[Key]]:
    """Read and check all states of a zoo once, many at a time.

    Args:
        target: the zoo.
        parent: the zoo of the parents of its sparsified twins, None if it is not available.
        progress: counts states.

    Returns:
        The checks (states, hashes, finite, and for twins: twins), and the finite states without a problem.
    """
    info = target.info
    twins: TwinChecker | None = None
    if info.variational_layout is not None:
        twins = TwinChecker(info.layout, info.variational_layout, parent, target.is_imported)
    names = ("states", "hashes", "finite", *(["twins"] if twins else []))
    problems: dict[str, list[str | None]] = {name: [] for name in names}
    sound: list[Key] = []
    for key, report in _iter_reports(target, twins, progress):
        for name, problem in report.items():
            problems[name].append(problem)
        row = target.rows.get(key)
        if row is not None and row["finite"] and not any(report.values()):
            sound.append(key)
    return [Check(name, len(lines), [line for line in lines if line]) for name, lines in problems.items()], sound


def _iter_reports(target: Target, twins: "TwinChecker | None", progress: Progress) -> Iterator[_Report]:
    """Check every state in the order of the readers."""
    keys = {row["sha256"]: key for key, row in target.rows.items()}

    def run_reader(reader: Callable[[], Iterator[StoredState]]) -> list[_Report]:
        return [
            ((state.model_id, state.epoch), {"states": state.problem} | _check_state(target, twins, keys, state))
            for state in reader()
        ]

    pool = ThreadPoolExecutor(_THREADS)
    try:
        with progress.start(f"reading {target.name}", len(target.rows)) as task:
            for reports in pool.map(run_reader, target.readers):
                yield from reports
                task.update(len(reports))
    finally:
        pool.shutdown(cancel_futures=True)


def _check_state(
    target: Target, twins: "TwinChecker | None", keys: Mapping[str, Key], state: StoredState
) -> dict[str, str | None]:
    """Return for each check of a readable state its problem or None; nothing if its row is unknown or it is another."""
    key = (state.model_id, state.epoch)
    row = target.rows.get(key)
    if state.weights is None or row is None:  # the check of the tables reports an unknown row
        return {}
    where, repair = target.locate(*key), target.suggest_repair(state.model_id)
    sha256 = hash_weights(state.weights)
    if sha256 != row["sha256"]:
        reason = f"it is {keys[sha256][0]} epoch {keys[sha256][1]}" if sha256 in keys else "it was altered"
        hashes = f"sha256 {shorten_hash(sha256)}, recorded {shorten_hash(row['sha256'])}"
        return {"hashes": f"{where} is not the state that was trained: {reason} ({hashes}); {repair}"}
    checks: dict[str, str | None] = {"hashes": None, "finite": None}
    if (finite := bool(torch.isfinite(state.weights).all())) != row["finite"]:
        content = "has only finite weights" if finite else "has weights that are not finite"
        checks["finite"] = f"{where} {content}, but column finite says {bool(row['finite'])}; {repair}"
    if twins:
        parent_id = target.members[state.model_id].parent_id or ""
        problem = twins.find_problem(state, state.weights, parent_id, to_number(row[SPARSITY]))
        checks["twins"] = f"{where}: {problem}; {repair}" if problem else None
    return checks


@dataclass(frozen=True)
class TwinChecker:
    """Checks that the states of sparsified twins follow from their parents and their variational parameters."""

    layout: Layout
    variational: Layout
    parent: Target | None  # None: not available, so no twin is compared with its parent
    is_imported: bool  # published twins are pruned at epoch 0 too, as they were evaluated

    def find_problem(self, state: StoredState, weights: Tensor, parent_id: str, sparsity: float) -> str | None:
        """Return the problem of a state, None if there is none.

        Args:
            state: the state of a twin.
            weights: its weights (P,).
            parent_id: the model that the twin started from.
            sparsity: the recorded share of pruned weights.
        """
        if state.epoch == 0 and self.parent is not None:
            start = self._find_start(state, weights)
            if start is not None and (problem := self._compare_with_parent(self.parent, parent_id, start)):
                return problem
        is_pruned = state.epoch > 0 or self.is_imported
        prunable = weights[self._prunable]
        share = int((prunable == 0).sum()) / len(prunable) if is_pruned else 0.0
        # Elsewhere one or two weights at the threshold may have been rounded to its other side.
        slack = 2 / len(prunable) if self.is_imported else 0.0
        is_recorded = not (self.is_imported and math.isnan(sparsity))
        if is_recorded and not math.isclose(share, sparsity, abs_tol=1e-9 + slack):
            return f"{share:.6f} of its weights are pruned, recorded sparsity {sparsity:.6f}"
        if state.variational is not None and (n := self._count_deviations(weights, state.variational, is_pruned)):
            return f"{n} of its numbers do not follow from its variational parameters"
        return None

    def _find_start(self, state: StoredState, weights: Tensor) -> Tensor | None:
        """Return the weights (P,) before the first epoch, None if they are not available."""
        if not self.is_imported:
            return weights
        return None if state.variational is None else self._pack_unpruned(state.variational)

    def _pack_unpruned(self, variational: Mapping[str, Tensor]) -> Tensor:
        return self.layout.pack({slot.name: variational[slot.name] for slot in self.layout.slots})

    def _compare_with_parent(self, parent: Target, parent_id: str, weights: Tensor) -> str | None:
        try:
            last = parent.read_last_weights(parent_id)
        except FormatError as error:
            return f"its parent cannot be read: {error}"
        # The parent may be missing, because it diverged and was left out of a dataset or was not generated here.
        if last is None or _equal_bits(weights, last).all():
            return None
        return f"it is not the last state of its parent, {parent.locate(parent_id, parent.last_epochs[parent_id])}"

    def _count_deviations(self, weights: Tensor, variational: Mapping[str, Tensor], is_pruned: bool) -> int:
        """Count the numbers that are neither zero nor as in the variational file where log alpha demands it."""
        unpruned = self._pack_unpruned(variational)
        intact = _equal_bits(weights, unpruned)
        if not is_pruned:
            return int((~intact).sum())
        log_sigma2 = torch.full((self.layout.size,), -math.inf, dtype=torch.float64)
        for start, stop, name in self._variances:
            log_sigma2[start:stop] = variational[name].flatten()
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
