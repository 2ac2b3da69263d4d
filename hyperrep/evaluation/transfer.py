"""Fine-tuning of samples on other images and in other architectures, one resumable file per population.

On other images, models are fine-tuned with the hyper-parameters of the target, as in 2209.14733: those of a target
zoo, or of the shipped recipe for these images and this architecture. Samples keep the activation of their own zoo,
because their weights were trained with it.

n models, P weights.
"""

import dataclasses
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.images import Images, image_dataset_names, load_images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import Progress
from modelzoo_datasets.recipes import Training, read_recipe, recipe_names
from modelzoo_datasets.seeds import derive_seed
from modelzoo_datasets.zoo import read_json, write_json

from ..data import drop_diverged, parse_source, read_dataset_info
from ..json_record import JsonRecord
from ..zoo_values import complete_training, find_network
from .baselines import initialize_models
from .metrics import Evaluator, evaluate_scratch
from .population import RANDOM, SCRATCH, TARGET_MEMBERS, TARGET_ZOO, Population
from .populations import MEMBERS
from .result import CurveResult, Curves, Places
from .training_states import select_last_epoch

_log = logging.getLogger(__name__)
_Record = TypeVar("_Record", bound=JsonRecord)


@dataclass(frozen=True, kw_only=True)
class TransferTarget:
    """Other images to fine-tune on, with the hyper-parameters of the target."""

    name: str  # as the protocol has it
    images: Images
    training: Training  # hyper-parameters of the target
    source: str  # where these are from
    zoo: Zoo | None = None  # the target zoo, all of its states


def load_targets(evaluator: Evaluator, images_root: Path | None) -> list[TransferTarget]:
    """Load the targets of the protocol: images, hyper-parameters, and the zoo where it names one.

    Args:
        evaluator: knows the protocol and the hyper-parameters of the zoo.
        images_root: folder of the images.

    Raises:
        ModelZooError: there is no such target, or the protocol asks for something that the architecture does not allow.
    """
    targets = [_load_target(name, evaluator, images_root) for name in evaluator.recipe.transfer]
    check_transfer([target.images for target in targets], evaluator)
    return targets


def hash_targets(names: Sequence[str]) -> dict[str, list[str | None]]:
    """Return the hashes of the states of each target that is a zoo: an evaluation is not resumed beside other states.

    Args:
        names: the targets of a protocol.

    Raises:
        FormatError: a target is neither an image dataset nor a zoo.
    """
    hashes = {}
    for name in filter(_is_zoo, names):
        dataset, config = parse_source(name)
        configs = read_dataset_info(dataset).configs
        hashes[name] = [info.states_sha256 for key, info in configs.items() if config in (None, key)]
    return hashes


def _is_zoo(name: str) -> bool:
    return name not in image_dataset_names() and ("/" in name or Path(name).is_dir())


def _load_target(name: str, evaluator: Evaluator, images_root: Path | None) -> TransferTarget:
    if _is_zoo(name):
        dataset, config = parse_source(name)
        zoo = load_zoo(dataset, config)
        training = dataclasses.replace(complete_training(zoo), activation=find_network(zoo).activation)
        images, source = load_images(zoo.images, images_root), f"the zoo {Path(dataset).name}/{zoo.config}"
        return TransferTarget(name=name, images=images, training=training, source=source, zoo=zoo)
    images, shipped = load_images(name, images_root), _find_recipe(name, evaluator)
    if shipped is not None:
        return TransferTarget(name=name, images=images, training=shipped[1], source=f"the recipe {shipped[0]}")
    _log.warning(
        "no recipe ships for %s of %s: models are fine-tuned there with the hyper-parameters of their own zoo",
        evaluator.architecture,
        name,
    )
    return TransferTarget(name=name, images=images, training=evaluator.training, source="the zoo of the samples")


def _find_recipe(images: str, evaluator: Evaluator) -> tuple[str, Training] | None:
    """Return name and hyper-parameters of the shipped config `seed` for images and the architecture of the models."""
    own = evaluator.states.zoo.architecture
    for name in recipe_names("generation"):
        recipe = read_recipe(name)
        if recipe.images == images and recipe.architecture in (own.name, own.family) and "seed" in recipe.configs:
            return f"{name}/seed", recipe.members("seed")[0].training
    return None


def evaluate_transfer(
    out: Path,
    populations: Sequence[Population],
    targets: Sequence[TransferTarget],
    evaluator: Evaluator,
    progress: Progress,
) -> tuple[Places, Places]:
    """Fine-tune samples, zoo members and untrained models on other images, and in other architectures."""
    # Samples, and zoo members, which samples must beat.
    selected = [p for p in populations if p.name == MEMBERS or (p.is_sample and p.num_finetuned)]
    starts = {population.name: population.weights[: evaluator.recipe.num_finetuned] for population in selected}
    transfer, changed = {}, {}
    for target in targets:
        run = partial(_finetune_on, target, evaluator, starts, progress)
        names = [*starts, SCRATCH, *_list_target_rows(target.zoo)]
        transfer[target.name] = evaluate_each(out / "transfer" / _name_folder(target.name), names, CurveResult, run)
    for name in evaluator.recipe.changed:
        run = partial(_finetune_changed, name, evaluator, starts, progress)
        changed[name] = evaluate_each(out / "changed" / name, [*starts, RANDOM], CurveResult, run)
    return transfer, changed


def _list_target_rows(zoo: Zoo | None) -> list[str]:
    """Return the populations that a target zoo has: it may lack test models, or recorded accuracies, or be twins."""
    if zoo is None:
        return []
    rows = {TARGET_MEMBERS: (zoo.table["split"] == "test").any(), TARGET_ZOO: bool(evaluate_scratch(zoo).curves)}
    return [name for name, is_there in rows.items() if is_there]


def _name_folder(target: str) -> str:
    """Return the folder of a target; two targets never share one."""
    stem = _make_stem(target)
    return stem if stem == target else f"{stem}-{hashlib.sha256(target.encode()).hexdigest()[:8]}"


def _make_stem(name: str) -> str:
    """Return a file name for a population or a target, which never names another folder."""
    return re.sub(r"^\.|[^-+.\w]", "-", name)


def evaluate_each(
    folder: Path,
    names: Iterable[str],
    kind: type[_Record],
    evaluate: Callable[[str], _Record],
) -> dict[str, _Record]:
    """Return the result of each population; one that has a file in the folder is not evaluated again.

    Args:
        folder: folder of the files.
        names: populations.
        kind: type of the results.
        evaluate: evaluates a population.
    """
    results = {}
    for name in names:
        path = folder / f"{_make_stem(name)}.json"
        if not path.is_file():
            write_json(path, evaluate(name).to_json())
        results[name] = kind.from_json(read_json(path))
    return results


def _finetune_on(
    target: TransferTarget, evaluator: Evaluator, starts: Mapping[str, Tensor], progress: Progress, name: str
) -> CurveResult:
    """Fine-tune models on other images; epoch 0 of the curves is zero-shot.

    Args:
        target: images and hyper-parameters; members of a target zoo are fine-tuned with its activation too.
        evaluator: fine-tunes the models.
        starts: population -> start weights (n, P).
        progress: reports the models.
        name: a population, `SCRATCH` for untrained models, `TARGET_MEMBERS` for the last states of the target zoo's
            test models, or `TARGET_ZOO` for the accuracies that it recorded.
    """
    if name == TARGET_ZOO and target.zoo is not None:
        recorded = evaluate_scratch(target.zoo)
        return _make_result(name, recorded.curves, target.training, target.source)
    training, architecture = dataclasses.replace(target.training, activation=evaluator.training.activation), ""
    if name == TARGET_MEMBERS and target.zoo is not None:
        training, architecture = target.training, target.zoo.architecture.name
        zoo = drop_diverged(target.zoo)
        start = select_last_epoch(zoo.select(zoo.table["split"] == "test")).weights[: evaluator.recipe.num_finetuned]
    elif name == SCRATCH:
        start = _initialize(evaluator, evaluator.architecture, "scratch", training.init)
    else:
        start = starts[name]
    curves, _ = evaluator.finetune(
        start, progress, f"{name} on {target.name}", images=target.images, architecture=architecture, training=training
    )
    return _make_result(name, curves.tolist(), training, target.source)


def _make_result(name: str, curves: Curves, training: Training, source: str) -> CurveResult:
    """Make the record of a population, with its hyper-parameters but for the epochs, which its curves have."""
    hyperparameters = {key: value for key, value in dataclasses.asdict(training).items() if key != "epochs"}
    return CurveResult(name=name, n=len(curves), curves=curves, hyperparameters=hyperparameters, source=source)


def _finetune_changed(
    architecture: str, evaluator: Evaluator, starts: Mapping[str, Tensor], progress: Progress, name: str
) -> CurveResult:
    """Fine-tune another architecture whose first weights are those of the models of a population.

    Args:
        architecture: name of the other architecture; its further weights are initialized as the zoo's were.
        evaluator: fine-tunes the models.
        starts: population -> start weights (n, P).
        progress: reports the models.
        name: a population, or `RANDOM` for models whose weights are all initialized.
    """
    weights = _initialize(evaluator, architecture, "changed", evaluator.training.init)
    if name != RANDOM:
        weights = weights[: len(starts[name])]
        weights[:, : starts[name].shape[1]] = starts[name]
    curves, _ = evaluator.finetune(weights, progress, f"{name} in {architecture}", architecture=architecture)
    return _make_result(name, curves.tolist(), evaluator.training, "the zoo of the samples")


def _initialize(evaluator: Evaluator, architecture: str, key: str, init: str) -> Tensor:
    """Return as many untrained models (n, P) as are fine-tuned of every population."""
    seeds = [derive_seed(evaluator.recipe.seed, key, i) for i in range(evaluator.recipe.num_finetuned)]
    return initialize_models(architecture, evaluator.training.activation, init, seeds)


def check_transfer(images: Sequence[Images], evaluator: Evaluator) -> None:
    """Raise ModelZooError unless the architecture takes these images, and the changed ones of the protocol its weights.

    Args:
        images: the other images to fine-tune on.
        evaluator: knows the architecture and the protocol.
    """
    own = evaluator.states.zoo.architecture
    for other in images:
        if (other.input_shape, other.classes) != (own.input_shape, own.classes):
            raise ModelZooError(
                f"[evaluation] transfer: {other.name} has {'×'.join(map(str, other.input_shape))} images of "
                f"{other.classes} classes, {own.name} is for {own.images}"
            )
    for name in evaluator.recipe.changed:
        target = get_architecture(name)
        shape = target.input_shape, target.classes
        if target.layout.size < own.layout.size or shape != (own.input_shape, own.classes):
            raise ModelZooError(
                f"[evaluation] changed: {name} is for {target.images} and has {target.layout.size:,} weights; "
                f"samples of {own.name} are for {own.images} and have {own.layout.size:,}"
            )
