"""Read every state once: is it one of this zoo, the one that was trained, finite where the table says so?"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from ..engines import SPARSITY
from ..progress import Progress
from ..zoo import weights_sha256
from .check import Check, number, short
from .target import Found, Key, Target
from .twin_checks import Twins

_CHECKS = ("states", "hashes", "finite")
_THREADS = 4  # reading and hashing of large states leave Python's lock


@dataclass(frozen=True)
class _Seen:
    """What was found out about one state: by check the problem, None where there is none."""

    key: Key
    checks: Mapping[str, str | None]


@dataclass(frozen=True)
class Reading:
    """What reading all states has shown."""

    checks: list[Check]  # states, hashes, finite and, of twins, twins
    sound: list[Key]  # finite states that are those that were trained


def read_states(subject: Target, twins: Twins | None, progress: Progress) -> Reading:
    """Read all states of a zoo, many at a time."""
    problems: dict[str, list[str | None]] = {name: [] for name in (*_CHECKS, *(["twins"] if twins else []))}
    sound: list[Key] = []
    for seen in _seen(subject, twins, progress):
        for name, problem in seen.checks.items():
            problems[name].append(problem)
        row = subject.rows.get(seen.key)
        if row is not None and row["finite"] and not any(seen.checks.values()):
            sound.append(seen.key)
    checks = [Check(name, len(found), [text for text in found if text]) for name, found in problems.items()]
    return Reading(checks, sound)


def _seen(subject: Target, twins: Twins | None, progress: Progress) -> Iterator[_Seen]:
    """Every state in the order of its parts."""
    known = {row["sha256"]: key for key, row in subject.rows.items()}

    def look(part: Callable[[], Iterator[Found]]) -> list[_Seen]:
        return [_look(subject, twins, known, found) for found in part()]

    pool = ThreadPoolExecutor(_THREADS)
    try:
        with progress.start(f"reading {subject.name}", len(subject.rows)) as task:
            for states in pool.map(look, subject.parts):
                yield from states
                task.update(len(states))
    finally:
        pool.shutdown(cancel_futures=True)


def _look(subject: Target, twins: Twins | None, known: Mapping[str, Key], found: Found) -> _Seen:
    key = (found.model_id, found.epoch)
    if found.weights is None:
        return _Seen(key, {"states": found.problem})
    row = subject.rows.get(key)
    if row is None:  # said of the tables
        return _Seen(key, {"states": None})
    where, remedy = subject.where(*key), subject.remedy(found.model_id)
    sha256 = weights_sha256(found.weights)
    if sha256 != row["sha256"]:
        really = f"it is {known[sha256][0]} epoch {known[sha256][1]}" if sha256 in known else "it was altered"
        hashes = f"sha256 {short(sha256)}, recorded {short(row['sha256'])}"
        return _Seen(key, {"states": None, "hashes": f"{where} is not what was trained: {really} ({hashes}); {remedy}"})
    checks: dict[str, str | None] = {"states": None, "hashes": None, "finite": None}
    if (finite := bool(torch.isfinite(found.weights).all())) != row["finite"]:
        what = "has only finite weights" if finite else "has weights that are not finite"
        checks["finite"] = f"{where} {what}, but column finite says {bool(row['finite'])}; {remedy}"
    if twins:
        parent_id = subject.members[found.model_id].parent_id or ""
        problem = twins.problem(found, parent_id, number(row[SPARSITY]))
        checks["twins"] = f"{where}: {problem}; {remedy}" if problem else None
    return _Seen(key, checks)
