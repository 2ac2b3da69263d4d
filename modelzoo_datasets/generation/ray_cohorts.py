"""Training on a Ray cluster: each task trains one cohort. The zoo folder is byte-identical to one made on one machine.

A task takes minutes and leaves its results as files that all nodes and this process can read. This process collects
the results into the zoo folder. If the worker or the node of a task is lost, the task runs again elsewhere and trains
only the models that have no result yet. The cluster gets few more tasks than it can run at once, and the images only
once, so that neither the cluster nor this process ever holds all the initial weights of a big zoo.

Every node needs the same versions of Python, Ray, torch and this package, and plugin files at the same paths.
"""

import os
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from .._util import format_versions
from ..analysis import write_statistics
from ..engines import Engine, get_engine
from ..errors import DeviceError, LostWorkerError, ModelZooError
from ..images import Images, Split
from ..plugins import VARIABLE, load_plugins
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member, Recipe
from ..zoo import ZooFolder, ZooInfo, ZooWriter
from .cohort_results import Results
from .cohorts import Cohort, collect, default_results_url, iterate_cohorts, train_cohort, write_results
from .plan import Plan
from .ray_cluster import check_ray_options, connect_to_ray, short_cause

_MAX_RETRIES = 3  # for a task that was lost
_TASKS_PER_SLOT = 2  # submitted tasks for each task that the cluster can run at once
_POLL_SECONDS = 5.0  # after which the nodes are counted again
_NODE_TIMEOUT = 300.0  # seconds without a node for the tasks; a cluster that scales up needs minutes
_MAX_FAILURES = 3  # that the message lists

SharedImages = tuple[Images, Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]]
Outcome = tuple[Sequence[Member], str | None]  # the models of a cohort, and the cause if its task failed


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
    """Train the models of one config of a recipe into a zoo folder, by tasks on the nodes of a Ray cluster.

    Args:
        recipe: See `generate_zoo`.
        out: The zoo folder to write.
        address: HOST:PORT of the head of the cluster, "auto" for the cluster that this machine belongs to, "local" to
            start a cluster on this machine for the time of the call.
        config: See `generate_zoo`.
        images_root: See `generate_zoo`; read by this process only.
        engine: Name of the engine, which is the same on every node.
        cpus: Number of CPU cores of one task.
        gpus: Number of GPUs of one task, or its share of one GPU.
        cohort_size: Number of models of one task; enough for a task to take minutes.
        results: Folder that all nodes can read and write, or fsspec URL; by default beside `out`.
        models: See `generate_zoo`.
        epochs: See `generate_zoo`.
        storage: See `generate_zoo`.
        parent: See `generate_zoo`.
        progress: Display of the number of finished models.

    Returns:
        The number of models that had to be trained.

    Raises:
        DeviceError: Ray is not installed, there is no such cluster, or its nodes cannot run the tasks.
        ModelZooError: Cohorts failed repeatedly. All trained models are kept.
    """
    check_ray_options(address, cpus, gpus, cohort_size)
    out = Path(out)
    plan = Plan.from_recipe(recipe, config, out=out, images_root=images_root, epochs=epochs, parent=parent)
    members, here = plan.select_members(models), _select_engine(engine, gpus).resolve(plan.architecture.name)
    info = plan.zoo_info(here)
    store = Results(results or default_results_url(out), info.digest)
    with connect_to_ray(address, progress) as ray, ZooWriter(out, info.with_storage(storage)) as writer:
        collect(writer, members, store.url, info, progress=progress)
        finished = writer.find_finished(members)
        missing = [member for member in members if member.model_id not in finished]
        description, trained = f"training {plan.recipe.name}/{plan.config}", 0
        tasks = _Tasks(ray, plan.images, cpus, gpus, node_timeout=0.0 if address == "local" else _NODE_TIMEOUT)
        outcomes = tasks.run(_cohorts(plan, missing, cohort_size, info, store.url))
        with progress.start(description, len(members), initial=len(finished)) as task:
            for done in _collect_outcomes(outcomes, writer, store):
                trained += done
                task.update(done)
        store.sweep(members)
        writer.complete(plan.grid)
        write_statistics(ZooFolder.open(out), here, plan.images, progress=progress)
    return trained


def _select_engine(name: str, gpus: float) -> Engine:
    """Return the engine of all tasks; without GPUs of their own, Ray hides all GPUs from them.

    Raises:
        DeviceError: The engine needs a GPU, and the tasks have none.
    """
    if gpus == 0 and name == "cuda":
        raise DeviceError("--engine cuda needs a GPU for each task: pass --ray-gpus, such as 1 or 0.5")
    return get_engine("native" if gpus == 0 and name == "auto" else name)


def _cohorts(plan: Plan, members: Sequence[Member], size: int, info: ZooInfo, url: str) -> Iterator[Cohort]:
    """Yield the cohorts of `size` models one by one, since the initial weights of twins are large."""
    for first in range(0, len(members), size):
        yield from iterate_cohorts(plan, members[first : first + size], info, url)


class _Tasks:
    """The tasks of one zoo on a cluster: submits cohorts and yields their outcomes."""

    def __init__(self, ray: Any, images: Images, cpus: int, gpus: float, *, node_timeout: float) -> None:
        self._ray, self._cpus, self._gpus, self._node_timeout = ray, cpus, gpus, node_timeout
        self._images = ray.put(_share_images(images))
        self._task = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=_MAX_RETRIES,
            retry_exceptions=[OSError, LostWorkerError],
            scheduling_strategy="SPREAD",
        )(_train_on_node)

    def run(self, cohorts: Iterator[Cohort]) -> Iterator[Outcome]:
        """Train the cohorts and yield the outcome of each as its task ends.

        Raises:
            DeviceError: No node can run the tasks.
            ModelZooError: A node refused its task for a reason that holds for every node.
        """
        running: dict[Any, Sequence[Member]] = {}
        last_seen = monotonic()  # the last time that there was a node for the tasks
        while True:
            slots = self._slots()
            while len(running) < max(1, _TASKS_PER_SLOT * slots) and (cohort := next(cohorts, None)) is not None:
                running[self._submit(cohort)] = cohort.members
            if not running:
                return
            last_seen = monotonic() if slots else last_seen
            if monotonic() - last_seen >= self._node_timeout and not slots:
                resources = f"CPU: {self._cpus}, GPU: {self._gpus:g}"
                raise DeviceError(
                    f"no node of the Ray cluster has what a task needs ({resources}); ask for less, or add nodes"
                )
            ended, _ = self._ray.wait(list(running), timeout=_POLL_SECONDS)
            for task in ended:
                yield running.pop(task), self._failure(task)

    def _slots(self) -> int:
        """Return how many tasks the nodes could run at once if they were idle."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        shares = [(kind, share) for kind, share in (("CPU", self._cpus), ("GPU", self._gpus)) if share]
        return sum(int(min(node.get(kind, 0) / share for kind, share in shares)) for node in nodes)

    def _submit(self, cohort: Cohort) -> Any:
        task = self._task.options(name=f"cohort {_id_range(cohort.members)}")
        return task.remote(cohort, self._images, self._cpus, self._gpus, os.environ.get(VARIABLE, ""))

    def _failure(self, task: Any) -> str | None:
        try:
            self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ModelZooError):
                raise error.cause from None
            return f"{type(error.cause).__name__}: {short_cause(error.cause)}"
        except self._ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {short_cause(error)}"
        return None


def _collect_outcomes(outcomes: Iterable[Outcome], writer: ZooWriter, store: Results) -> Iterator[int]:
    """Write the results of each cohort to the zoo folder and yield the number of its trained models.

    Raises:
        ModelZooError: Cohorts failed; raised after the results of all others were collected.
    """
    failures: list[str] = []
    for members, cause in outcomes:
        trained = members if cause is None else store.select_finished(members)
        write_results(writer, trained, store)
        store.remove(trained)
        if lost := [member for member in members if member not in trained]:
            failures.append(f"{_id_range(lost)} ({cause})")
        yield len(trained)
    if failures:
        more = f" and {len(failures) - _MAX_FAILURES} more cohorts" if len(failures) > _MAX_FAILURES else ""
        raise ModelZooError(
            f"could not train {', '.join(sorted(failures)[:_MAX_FAILURES])}{more}; all others are kept, run the same "
            "command again to resume"
        )


def _train_on_node(cohort: Cohort, images: SharedImages, cpus: int, gpus: float, plugins: str) -> int:
    """Train a cohort as the task of a node, and return the number of its trained models.

    Args:
        cohort: The models.
        images: The images that they are trained on.
        cpus: Number of CPU cores of the task.
        gpus: Number of GPUs of the task, or its share of one; tasks that share a GPU share its memory.
        plugins: Plugin files, as the variable of the environment names them.

    Raises:
        DeviceError: The node has other versions than the zoo, or not its engine: the weights would differ.
    """
    os.environ[VARIABLE] = plugins
    load_plugins()
    engine = get_engine(cohort.info.engine, cpus, gpu_share=min(gpus, 1) or 1).resolve(cohort.architecture)
    if engine.name != cohort.info.engine:
        raise DeviceError(f"node {platform.node()} cannot run the {cohort.info.engine} engine, which the zoo needs")
    if (here := engine.environment(cohort.architecture)) != cohort.info.versions:
        raise DeviceError(
            f"node {platform.node()} has {format_versions(here)}, but the zoo is made with "
            f"{format_versions(cohort.info.versions)}; install the same versions on every node"
        )
    return train_cohort(cohort, _restore_images(images), engine)


def _share_images(images: Images) -> SharedImages:
    """Return images as Ray stores them once per node, whatever the number of its tasks: tensors as plain arrays."""
    arrays = {name: (split.pixels.numpy(), split.labels.numpy()) for name, split in images.splits.items()}
    return replace(images, splits={}), arrays


def _restore_images(shared: SharedImages) -> Images:
    """Invert `_share_images`. The tensors share the memory of the node and must not be written to."""
    images, arrays = shared
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        splits = {name: Split(*(torch.from_numpy(array) for array in pair)) for name, pair in arrays.items()}
    return replace(images, splits=splits)


def _id_range(members: Sequence[Member]) -> str:
    first, last = members[0].model_id, members[-1].model_id
    return first if first == last else f"{first} to {last}"
