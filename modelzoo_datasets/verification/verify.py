"""Verify a zoo folder or a dataset folder, check by check."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .._util import user_cache_folder
from ..engines import Engine, get_engine
from ..errors import ArgumentError, FormatError
from ..images import Images
from ..progress import NO_PROGRESS, Progress
from ..zoo import DATASET_FORMAT, OLDER_DATASET_FORMATS, ZOO_FILE, FormatTag, check_plain_files, require_zoo_file
from .base import Check, Key, Request, Target
from .dataset_checks import check_card, check_checksums, check_footers, check_index, check_layouts, check_rows
from .dataset_target import DatasetConfig, open_dataset
from .description_checks import check_descriptions
from .reproduction import check_images, check_metrics, check_retrained, check_statistics, skip_metrics
from .state_checks import check_states
from .viewer import check_viewer
from .zoo_checks import check_complete, check_layout, check_recipe, find_wrong_divergence, open_zoo

_OLDER_WITH_CHECKSUMS = OLDER_DATASET_FORMATS[-1]
_UPGRADE = "build it again from its zoo folders with modelzoo-build"


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
        RecipeError: The architecture or images are unknown.
        ArgumentError: A number is negative, `parent` is passed for a zoo without parents, or `retrain` for a zoo
            that was imported.
        MissingImagesError: The images are neither in `images_root` nor can they be downloaded.

    Example:
        >>> all(check.has_passed for check in verify_folder(dataset, states=0))
        True
    """
    if states < 0 or retrain < 0:
        raise ArgumentError(f"states and retrain must not be negative, got {states} and {retrain}")
    path = Path(path)
    request = Request(
        engine=None if engine is None else get_engine(engine, num_threads),
        threads=num_threads,
        images_root=user_cache_folder("images") if images_root is None else Path(images_root),
        states=states,
        retrain=retrain,
        seed=seed,
        parent=None if parent is None else Path(parent),
        progress=progress,
    )
    require_zoo_file(path, or_dataset=True)
    check_plain_files(path)
    tag = FormatTag.read(path / ZOO_FILE)
    return _verify_format(path, tag.format, request) if tag.is_dataset else _verify_zoo(path, request)


def _verify_format(path: Path, name: str | None, request: Request) -> list[Check]:
    """Check a dataset folder of this format, or of an older one with checksums."""
    if name == DATASET_FORMAT:
        footers = check_footers(path)
        return [footers, *(_verify_dataset(path, request) if footers.n else [])]
    if name == _OLDER_WITH_CHECKSUMS:
        return [_note_older_format(name), *_verify_dataset(path, request)]
    if name in OLDER_DATASET_FORMATS:
        raise FormatError(
            f"{path} has dataset format {name!r}, which load_zoo reads, but which has no checksums to verify; "
            f"{_UPGRADE}"
        )
    raise FormatError(f"{path} has dataset format {name!r}, but this release reads {DATASET_FORMAT!r}; {_UPGRADE}")


def _verify_zoo(path: Path, request: Request) -> list[Check]:
    folder, target = open_zoo(path)
    _refuse_retraining(target, request)
    parent = _find_parent(target, path, request.parent)
    checks = [check_complete(folder, target), check_recipe(folder, target), check_layout(folder)]
    if not checks[-1].has_passed:  # then no state can be read
        return checks
    results, sound = check_states(target, parent, request.progress)
    for check in results:
        more = find_wrong_divergence(folder) if check.name == "finite" else []
        checks.append(replace(check, problems=check.problems + more))
    images: Images | None = None
    if request.states or request.retrain:
        if target.is_measurable:
            check, images = check_images(target, request)
            checks += [check, *(_check_training(target, parent, sound, images, request) if check.has_passed else [])]
        else:
            checks.append(skip_metrics(target))
    if all(check.has_passed for check in checks):  # other states have other statistics
        checks.append(check_statistics(folder, target, images, request))
    return checks


def _refuse_retraining(target: Target, request: Request) -> None:
    if target.is_imported and request.retrain:
        raise ArgumentError(
            f"retrain must be 0 for {target.name}, whose models were trained elsewhere; leave out --retrain"
        )


def _check_training(
    target: Target, parent: Target | None, sound: Sequence[Key], images: Images, request: Request
) -> list[Check]:
    """Measure and train again."""
    checks = [check_metrics(target, sound, images, request)] if request.states else []
    return checks + ([check_retrained(target, parent, images, request)] if request.retrain else [])


def _find_parent(target: Target, path: Path, passed: Path | None) -> Target | None:
    """Return the zoo of the parents of sparsified twins, None if it is not available or the zoo has no parents.

    Args:
        target: the zoo.
        path: its folder.
        passed: the folder that the user passed for the parents, if any.
    """
    name = target.info.recipe.parent
    if name is None:
        if passed is not None:
            raise ArgumentError(f"parent must be None for {path}, which has no sparsified twins; got {passed}")
        return None
    beside = path.absolute().parent / name
    if passed is None and not (beside / ZOO_FILE).is_file():
        return None
    _, parent = open_zoo(passed or beside)
    if _is_parent(target, parent):
        return parent
    if passed is None:  # another zoo of that name
        return None
    raise _wrong_parent(passed, target.name)


def _is_parent(twins: Target, other: Target) -> bool:
    """Return True if sparsified twins name another zoo as that of their parents."""
    return twins.info.images_sha256 == other.info.images_sha256 and twins.info.parent == other.info.to_parent()


def _wrong_parent(path: Path, name: str) -> ArgumentError:
    return ArgumentError(f"{path} is not the zoo of the parents of {name}; pass its folder by --parent")


def _note_older_format(name: str) -> Check:
    return Check("format", 1, [], [f"{name} is older than {DATASET_FORMAT}; {_UPGRADE}"])


def _verify_dataset(path: Path, request: Request) -> list[Check]:
    info, configs = open_dataset(path)
    parents = _find_parents(path, configs, request.parent)
    layouts = check_layouts(path, configs)
    checks = [layouts, check_card(path, configs), check_checksums(path), check_viewer(path, info.repo_id)]
    if FormatTag.read(path / ZOO_FILE).format == DATASET_FORMAT:  # older ones have none
        checks.append(check_descriptions(path, list(info.configs.values())))
    images: Images | None = None
    if request.states or request.retrain:  # the images are the same for all configs
        first = configs[0].target
        if all(config.target.is_measurable for config in configs):
            check, images = check_images(first, request)
            checks.append(check)
        else:
            checks.append(skip_metrics(first))
    for config in configs:
        target, parent = config.target, parents.get(config.name)
        _refuse_retraining(target, request)
        checks += [config.files, check_rows(config, info.diverged), check_index(config)]
        if not layouts.has_passed:  # then no state can be read
            continue
        results, sound = check_states(target, parent, request.progress)
        if images is not None and images.fingerprint == target.info.images_sha256:
            results += _check_training(target, parent, sound, images, request)
        checks += [replace(check, name=f"{config.name}: {check.name}") for check in results]
    return checks


def _find_parents(path: Path, configs: Sequence[DatasetConfig], parent_path: Path | None) -> dict[str, Target]:
    """Return config of twins -> their parents: the zoo that the user passed, or another config of the dataset."""
    passed = [open_zoo(parent_path)[1]] if parent_path else []
    parents = {}
    for twins in (config for config in configs if config.target.is_twins):
        for other in (*(config.target for config in configs), *passed):
            if _is_parent(twins.target, other):
                parents[twins.name] = other
    if parent_path is not None and passed[0] not in parents.values():
        raise _wrong_parent(parent_path, f"the configs of {path}")
    return parents
