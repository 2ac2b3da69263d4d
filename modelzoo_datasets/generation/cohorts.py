"""Cohorts: models trained elsewhere, whose results come as files on a local disk or at an fsspec URL.

A result is one safetensors file per model, `<model_id>.safetensors`, with all its states in the order of their epochs:
`weights` (K, P), `recall` (K, C), every metric (K,) and, of twins, `variational` (K, Q). Where that would be too big
for memory, the first states come before it in `<model_id>.part-000.safetensors` and so on. It is written last, and
whole, so that what a killed task leaves behind never counts. Every file names the digest of the zoo's info: what
another recipe, engine or version made is never taken in.

The process that owns the zoo folder collects results into it, so that the folder is the same as trained in one place.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from torch import Tensor

from .._util import SPLITS
from ..engines import METRICS, SPARSITY, Engine, Job, States
from ..errors import FormatError, ModelZooError, RecipeError
from ..images import Images
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member
from ..zoo import ZooInfo, ZooWriter, write_bytes

_PART_BYTES = 100_000_000  # of states in memory, per model in training
_COLLECTED_AT_ONCE = 20  # models, whose results lie on disk twice for a while
_HEADER_BYTES = 65_536  # more than the header of a result takes
_NAME = re.compile(r"\.*(.+?)\.(?:part-\d+\.)?safetensors.*")  # of any file of a result, half-written ones included


def results_beside(out: Path) -> str:
    """Where the results of the cohorts of a zoo folder lie if nothing else is said."""
    return str(out.absolute().with_name(f"{out.name}.cohorts"))


def slice_of(members: Sequence[Member], part: int, parts: int) -> list[Member]:
    """Part 1 to `parts` of the models, in stretches as equal as can be; raises RecipeError for no such part."""
    if not 1 <= part <= parts:
        raise RecipeError(f"cohort must be 1/{parts} to {parts}/{parts}, got {part}/{parts}")
    return list(members[len(members) * (part - 1) // parts : len(members) * part // parts])


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Models to be trained together somewhere, and where their results go."""

    members: Sequence[Member]
    jobs: Sequence[Job]
    architecture: str
    info: ZooInfo  # of the zoo, see `Plan.zoo_info`
    url: str


def train_cohort(cohort: Cohort, images: Images, engine: Engine, *, progress: Progress = NO_PROGRESS) -> int:
    """Train what has no result yet and write its results; returns how many models were trained.

    Raises:
        FormatError: there are results of another zoo.
    """
    results = Results(cohort.url, cohort.info.digest)
    there = {member.model_id for member in results.of(cohort.members)}
    missing = [i for i, member in enumerate(cohort.members) if member.model_id not in there]
    growing = [_Growing(results, cohort.members[i]) for i in missing]
    jobs = [cohort.jobs[i] for i in missing]
    what = f"training a cohort of {cohort.info.name}"
    with (
        progress.start(what, len(cohort.members), initial=len(there)) as task,
        closing(engine.train(cohort.architecture, images, jobs, metrics_on=SPLITS)) as stream,
    ):
        for states in stream:
            for row, job in enumerate(states.jobs.tolist()):
                if growing[job].add(states, row):
                    task.update()
    return len(missing)


@dataclass
class _Growing:
    """The result of a model in training: written in parts, so that no big model is in memory with all its epochs."""

    results: "Results"
    member: Member
    rows: list[dict[str, Tensor]] = field(default_factory=list)
    parts: int = 0

    def add(self, states: States, row: int) -> bool:
        """Take over one state; True with the last one."""
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
    """Take the results that there are of these models into the zoo folder and remove them there; returns how many.

    Raises:
        FormatError: there are results of another zoo, or damaged ones.
    """
    results = Results(url, info.digest)
    found = results.of(members)
    if not found:
        return 0
    finished = writer.finished(found)
    with progress.start("taking in results", len(found)) as task:
        for first in range(0, len(found), _COLLECTED_AT_ONCE):
            part = found[first : first + _COLLECTED_AT_ONCE]
            take_in(writer, [member for member in part if member.model_id not in finished], results)
            results.remove(part)
            task.update(len(part))
    results.sweep(found)
    return len(found)


def take_in(writer: ZooWriter, members: Iterable[Member], results: "Results") -> None:
    """Write the results of these models into the zoo folder; raises FormatError where one is missing or damaged."""
    for member in members:
        epoch = 0
        for part in results.read(member):
            names = [name for name in (*METRICS, SPARSITY) if name in part]
            for row, weights in enumerate(part["weights"]):
                metrics = {name: part[name][row].item() for name in names}
                variational = part["variational"][row] if "variational" in part else None
                writer.add(member, epoch, weights, metrics, part["recall"][row], variational)
                epoch += 1
    writer.pool.flush()


class Results:
    """The results of one zoo, below a URL or in a local folder."""

    def __init__(self, url: str, digest: str) -> None:
        """Nothing is read yet; raises ModelZooError for a URL that cannot be."""
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ModelZooError(f"results cannot be at {url}: {error}") from error
        self._local = isinstance(self._files, LocalFileSystem)
        self.url = str(self._root) if self._local else url  # as it is understood in any working directory
        self._digest = digest

    def of(self, members: Iterable[Member]) -> list[Member]:
        """Those of these models that have a whole result; raises FormatError where it is another zoo's."""
        sizes = self._sizes()
        named = [member for member in members if _name(member) in sizes]
        return [member for member in named if self._is_whole(_name(member), sizes[_name(member)])]

    def _sizes(self) -> dict[str, int]:
        """Bytes of every file there is, by name."""
        self._files.invalidate_cache(self._root)  # others write here
        try:
            listed = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        return {str(info["name"]).rpartition("/")[2]: int(info["size"] or 0) for info in listed}

    def _is_whole(self, name: str, size: int) -> bool:
        try:
            length, header = self._header(name)
            metadata = header.pop("__metadata__")
            end = 8 + length + max(int(slot["data_offsets"][1]) for slot in header.values())
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # cut off, or gone meanwhile
            return False
        self._check(name, metadata)
        return size == end

    def _header(self, name: str) -> tuple[int, dict[str, Any]]:
        head = self._files.cat_file(f"{self._root}/{name}", start=0, end=_HEADER_BYTES)
        length = int.from_bytes(head[:8], "little")
        return length, json.loads(head[8 : 8 + length])

    def _check(self, name: str, metadata: Mapping[str, str]) -> None:
        if metadata.get("facts") != self._digest:
            raise FormatError(
                f"cohort result {self.url}/{name} is of another recipe, engine or version than this zoo; remove it, or "
                "name another place with --results"
            )

    def put(self, member: Member, states: Mapping[str, Tensor], part: int, *, last: bool) -> None:
        """Write the next states of a model, whole; `last` makes its result, of `part` files before it."""
        content = safetensors.torch.save(dict(states), metadata={"facts": self._digest, "parts": str(part)})
        name = _name(member) if last else _part_name(member, part)
        if not self._local:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(f"{self._root}/{name}", content)
            return
        # A name of its own: a task that was given up for lost may still be writing the same.
        partial = Path(self._root) / f".{name}.{uuid4().hex}"
        write_bytes(partial, content)
        partial.replace(partial.with_name(name))

    def read(self, member: Member) -> Iterator[dict[str, Tensor]]:
        """The states of a model, part by part; raises FormatError where they are missing, damaged or another zoo's."""
        epochs = 0
        for name in self._names(member):
            tensors = self._load(name)
            epochs += len(tensors["weights"])
            if name == _name(member) and epochs != member.training.epochs + 1:
                raise self._damaged(name, f"{epochs} states, expected {member.training.epochs + 1}")
            yield tensors

    def _names(self, member: Member) -> list[str]:
        """The files of a result, in the order of their states."""
        try:
            parts = int(self._header(_name(member))[1]["__metadata__"]["parts"])
        except FileNotFoundError:
            raise FormatError(
                f"there is no result of {member.model_id} at {self.url}, though it was written: name a folder that all "
                "nodes see with --results, or an fsspec URL"
            ) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._damaged(_name(member), error) from error
        return [*(_part_name(member, part) for part in range(parts)), _name(member)]

    def _load(self, name: str) -> dict[str, Tensor]:
        try:
            content = self._files.cat_file(f"{self._root}/{name}")
            tensors = safetensors.torch.load(content)
        except (OSError, SafetensorError) as error:
            raise self._damaged(name, error) from error
        length = int.from_bytes(content[:8], "little")
        self._check(name, json.loads(content[8 : 8 + length]).get("__metadata__", {}))
        return tensors

    def _damaged(self, name: str, reason: object) -> FormatError:
        return FormatError(f"cannot read cohort result {self.url}/{name}: {reason}; remove it")

    def remove(self, members: Iterable[Member]) -> None:
        """Remove the results of these models."""
        for member in members:
            for name in self._names(member):
                self._remove(name)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def sweep(self, members: Iterable[Member]) -> None:
        """Remove every file of these models, half-written ones included, and a local folder with its last file."""
        ids = {member.model_id for member in members}
        for name in self._sizes():
            if (found := _NAME.fullmatch(name)) and found[1] in ids:
                self._remove(name)
        if self._local:
            with suppress(OSError):  # not there, or not empty
                Path(self._root).rmdir()


def _name(member: Member) -> str:
    return f"{member.model_id}.safetensors"


def _part_name(member: Member, part: int) -> str:
    return f"{member.model_id}.part-{part:03d}.safetensors"
