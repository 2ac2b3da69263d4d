"""Reads every state once and checks that it is the state that was trained, and finite where the table says so."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from ..engines import SPARSITY
from ..progress import Progress
from ..zoo import hash_weights
from .check import Check, shorten_hash, to_number
from .target import Key, StoredState, Target
from .twin_checks import TwinChecker

_CHECKS = ("states", "hashes", "finite")
_THREADS = 4  # reading and hashing large states releases Python's lock


@dataclass(frozen=True)
class StateReport:
    """The checks of one state, name -> problem, None where there is none."""

    key: Key
    checks: Mapping[str, str | None]


@dataclass(frozen=True)
class StateSummary:
    """The checks of all states."""

    checks: list[Check]  # states, hashes, finite, and for twins: twins
    sound: list[Key]  # finite states without a problem


def check_states(target: Target, twins: TwinChecker | None, progress: Progress) -> StateSummary:
    """Read and check all states of a zoo, many at a time.

    Args:
        target: the zoo.
        twins: the checker of its sparsified twins, None for any other zoo.
        progress: counts states.
    """
    problems: dict[str, list[str | None]] = {name: [] for name in (*_CHECKS, *(["twins"] if twins else []))}
    sound: list[Key] = []
    for report in _iter_reports(target, twins, progress):
        for name, problem in report.checks.items():
            problems[name].append(problem)
        row = target.rows.get(report.key)
        if row is not None and row["finite"] and not any(report.checks.values()):
            sound.append(report.key)
    checks = [Check(name, len(lines), [line for line in lines if line]) for name, lines in problems.items()]
    return StateSummary(checks, sound)


def _iter_reports(target: Target, twins: TwinChecker | None, progress: Progress) -> Iterator[StateReport]:
    """Check every state in the order of the readers."""
    keys = {row["sha256"]: key for key, row in target.rows.items()}

    def run_reader(reader: Callable[[], Iterator[StoredState]]) -> list[StateReport]:
        return [_check_state(target, twins, keys, state) for state in reader()]

    pool = ThreadPoolExecutor(_THREADS)
    try:
        with progress.start(f"reading {target.name}", len(target.rows)) as task:
            for reports in pool.map(run_reader, target.readers):
                yield from reports
                task.update(len(reports))
    finally:
        pool.shutdown(cancel_futures=True)


def _check_state(target: Target, twins: TwinChecker | None, keys: Mapping[str, Key], state: StoredState) -> StateReport:
    key = (state.model_id, state.epoch)
    if state.weights is None:
        return StateReport(key, {"states": state.problem})
    row = target.rows.get(key)
    if row is None:  # the check of the tables reports it
        return StateReport(key, {"states": None})
    where, repair = target.locate(*key), target.suggest_repair(state.model_id)
    sha256 = hash_weights(state.weights)
    if sha256 != row["sha256"]:
        reason = f"it is {keys[sha256][0]} epoch {keys[sha256][1]}" if sha256 in keys else "it was altered"
        hashes = f"sha256 {shorten_hash(sha256)}, recorded {shorten_hash(row['sha256'])}"
        problem = f"{where} is not the state that was trained: {reason} ({hashes}); {repair}"
        return StateReport(key, {"states": None, "hashes": problem})
    checks: dict[str, str | None] = {"states": None, "hashes": None, "finite": None}
    if (finite := bool(torch.isfinite(state.weights).all())) != row["finite"]:
        content = "has only finite weights" if finite else "has weights that are not finite"
        checks["finite"] = f"{where} {content}, but column finite says {bool(row['finite'])}; {repair}"
    if twins:
        parent_id = target.members[state.model_id].parent_id or ""
        twin_problem = twins.find_problem(state, parent_id, to_number(row[SPARSITY]))
        checks["twins"] = f"{where}: {twin_problem}; {repair}" if twin_problem else None
    return StateReport(key, checks)
