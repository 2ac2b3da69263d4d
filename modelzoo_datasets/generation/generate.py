"""Train the zoo of one config into a folder. You can stop it at any time; running it again resumes it."""

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from .._util import SPLITS
from ..analysis import write_statistics
from ..engines import Engine, Job, get_engine
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member, Recipe
from ..zoo import ZooFolder, ZooWriter
from .cohorts import add_states, collect, default_results_url, iterate_cohorts, select_part, train_cohort
from .plan import Plan

_log = logging.getLogger(__name__)


def generate_zoo(
    recipe: Recipe | str,
    out: Path | str,
    *,
    config: str | None = None,
    engine: Engine | str = "auto",
    images_root: Path | str | None = None,
    models: range | None = None,
    epochs: int | None = None,
    storage: str = "states",
    parent: Path | str | None = None,
    results: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Train the models of one config of a recipe into a zoo folder.

    Models that the folder already holds are not trained again. You can stop a run at any time: the next call resumes
    it and gives a byte-identical folder.

    Args:
        recipe: A recipe, or its name or TOML file, with or without a config: "mnist-cnn-s/seed".
        out: The zoo folder to write.
        config: The config, where `recipe` does not name it. It may be omitted if the recipe has only one.
        engine: An engine, or its name: "auto", "native", "cuda" or "torch".
        images_root: Folder of the image datasets, which are downloaded if missing; the user's cache by default.
        models: Positions in the grid of the config, counted from 1; all by default. A later call can add others.
        epochs: Number of epochs instead of the recipe's. It makes another zoo.
        storage: "states" for one file per state, "packed" for one file per 100 models.
        parent: For sparsified twins, the zoo folder of their parents; by default the one beside `out`.
        results: Folder or fsspec URL where `generate_cohort` left results to be collected; by default beside `out`.
        progress: Display of the number of finished models.

    Returns:
        The number of models that had to be trained.

    Raises:
        RecipeError: The recipe, config, architecture, images or models are unknown or do not fit each other.
        FolderInUseError: `out` holds another zoo or other files, or another process is writing to it.
        MissingImagesError: The images are neither in `images_root` nor can they be downloaded.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from modelzoo_datasets import generate_zoo
        >>> with TemporaryDirectory() as folder:
        ...     generate_zoo("fashion-mnist-5k-cnn-s/seed", f"{folder}/zoo", models=range(1, 3), epochs=1)
        2
    """
    out = Path(out)
    plan = Plan.from_recipe(recipe, config, out=out, images_root=images_root, epochs=epochs, parent=parent)
    members = plan.select_members(models)
    engine = get_engine(engine).resolve(plan.architecture.name)
    info = plan.zoo_info(engine)
    with ZooWriter(out, info.with_storage(storage)) as writer:
        collect(writer, members, results or default_results_url(out), info, progress=progress)
        trained = _train_missing(plan, members, writer, engine, progress)
        writer.complete(plan.grid)
        write_statistics(ZooFolder.open(out), engine, plan.images, progress=progress)
    return trained


def generate_cohort(
    recipe: Recipe | str,
    out: Path | str,
    *,
    part: tuple[int, int],
    config: str | None = None,
    engine: Engine | str = "auto",
    images_root: Path | str | None = None,
    models: range | None = None,
    epochs: int | None = None,
    parent: Path | str | None = None,
    results: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Train one part of the models of a zoo and leave the results for `generate_zoo` to collect.

    Nothing is written to `out`. Call it once per job of a job array, then call `generate_zoo`, which collects the
    results and trains the models that are still missing.

    Args:
        recipe: See `generate_zoo`.
        out: The zoo folder that `generate_zoo` will write.
        part: (i, n) for the i-th of n parts, counted from 1.
        config: See `generate_zoo`.
        engine: See `generate_zoo`.
        images_root: See `generate_zoo`.
        models: See `generate_zoo`.
        epochs: See `generate_zoo`.
        parent: See `generate_zoo`.
        results: Folder or fsspec URL that receives the results; by default beside `out`.
        progress: Display of the number of finished models.

    Returns:
        The number of models that had to be trained.

    Raises:
        ArgumentError: There is no such part.
        FormatError: The folder of the results holds results of another zoo.
        RecipeError: See `generate_zoo`.
    """
    out = Path(out)
    plan = Plan.from_recipe(recipe, config, out=out, images_root=images_root, epochs=epochs, parent=parent)
    members = select_part(plan.select_members(models), *part)
    engine = get_engine(engine).resolve(plan.architecture.name)
    cohorts = iterate_cohorts(plan, members, plan.zoo_info(engine), results or default_results_url(out))
    return sum(train_cohort(cohort, plan.images, engine, progress=progress) for cohort in cohorts)


def _train_missing(plan: Plan, members: Sequence[Member], writer: ZooWriter, engine: Engine, progress: Progress) -> int:
    finished = writer.find_finished(members)
    missing = [m for m in members if m.model_id not in finished]
    description = f"training {plan.recipe.name}/{plan.config}"
    trained = 0
    with progress.start(description, len(members), initial=len(finished)) as task:
        for part, jobs in plan.jobs(missing):
            _log_memory(description, plan, engine, jobs)
            with closing(engine.train(plan.architecture.name, plan.images, jobs, metrics_on=SPLITS)) as stream:
                for states in stream:
                    if done := add_states(writer, part, states):
                        trained += done
                        task.update(done)
    return trained


def _log_memory(description: str, plan: Plan, engine: Engine, jobs: Sequence[Job]) -> None:
    megabytes = max(1, engine.estimate_memory(plan.architecture.name, plan.images, jobs) / 1e6)
    memory = f"{megabytes:,.0f} MB of memory"
    _log.info("%s: %d models, %s engine, at most about %s", description, len(jobs), engine.name, memory)
