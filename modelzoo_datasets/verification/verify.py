"""Verify a zoo folder or a dataset folder, check by check."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .._util import user_cache_folder
from ..engines import Engine, get_engine
from ..errors import FormatError, ModelZooError, RecipeError
from ..images import Images
from ..progress import NO_PROGRESS, Progress
from ..zoo import DATASET_FORMAT, ZOO_FILE, FormatTag, ZooFolder, require_zoo_file
from .check import Check, Request
from .dataset_checks import check_card, check_checksums, check_index, check_layouts, check_rows
from .dataset_target import DatasetConfig, open_dataset
from .hashes import read_states
from .metrics import check_images, check_metrics, unmeasured
from .retrain import check_retrained
from .target import Key, Target
from .twin_checks import Twins, is_parent, wrong_parent
from .viewer import check_viewer
from .zoo_checks import check_complete, check_layout, check_recipe, undiverged
from .zoo_target import open_zoo


def verify_folder(
    path: Path | str,
    *,
    engine: Engine | str | None = None,
    num_threads: int | None = None,
    images_root: Path | str | None = None,
    states: int = 10,
    retrain: int = 0,
    seed: int = 0,
    parent: Path | str | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[Check]:
    """Check a zoo folder or a dataset folder: files, tables, recipe, hashes, metrics and training.

    Every state is read once, and its hash is compared with the recorded one. Nothing is written.

    Args:
        path: The folder.
        engine: Engine that measures and retrains, or its name; by default the engine that made the zoo.
        num_threads: Number of cores for an engine that is not passed as an object; all by default.
        images_root: Folder of the image datasets, which are downloaded if missing; the user's cache by default.
        states: Number of finite states of each zoo whose metrics are measured again.
        retrain: Number of models of each zoo that are trained again.
        seed: Seed of the random choice of these states and models.
        parent: For sparsified twins, the zoo folder of their parents; by default the one beside `path`, if it exists.
        progress: Display of the number of checked states and models.

    Returns:
        The checks in the order in which they were made, each with the problems that it found.

    Raises:
        FormatError: There is no such folder, or it is incomplete or so damaged that nothing can be checked.
        RecipeError: The architecture or images are unknown, or `parent` is passed for a zoo that has no parents.
        MissingImagesError: The images are neither in `images_root` nor can they be downloaded.
    """
    if states < 0 or retrain < 0:
        raise ModelZooError(f"states and retrain must not be negative, got {states} and {retrain}")
    path = Path(path)
    request = Request(
        engine=get_engine(engine, num_threads) if isinstance(engine, str) else engine,
        threads=num_threads,
        images_root=user_cache_folder("images") if images_root is None else Path(images_root),
        states=states,
        retrain=retrain,
        seed=seed,
        parent=None if parent is None else Path(parent),
        progress=progress,
    )
    require_zoo_file(path, "zoo folder and no dataset folder")
    tag = FormatTag.read(path / ZOO_FILE)
    if tag.format == DATASET_FORMAT:
        return _verify_dataset(path, request)
    if tag.is_dataset:
        raise FormatError(
            f"{path} has dataset format {tag.format!r}, but this release reads {DATASET_FORMAT!r}; "
            "build it again from its zoo folders with modelzoo-build"
        )
    return _verify_zoo(path, request)


def _refuse_retraining(subject: Target, request: Request) -> None:
    if subject.imported and request.retrain:
        raise RecipeError(f"{subject.name} was imported: its models were trained elsewhere; leave out --retrain")


def _verify_zoo(path: Path, request: Request) -> list[Check]:
    folder, subject = open_zoo(path)
    _refuse_retraining(subject, request)
    parent = _parent_of_zoo(folder, request.parent)
    checks = [check_complete(folder, subject), check_recipe(folder, subject), check_layout(folder)]
    if not checks[-1].passed:  # then no state can be read
        return checks
    reading = read_states(subject, Twins.of(subject, parent), request.progress)
    for check in reading.checks:
        more = undiverged(folder) if check.name == "finite" else []
        checks.append(Check(check.name, check.n, check.problems + more))
    if not (request.states or request.retrain):
        return checks
    if not subject.measurable:
        return [*checks, unmeasured(subject)]
    check, images = check_images(subject, request)
    return [*checks, check, *(_measured(subject, parent, reading.sound, images, request) if check.passed else [])]


def _measured(
    subject: Target, parent: Target | None, sound: Sequence[Key], images: Images, request: Request
) -> list[Check]:
    """What is measured, and what is trained, again."""
    checks = [check_metrics(subject, sound, images, request)] if request.states else []
    return checks + ([check_retrained(subject, parent, images, request)] if request.retrain else [])


def _parent_of_zoo(folder: ZooFolder, named: Path | None) -> Target | None:
    name = folder.info.recipe.parent
    if name is None:
        if named is not None:
            raise RecipeError(f"{folder.path} holds no sparsified twins, so --parent means nothing")
        return None
    if named is None and not (beside := folder.path.absolute().parent / name / ZOO_FILE).is_file():
        return None
    parent_folder, parent = open_zoo(named or beside.parent)
    if is_parent(folder.info, parent_folder.info):
        return parent
    if named is None:  # another zoo of that name
        return None
    raise wrong_parent(named, folder.info.name)


def _verify_dataset(path: Path, request: Request) -> list[Check]:
    info, configs = open_dataset(path)
    parents = _parents_of_configs(path, configs, request.parent)
    layouts = check_layouts(path, configs)
    checks = [layouts, check_card(path, configs), check_checksums(path), check_viewer(path, info.repo_id)]
    images: Images | None = None
    measurable = all(config.subject.measurable for config in configs)
    if (request.states or request.retrain) and not measurable:
        checks.append(unmeasured(configs[0].subject))
    elif request.states or request.retrain:  # they are the same for all configs
        check, images = check_images(configs[0].subject, request)
        checks.append(check)
    for config in configs:
        _refuse_retraining(config.subject, request)
        subject, parent = config.subject, parents.get(config.name)
        checks += [config.files, check_rows(config, info.diverged), check_index(config)]
        if not layouts.passed:  # then no state can be read
            continue
        reading = read_states(subject, Twins.of(subject, parent), request.progress)
        more = reading.checks
        if images is not None and images.fingerprint == subject.info.images_sha256:
            more += _measured(subject, parent, reading.sound, images, request)
        checks += [replace(check, name=f"{config.name}: {check.name}") for check in more]
    return checks


def _parents_of_configs(path: Path, configs: Sequence[DatasetConfig], named: Path | None) -> dict[str, Target]:
    """Configs of twins with their parents: the folder that was named, or else another config of the dataset."""
    folder, parent = open_zoo(named) if named else (None, None)
    parents = {}
    for twins in (config.subject for config in configs if config.subject.twins):
        name = twins.info.recipe.config
        if folder is not None and parent is not None and is_parent(twins.info, folder.info):
            parents[name] = parent
            continue
        for config in configs:
            if is_parent(twins.info, config.subject.info):
                parents[name] = config.subject
    if named is not None and parent not in parents.values():
        raise wrong_parent(named, f"the configs of {path}")
    return parents
