"""Train the zoo of one config into a folder; run again, it goes on where it stopped."""

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from .._util import SPLITS
from ..analysis import write_statistics
from ..engines import METRICS, SPARSITY, Engine, States
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member, Recipe
from ..zoo import ZooFolder, ZooWriter
from .cohorts import Cohort, collect, results_beside, slice_of, train_cohort
from .plan import Plan, parent_beside

_log = logging.getLogger(__name__)


def generate_zoo(
    recipe: Recipe,
    config: str,
    out: Path,
    *,
    engine: Engine,
    images_root: Path,
    models: range | None = None,
    epochs: int | None = None,
    storage: str = "states",
    parent: Path | None = None,
    results: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Make sure that `out` holds the zoo `recipe/config`; returns how many models had to be trained.

    Args:
        models: places in the grid, from 1; all if not given. More can be added to the same folder later.
        epochs: instead of the recipe's; makes it another zoo.
        storage: `states`, a file per state, or `packed`, a file per 100 models.
        parent: of sparsified twins the zoo folder of their parents; the one beside `out` if not given.
        results: folder or fsspec URL where cohorts left results to be taken in; beside `out` if not given.

    Raises:
        RecipeError: unknown config, architecture or images, or no such models.
        FolderInUseError: `out` holds another zoo, or another process is writing it.
        MissingImagesError: the images are neither in `images_root` nor to be downloaded.
    """
    parents = parent or parent_beside(recipe, config, out)
    plan = Plan.of(recipe, config, images_root=images_root, epochs=epochs, parent=parents)
    members, engine = plan.chosen(models), engine.resolve(plan.architecture.name)
    info = plan.zoo_info(engine)
    with ZooWriter(out, info.with_storage(storage)) as writer:
        collect(writer, members, results or results_beside(out), info, progress=progress)
        trained = _train_missing(plan, members, writer, engine, progress)
        writer.complete(plan.grid)
        write_statistics(ZooFolder.open(out), engine, plan.images, progress=progress)
    return trained


def generate_cohort(
    recipe: Recipe,
    config: str,
    out: Path,
    place: tuple[int, int],
    *,
    engine: Engine,
    images_root: Path,
    models: range | None = None,
    epochs: int | None = None,
    parent: Path | None = None,
    results: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Train the i-th of n parts of the models of `recipe/config`, place = (i, n); returns how many had to be trained.

    Nothing in `out` is touched: `generate` takes the results in, and trains what is still missing. Arguments and errors
    are those of `generate`.
    """
    plan = Plan.of(
        recipe, config, images_root=images_root, epochs=epochs, parent=parent or parent_beside(recipe, config, out)
    )
    members = slice_of(plan.chosen(models), *place)
    trained, engine = 0, engine.resolve(plan.architecture.name)
    for part, jobs in plan.jobs(members):
        cohort = Cohort(
            members=part,
            jobs=jobs,
            architecture=plan.architecture.name,
            info=plan.zoo_info(engine),
            url=results or results_beside(out),
        )
        trained += train_cohort(cohort, plan.images, engine, progress=progress)
    return trained


def _train_missing(
    plan: Plan,
    members: Sequence[Member],
    writer: ZooWriter,
    engine: Engine,
    progress: Progress,
) -> int:
    finished = writer.finished(members)
    missing = [m for m in members if m.model_id not in finished]
    what = f"training {plan.recipe.name}/{plan.config}"
    trained = 0
    with progress.start(what, len(members), initial=len(finished)) as task:
        for part, jobs in plan.jobs(missing):
            megabytes = max(1, engine.estimate_memory(plan.architecture.name, plan.images, jobs) / 1e6)
            _log.info(
                "%s: %d models, %s engine, at most about %s MB of memory",
                what,
                len(part),
                engine.name,
                f"{megabytes:,.0f}",
            )
            with closing(engine.train(plan.architecture.name, plan.images, jobs, metrics_on=SPLITS)) as stream:
                for states in stream:
                    if done := add_states(writer, part, states):
                        trained += done
                        task.update(done)
    return trained


def add_states(writer: ZooWriter, members: Sequence[Member], states: States) -> int:
    """Hand states over to be written; returns how many models they finished."""
    names = [name for name in (*METRICS, SPARSITY) if name in states.metrics]
    finished = 0
    for i, (job, epoch) in enumerate(zip(states.jobs.tolist(), states.epochs.tolist(), strict=True)):
        member = members[job]
        variational = None if states.variational is None else states.variational[i]
        metrics = {name: states.metrics[name][i].item() for name in names}
        writer.add(member, epoch, states.weights[i], metrics, states.recall[i], variational)
        finished += epoch == member.training.epochs
    return finished
