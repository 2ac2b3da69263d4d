"""Cohorts as tasks of a Ray cluster; the zoo folder gets the same bytes as from a run on one machine.

One task trains one cohort, minutes of work, and leaves its results as files where all nodes and this process see them;
this process takes them into the zoo folder. A task whose worker or node is lost runs again elsewhere and trains only
what has no result yet. The cluster is given few more tasks than it can run at once, and the images once, so that
neither it nor this process ever holds all that a big zoo starts from.

Every node needs the same versions of Python, Ray, torch and this package, and plugin files at the same paths.
"""

import logging
import os
import platform
import socket
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from .._util import one_line, versions
from ..analysis import write_statistics
from ..engines import get_engine
from ..errors import DeviceError, LostWorkerError, ModelZooError
from ..images import Images, Split
from ..plugins import VARIABLE, load_plugins
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member, Recipe, select_config
from ..zoo import ZooFolder, ZooInfo, ZooWriter
from .cohorts import Cohort, Results, collect, results_beside, take_in, train_cohort
from .plan import Plan, resolve_images_root, resolve_parent

_RETRIES = 3  # of a task that was lost
_AHEAD = 2  # tasks given to the cluster for each that it can run at once
_LOOK_AFTER = 5.0  # seconds after which its nodes are counted again
_PATIENCE = 300.0  # seconds without a node for the tasks; a cluster that grows by itself needs minutes
_REACHED_IN = 10.0  # seconds
_TOLD = 3  # failures told in full
_LONGEST = 300  # characters of a cause

SharedImages = tuple[Images, Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]]
Outcome = tuple[Sequence[Member], str | None]  # a cohort, and why it failed


def generate_on_ray(
    recipe: Recipe | str,
    out: Path | str,
    *,
    address: str,
    config: str | None = None,
    images_root: Path | str | None = None,
    engine: str = "auto",
    cpus: int = 1,
    gpus: float = 0.0,
    cohort_size: int = 8,
    results: str | None = None,
    models: range | None = None,
    epochs: int | None = None,
    storage: str = "states",
    parent: Path | str | None = None,
    progress: Progress = NO_PROGRESS,
) -> int:
    """As `generate`, with cohorts trained by the nodes of a Ray cluster. Returns how many models had to be trained.

    Args:
        address: HOST:PORT of the cluster's head, `auto` for the cluster that this machine belongs to, `local` to start
            one on this machine for the time of the call.
        engine: its name, the same on every node.
        cpus: cores of one task, which its engine uses.
        gpus: share of a GPU of one task, or how many.
        cohort_size: models of one task; choose it so that a task takes minutes.
        results: folder that all nodes see, or fsspec URL, through which results come; beside `out` if not given.

    Raises:
        DeviceError: Ray is not installed, there is no such cluster, or its nodes cannot run the tasks.
        ModelZooError: cohorts failed for good; all that was trained is kept.
    """
    _check(address, cpus, gpus, cohort_size)
    recipe, config = select_config(recipe, config)
    out, parents = Path(out), resolve_parent(recipe, config, Path(out), parent)
    plan = Plan.of(recipe, config, images_root=resolve_images_root(images_root), epochs=epochs, parent=parents)
    members, here = plan.chosen(models), get_engine(engine).resolve(plan.architecture.name)
    info = plan.zoo_info(here)
    store = Results(results or results_beside(out), info.digest)
    with _cluster(address, progress) as ray, ZooWriter(out, info.with_storage(storage)) as writer:
        collect(writer, members, store.url, info, progress=progress)
        finished = writer.finished(members)
        missing = [member for member in members if member.model_id not in finished]
        what, trained = f"training {recipe.name}/{config}", 0
        tasks = _Tasks(ray, plan.images, cpus, gpus, patience=0.0 if address == "local" else _PATIENCE)
        outcomes = tasks.outcomes(_cohorts(plan, missing, cohort_size, info, store.url))
        with progress.start(what, len(members), initial=len(finished)) as task:
            for done in _taken_in(outcomes, writer, store):
                trained += done
                task.update(done)
        store.sweep(members)
        writer.complete(plan.grid)
        write_statistics(ZooFolder.open(out), here, plan.images, progress=progress)
    return trained


def _check(address: str, cpus: int, gpus: float, cohort_size: int) -> None:
    """Refuse in a moment what Ray would refuse after minutes, or not at all."""
    _ray()
    for option, number in (("--ray-cpus", cpus), ("--ray-cohort", cohort_size)):
        if number < 1:
            raise DeviceError(f"{option} must be at least 1, got {number}")
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise DeviceError(f"--ray-gpus must be a share from 0 to 1, or a whole number, got {gpus}")
    meant = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if meant not in ("auto", "local"):
        _check_answers(meant)


def _ray() -> Any:
    """The module; raises DeviceError with the remedy where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # what Ray tells of lost workers, on stdout; read on import
    try:
        import ray
    except ImportError:
        raise DeviceError("--ray needs Ray, which is not installed: pip install 'modelzoo-datasets[ray]'") from None
    return ray


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise DeviceError(f"--ray must be HOST:PORT, auto or local, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHED_IN).close()
    except OSError as error:
        raise DeviceError(f"there is no Ray cluster at {address}: {error}") from error


@contextmanager
def _cluster(address: str, progress: Progress) -> Iterator[Any]:
    """The module `ray`, connected; one that the caller has connected stays so."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    with progress.start("connecting to Ray", 1) as task:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DeviceError(f"cannot use the Ray cluster {address}: {_line(error)}") from error
        task.update()
    try:
        yield ray
    finally:
        ray.shutdown()


def _cohorts(plan: Plan, members: Sequence[Member], size: int, info: ZooInfo, url: str) -> Iterator[Cohort]:
    """One after the other: those of twins are large."""
    for first in range(0, len(members), size):
        for part, jobs in plan.jobs(members[first : first + size]):
            yield Cohort(members=part, jobs=jobs, architecture=plan.architecture.name, info=info, url=url)


class _Tasks:
    """Runs cohorts on the nodes of a cluster."""

    def __init__(self, ray: Any, images: Images, cpus: int, gpus: float, *, patience: float) -> None:
        self._ray, self._cpus, self._gpus, self._patience = ray, cpus, gpus, patience
        self._images = ray.put(_shared(images))
        self._task = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=_RETRIES,
            retry_exceptions=[OSError, LostWorkerError],
            scheduling_strategy="SPREAD",
        )(_train_on_node)

    def outcomes(self, cohorts: Iterator[Cohort]) -> Iterator[Outcome]:
        """Train the cohorts, and say of each how it ended, as they end.

        Raises:
            DeviceError: no node can run them.
            ModelZooError: a node refused its task, as any other would.
        """
        running: dict[Any, Sequence[Member]] = {}
        last_seen = monotonic()  # when there was a node to run them
        while True:
            slots = self._slots()
            while len(running) < max(1, _AHEAD * slots) and (cohort := next(cohorts, None)) is not None:
                running[self._submit(cohort)] = cohort.members
            if not running:
                return
            last_seen = monotonic() if slots else last_seen
            if monotonic() - last_seen >= self._patience and not slots:
                wanted = f"CPU: {self._cpus}, GPU: {self._gpus:g}"
                raise DeviceError(
                    f"no node of the Ray cluster has what a task needs ({wanted}); ask for less, or add nodes"
                )
            ended, _ = self._ray.wait(list(running), timeout=_LOOK_AFTER)
            for task in ended:
                yield running.pop(task), self._failure(task)

    def _slots(self) -> int:
        """How many tasks the nodes can run at once, were they free."""
        found = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(
            int(min(node.get(kind, 0) / share for kind, share in (("CPU", self._cpus), ("GPU", self._gpus)) if share))
            for node in found
        )

    def _submit(self, cohort: Cohort) -> Any:
        named = self._task.options(name=f"cohort {_span(cohort.members)}")
        return named.remote(cohort, self._images, self._cpus, os.environ.get(VARIABLE, ""))

    def _failure(self, task: Any) -> str | None:
        try:
            self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ModelZooError):
                raise error.cause from None
            return f"{type(error.cause).__name__}: {_line(error.cause)}"
        except self._ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {_line(error)}"
        return None


def _taken_in(outcomes: Iterable[Outcome], writer: ZooWriter, store: Results) -> Iterator[int]:
    """Take in what each cohort has trained and say how many models that are; in the end raises what has failed."""
    failures: list[str] = []
    for members, cause in outcomes:
        trained = members if cause is None else store.of(members)
        take_in(writer, trained, store)
        store.remove(trained)
        if lost := [member for member in members if member not in trained]:
            failures.append(f"{_span(lost)} ({cause})")
        yield len(trained)
    if failures:
        more = f" and {len(failures) - _TOLD} more cohorts" if len(failures) > _TOLD else ""
        raise ModelZooError(
            f"could not train {', '.join(sorted(failures)[:_TOLD])}{more}; all others are kept, run the same command "
            "again to go on"
        )


def _train_on_node(cohort: Cohort, images: SharedImages, cpus: int, plugins: str) -> int:
    """What a task does; returns how many models it trained."""
    if (found := versions()) != cohort.info.versions:
        wanted = cohort.info.versions
        raise DeviceError(f"node {platform.node()} has {_listed(found)}, but the zoo is of {_listed(wanted)}")
    os.environ[VARIABLE] = plugins
    load_plugins()
    engine = get_engine(cohort.info.engine, cpus).resolve(cohort.architecture)
    if engine.name != cohort.info.engine:  # another engine, other bits
        raise DeviceError(f"expected the {cohort.info.engine} engine on every node, but it is not to be had on one")
    return train_cohort(cohort, _images(images), engine)


def _shared(images: Images) -> SharedImages:
    """Images as Ray keeps them once per node, whatever the number of its tasks: large tensors as plain arrays."""
    arrays = {name: (split.pixels.numpy(), split.labels.numpy()) for name, split in images.splits.items()}
    return replace(images, splits={}), arrays


def _images(shared: SharedImages) -> Images:
    """The inverse of `_shared`; nothing may be written into these."""
    images, arrays = shared
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        splits = {name: Split(*(torch.from_numpy(array) for array in pair)) for name, pair in arrays.items()}
    return replace(images, splits=splits)


def _span(members: Sequence[Member]) -> str:
    first, last = members[0].model_id, members[-1].model_id
    return first if first == last else f"{first} to {last}"


def _listed(found: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in found.items())


def _line(error: object) -> str:
    return one_line(error)[:_LONGEST]
