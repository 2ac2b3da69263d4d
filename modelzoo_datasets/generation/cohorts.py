"""Cohorts: groups of models that are trained elsewhere and return their results as files.

The process that owns the zoo folder collects the results into it, which makes the folder the same as if every model
had been trained in that process.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .._util import SPLITS
from ..engines import METRICS, SPARSITY, Engine, Job, States
from ..errors import ArgumentError
from ..images import Images
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member
from ..zoo import ZooInfo, ZooWriter
from .cohort_results import Results
from .plan import Plan

_PART_BYTES = 100_000_000  # states in memory, per model in training
_COLLECT_BATCH = 20  # models whose results lie on disk twice for a while


def default_results_url(out: Path) -> str:
    """Return the folder of the results of a zoo folder for callers who name none: beside it, named OUT.cohorts."""
    return str(out.absolute().with_name(f"{out.name}.cohorts"))


def select_part(members: Sequence[Member], part: int, parts: int) -> list[Member]:
    """Return one of several consecutive parts of the models, whose sizes differ by at most one.

    Args:
        members: All models.
        part: Number of the part, counted from 1.
        parts: Number of parts.

    Raises:
        ArgumentError: There is no such part.
    """
    if not 1 <= part <= parts:
        raise ArgumentError(f"cohort must be 1/{parts} to {parts}/{parts}, got {part}/{parts}")
    return list(members[len(members) * (part - 1) // parts : len(members) * part // parts])


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Models that are trained together, and the place of their results."""

    members: Sequence[Member]
    jobs: Sequence[Job]
    architecture: str
    info: ZooInfo
    url: str  # folder or fsspec URL of the results


def iterate_cohorts(plan: Plan, members: Sequence[Member], info: ZooInfo, url: str) -> Iterator[Cohort]:
    """Yield the cohorts of these models one by one, each with initial weights of twins that fit into memory.

    Args:
        plan: The plan of the zoo.
        members: The models.
        info: The zoo.
        url: Folder or fsspec URL of the results.
    """
    for part, jobs in plan.jobs(members):
        yield Cohort(members=part, jobs=jobs, architecture=plan.architecture.name, info=info, url=url)


def train_cohort(cohort: Cohort, images: Images, engine: Engine, *, progress: Progress = NO_PROGRESS) -> int:
    """Train the models of a cohort that have no result yet, and write their results.

    Args:
        cohort: The models.
        images: The images that they are trained on.
        engine: The engine that trains them.
        progress: Display of the number of finished models.

    Returns:
        The number of models that had to be trained.

    Raises:
        FormatError: The folder of the results holds results of another zoo.
    """
    results = Results(cohort.url, cohort.info.digest)
    finished = {member.model_id for member in results.select_finished(cohort.members)}
    missing = [i for i, member in enumerate(cohort.members) if member.model_id not in finished]
    buffers = [_ResultBuffer(results, cohort.members[i]) for i in missing]
    jobs = [cohort.jobs[i] for i in missing]
    description = f"training a cohort of {cohort.info.name}"
    with (
        progress.start(description, len(cohort.members), initial=len(finished)) as task,
        closing(engine.train(cohort.architecture, images, jobs, metrics_on=SPLITS)) as stream,
    ):
        for states in stream:
            for row, job in enumerate(states.jobs.tolist()):
                if buffers[job].add(states, row):
                    task.update()
    return len(missing)


@dataclass
class _ResultBuffer:
    """The states of a model in training, written in parts so that a big model is never in memory with all of them."""

    results: Results
    member: Member
    rows: list[dict[str, Tensor]] = field(default_factory=list)
    parts: int = 0

    def add(self, states: States, row: int) -> bool:
        """Add one row of `states`; return True if it was the last state of the model."""
        columns = {**states.metrics, "weights": states.weights, "recall": states.recall}
        if states.variational is not None:
            columns["variational"] = states.variational
        self.rows.append({name: column[row] for name, column in columns.items()})
        last = int(states.epochs[row]) == self.member.training.epochs
        if last or sum(tensor.nbytes for state in self.rows for tensor in state.values()) >= _PART_BYTES:
            stacked = {name: torch.stack([state[name] for state in self.rows]) for name in columns}
            self.results.put(self.member, stacked, self.parts, last=last)
            self.rows, self.parts = [], self.parts + 1
        return last


def collect(
    writer: ZooWriter,
    members: Sequence[Member],
    url: str,
    info: ZooInfo,
    *,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Move the results of models into the zoo folder.

    Args:
        writer: The writer of the zoo folder.
        members: The models; those without a result are left out.
        url: Folder or fsspec URL of the results.
        info: The zoo.
        progress: Display of the number of collected models.

    Returns:
        The number of collected models.

    Raises:
        FormatError: A result belongs to another zoo or is damaged.
    """
    results = Results(url, info.digest)
    available = results.select_finished(members)
    if not available:
        return 0
    finished = writer.find_finished(available)
    with progress.start("collecting results", len(available)) as task:
        for first in range(0, len(available), _COLLECT_BATCH):
            part = available[first : first + _COLLECT_BATCH]
            write_results(writer, [member for member in part if member.model_id not in finished], results)
            results.remove(part)
            task.update(len(part))
    results.sweep(available)
    return len(available)


def write_results(writer: ZooWriter, members: Iterable[Member], results: Results) -> None:
    """Write the results of models into the zoo folder.

    Args:
        writer: The writer of the zoo folder.
        members: Models that have a result.
        results: The results of the zoo.

    Raises:
        FormatError: A result is missing or damaged.
    """
    for member in members:
        epoch = 0
        for part in results.read(member):
            count = len(part["weights"])
            states = States(
                jobs=torch.zeros(count, dtype=torch.int64),
                epochs=torch.arange(epoch, epoch + count),
                weights=part["weights"],
                metrics=part,
                recall=part["recall"],
                variational=part.get("variational"),
            )
            add_states(writer, [member], states)
            epoch += count
    writer.pool.flush()


def add_states(writer: ZooWriter, members: Sequence[Member], states: States) -> int:
    """Hand states to the writer and return the number of models that they finished.

    Args:
        writer: The writer of the zoo folder.
        members: The models, in the order of the jobs that `states.jobs` refers to.
        states: States of these models, as an engine yields them.
    """
    names = [name for name in (*METRICS, SPARSITY) if name in states.metrics]
    finished = 0
    for i, (job, epoch) in enumerate(zip(states.jobs.tolist(), states.epochs.tolist(), strict=True)):
        member = members[job]
        variational = None if states.variational is None else states.variational[i]
        metrics = {name: states.metrics[name][i].item() for name in names}
        writer.add(member, epoch, states.weights[i], metrics, states.recall[i], variational)
        finished += epoch == member.training.epochs
    return finished
