"""Cohorts: groups of models that are trained elsewhere and return their results as files.

The files lie in a local folder or at an fsspec URL. A result is one safetensors file per model,
`<model_id>.safetensors`, with all states of the model in the order of their epochs: `weights` (K, P), `recall` (K, C),
every metric (K,) and, for twins, `variational` (K, Q). If these would not fit into memory, the first states are written
before it as `<model_id>.part-000.safetensors` and so on. The result itself is written last and atomically, so that the
leftovers of a killed task are never mistaken for a result. Every file names the digest of the zoo, so that results of
another recipe, engine or version are never collected.

The process that owns the zoo folder collects the results into it, which makes the folder the same as if every model
had been trained in that process.

    K states, P weights, C classes, Q numbers of a variational state
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from torch import Tensor

from .._util import SPLITS
from ..engines import METRICS, SPARSITY, Engine, Job, States
from ..errors import ArgumentError, FormatError
from ..images import Images
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member
from ..zoo import SafetensorsHeader, ZooInfo, ZooWriter, write_bytes

_PART_BYTES = 100_000_000  # states in memory, per model in training
_COLLECT_BATCH = 20  # models whose results lie on disk twice for a while
_HEADER_BYTES = 65_536  # more than any header of a result
_FILE_NAME = re.compile(r"\.*(.+?)\.(?:part-\d+\.)?safetensors.*")  # any file of a result, unfinished ones included


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

    results: "Results"
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


def write_results(writer: ZooWriter, members: Iterable[Member], results: "Results") -> None:
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
            names = [name for name in (*METRICS, SPARSITY) if name in part]
            for row, weights in enumerate(part["weights"]):
                metrics = {name: part[name][row].item() for name in names}
                variational = part["variational"][row] if "variational" in part else None
                writer.add(member, epoch, weights, metrics, part["recall"][row], variational)
                epoch += 1
    writer.pool.flush()


class Results:
    """The results of the cohorts of one zoo."""

    def __init__(self, url: str, digest: str) -> None:
        """Name the place without reading it.

        Args:
            url: Local folder or fsspec URL.
            digest: `ZooInfo.digest` of the zoo.

        Raises:
            ArgumentError: fsspec does not know this kind of URL.
        """
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ArgumentError(f"results cannot be at {url}: {error}") from error
        self._local = isinstance(self._files, LocalFileSystem)
        self.url = str(self._root) if self._local else url  # valid in any working directory
        self._digest = digest

    def select_finished(self, members: Iterable[Member]) -> list[Member]:
        """Return the models that have a complete result.

        Raises:
            FormatError: A result belongs to another zoo.
        """
        sizes = self._sizes()
        candidates = [member for member in members if _name(member) in sizes]
        return [member for member in candidates if self._is_complete(_name(member), sizes[_name(member)])]

    def _sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file, by name."""
        self._files.invalidate_cache(self._root)  # other processes write here
        try:
            entries = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        return {str(info["name"]).rpartition("/")[2]: int(info["size"] or 0) for info in entries}

    def _is_complete(self, name: str, size: int) -> bool:
        try:
            header = self._header(name)
        except (OSError, ValueError):  # truncated, or removed by another process
            return False
        self._check(name, header.metadata)
        return size == header.file_size

    def _header(self, name: str) -> SafetensorsHeader:
        return SafetensorsHeader.parse(self._files.cat_file(f"{self._root}/{name}", start=0, end=_HEADER_BYTES))

    def _check(self, name: str, metadata: Mapping[str, str]) -> None:
        if metadata.get("facts") != self._digest:
            raise FormatError(
                f"cohort result {self.url}/{name} belongs to another recipe, engine or version than this zoo; remove "
                "it, or pass another --results"
            )

    def put(self, member: Member, states: Mapping[str, Tensor], part: int, *, last: bool) -> None:
        """Write a file with the next states of a model, atomically.

        Args:
            member: The model.
            states: Column of the result -> values of these states.
            part: Number of files that were written before for this model.
            last: Whether these are its last states, which makes the file its result.
        """
        content = safetensors.torch.save(dict(states), metadata={"facts": self._digest, "parts": str(part)})
        name = _name(member) if last else _part_name(member, part)
        if not self._local:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(f"{self._root}/{name}", content)
            return
        # A unique name, since a task that was considered lost may still be writing the same file.
        partial = Path(self._root) / f".{name}.{uuid4().hex}"
        write_bytes(partial, content)
        partial.replace(partial.with_name(name))

    def read(self, member: Member) -> Iterator[dict[str, Tensor]]:
        """Yield the states of a model, one file after the other.

        Raises:
            FormatError: A file is missing or damaged, or belongs to another zoo.
        """
        epochs = 0
        for name in self._names(member):
            tensors = self._load(name)
            epochs += len(tensors["weights"])
            if name == _name(member) and epochs != member.training.epochs + 1:
                raise self._damage_error(name, f"{epochs} states, expected {member.training.epochs + 1}")
            yield tensors

    def _names(self, member: Member) -> list[str]:
        """Return the names of the files of a result, in the order of their states."""
        try:
            parts = int(self._header(_name(member)).metadata["parts"])
        except FileNotFoundError:
            raise FormatError(
                f"there is no result of {member.model_id} at {self.url}, although a node wrote it: pass a folder that "
                "all nodes share as --results, or an fsspec URL"
            ) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._damage_error(_name(member), error) from error
        return [*(_part_name(member, part) for part in range(parts)), _name(member)]

    def _load(self, name: str) -> dict[str, Tensor]:
        try:
            content = self._files.cat_file(f"{self._root}/{name}")
            tensors = safetensors.torch.load(content)
        except (OSError, SafetensorError) as error:
            raise self._damage_error(name, error) from error
        self._check(name, SafetensorsHeader.parse(content).metadata)
        return tensors

    def _damage_error(self, name: str, reason: object) -> FormatError:
        return FormatError(f"cannot read cohort result {self.url}/{name}: {reason}; remove it")

    def remove(self, members: Iterable[Member]) -> None:
        """Remove the results of models."""
        for member in members:
            for name in self._names(member):
                self._remove(name)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def sweep(self, members: Iterable[Member]) -> None:
        """Remove every file of models, unfinished ones included, and then a local folder that is empty."""
        ids = {member.model_id for member in members}
        for name in self._sizes():
            if (match := _FILE_NAME.fullmatch(name)) and match[1] in ids:
                self._remove(name)
        if self._local:
            with suppress(OSError):  # it does not exist or is not empty
                Path(self._root).rmdir()


def _name(member: Member) -> str:
    return f"{member.model_id}.safetensors"


def _part_name(member: Member, part: int) -> str:
    return f"{member.model_id}.part-{part:03d}.safetensors"
