"""The protocol: judge samples next to every population they must be compared with, one resumable step at a time.

n models, P weights.
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from modelzoo_datasets._util import SPLITS
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.errors import FolderInUseError, FormatError, ModelZooError
from modelzoo_datasets.images import Images, load_images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.seeds import derive_seed
from modelzoo_datasets.zoo import read_json, remove_partial_files, write_json

from ..data import drop_untrained, group_by_split, load_recipe_states
from ..json_record import JsonRecord
from ..model import HyperRepresentation, compute_principal_axes
from ..probes import probe_properties, select_probed_states
from ..recipe import EvaluationRecipe, HyperRecipe
from ..storage import TrainingInfo, check_unused
from ..trainer import measure_reconstruction
from ..zoo_values import read_numbers
from .baselines import SamplingContext, initialize_models
from .metrics import Evaluator, evaluate_population, evaluate_scratch, has_all_orders
from .populations import MEMBERS, RANDOM, SCRATCH, Population, make_populations
from .result import (
    EVALUATION_FILE,
    EVALUATION_FORMAT,
    READABLE_FORMATS,
    CurveResult,
    EmbeddingPoints,
    EvaluationResult,
    Places,
    PopulationResult,
)
from .significance import compare_populations

INFO_FILE = "facts.json"
_log = logging.getLogger(__name__)
_Record = TypeVar("_Record", bound=JsonRecord)


def run_protocol(
    rep: HyperRepresentation,
    dataset: str | Path,
    recipe: HyperRecipe,
    out: Path,
    training_info: TrainingInfo,
    *,
    engine: Engine,
    images_root: Path | None,
    progress: Progress = NO_PROGRESS,
) -> EvaluationResult:
    """Make `out` hold the evaluation; populations that an interrupted run has evaluated are not evaluated again.

    Args:
        rep: the hyper-representation.
        dataset: the dataset that it learned from: a folder, or a repo of the Hub.
        recipe: the recipe that it learned by, with the protocol in `recipe.evaluation`.
        out: the folder of the evaluation.
        training_info: the content of its training.json.
        engine: trains and runs the networks.
        images_root: folder of the image datasets.
        progress: reports the steps.

    Raises:
        FormatError: the dataset holds another architecture, or too few models for probes.
        ModelZooError: the protocol asks for something that this zoo does not allow.
        FolderInUseError: `out` holds another evaluation, or other files.
    """
    protocol = recipe.evaluation
    if _is_claimed(out, _describe(training_info, protocol, engine)) and _is_finished(out):
        _log.info("%s is finished already; nothing was evaluated", out)
        return EvaluationResult.read(out)
    zoo = load_zoo(dataset, recipe.data.config)
    splits = group_by_split(drop_untrained(zoo))
    states = {split: load_recipe_states(dataset, recipe, split) for split in SPLITS}
    # Everything that can be wrong with the request is checked before anything is evaluated or written.
    context = SamplingContext(rep=rep, zoo=states["train"])
    evaluator = Evaluator.from_context(context, protocol, engine, images_root)
    images = [load_images(name, images_root) for name in protocol.transfer]
    check_transfer(images, evaluator)
    select_probed_states(rep, splits)
    populations = make_populations(context, {split: states[split] for split in ("train", "test")}, protocol)
    _claim_folder(out, training_info, protocol, engine)
    results = [*_evaluate_populations(out, populations, evaluator, progress), evaluate_scratch(zoo)]
    transfer, changed = _evaluate_transfer(out, populations, images, evaluator, progress)
    offset = recipe.data.epochs[1]
    result = EvaluationResult(
        protocol=protocol,
        offset=offset,
        populations=results,
        transfer=transfer,
        changed=changed,
        tests=compare_populations(results, transfer, changed, protocol, offset),
        probes=probe_properties(rep, splits, seed=protocol.seed, progress=progress),
        reconstruction={split: measure_reconstruction(rep, rep.align(part.weights)) for split, part in states.items()},
        embeddings=project_embeddings(rep, states, populations),
    )
    write_json(out / EVALUATION_FILE, result.to_json())
    return EvaluationResult.read(out)


def _evaluate_populations(
    out: Path, populations: Sequence[Population], evaluator: Evaluator, progress: Progress
) -> Iterable[PopulationResult]:
    by_name = {population.name: population for population in populations}

    def evaluate(name: str) -> PopulationResult:
        return evaluate_population(by_name[name], evaluator, progress=progress)

    return _evaluate_each(out / "populations", by_name, PopulationResult, evaluate, has_all_orders).values()


def _evaluate_transfer(
    out: Path,
    populations: Sequence[Population],
    images: Sequence[Images],
    evaluator: Evaluator,
    progress: Progress,
) -> tuple[Places, Places]:
    """Fine-tune samples, zoo members and untrained models on other images, and in other architectures."""
    # Samples, and zoo members, which samples must beat.
    selected = [p for p in populations if p.name == MEMBERS or (p.is_sample and p.num_finetuned)]
    starts = {population.name: population.weights[: evaluator.recipe.num_finetuned] for population in selected}
    transfer, changed = {}, {}
    for other in images:
        run = partial(_finetune_on, other, evaluator, starts, progress)
        transfer[other.name] = _evaluate_each(out / "transfer" / other.name, [*starts, SCRATCH], CurveResult, run)
    for name in evaluator.recipe.changed:
        run = partial(_finetune_changed, name, evaluator, starts, progress)
        changed[name] = _evaluate_each(out / "changed" / name, [*starts, RANDOM], CurveResult, run)
    return transfer, changed


def _evaluate_each(
    folder: Path,
    names: Iterable[str],
    kind: type[_Record],
    evaluate: Callable[[str], _Record],
    is_complete: Callable[[_Record], bool] = lambda _: True,
) -> dict[str, _Record]:
    """Return the result of each population; one that has a file in the folder is not evaluated again.

    Args:
        folder: folder of the files.
        names: populations.
        kind: type of the results.
        evaluate: evaluates a population.
        is_complete: whether the result of a file, which an earlier release may have written, has all that is needed.
    """
    results = {}
    for name in names:
        path = folder / f"{name.replace(' ', '-').replace('@', '-')}.json"
        if not path.is_file() or not is_complete(kind.from_json(read_json(path))):
            write_json(path, evaluate(name).to_json())
        results[name] = kind.from_json(read_json(path))
    return results


def _finetune_on(
    images: Images, evaluator: Evaluator, starts: Mapping[str, Tensor], progress: Progress, name: str
) -> CurveResult:
    """Fine-tune models on other images; epoch 0 of the curves is zero-shot.

    Args:
        images: the other images.
        evaluator: fine-tunes the models.
        starts: population -> start weights (n, P).
        progress: reports the models.
        name: a population, or `SCRATCH` for untrained models.
    """
    start = _initialize(evaluator, evaluator.architecture, "scratch") if name == SCRATCH else starts[name]
    curves, _ = evaluator.finetune(start, progress, f"{name} on {images.name}", images=images)
    return CurveResult(name=name, n=len(start), curves=curves.tolist())


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
    weights = _initialize(evaluator, architecture, "changed")
    if name != RANDOM:
        weights = weights[: len(starts[name])]
        weights[:, : starts[name].shape[1]] = starts[name]
    curves, _ = evaluator.finetune(weights, progress, f"{name} in {architecture}", architecture=architecture)
    return CurveResult(name=name, n=len(weights), curves=curves.tolist())


def _initialize(evaluator: Evaluator, architecture: str, key: str) -> Tensor:
    """Return as many untrained models (n, P) as are fine-tuned of every population."""
    seeds = [derive_seed(evaluator.recipe.seed, key, i) for i in range(evaluator.recipe.num_finetuned)]
    return initialize_models(architecture, evaluator.rep.activation, evaluator.training.init, seeds)


def check_transfer(images: Sequence[Images], evaluator: Evaluator) -> None:
    """Raise ModelZooError unless the architecture takes these images, and the changed ones of the protocol its weights.

    Args:
        images: the other images to fine-tune on.
        evaluator: knows the architecture and the protocol.
    """
    own = evaluator.rep.architecture
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


def project_embeddings(
    rep: HyperRepresentation, zoo: Mapping[str, Zoo], populations: Sequence[Population]
) -> dict[str, EmbeddingPoints]:
    """Return zoo states, with their accuracy, and samples in the plane of the two widest principal axes of z."""
    mean, axes = compute_principal_axes(rep.embeddings)

    def project(weights: Tensor) -> list[list[float]]:
        points: list[list[float]] = ((rep.encode(weights) - mean) @ axes[:, :2]).tolist()
        return points

    points = {
        split: EmbeddingPoints(z=project(zoo[split].weights), test_acc=_list_accuracies(zoo[split]))
        for split in ("train", "test")
    }
    samples = {p.name: EmbeddingPoints(z=project(p.weights)) for p in populations if p.is_sample}
    return points | samples


def _list_accuracies(zoo: Zoo) -> list[float | None] | None:
    """Return the recorded test accuracies; None if there are none, which a line says."""
    accuracy = read_numbers(zoo.table, "test_acc")
    if accuracy.isnan().all():
        _log.warning("column test_acc of %s is empty: its states are drawn without colors", zoo.config or "the zoo")
        return None
    return [None if math.isnan(value) else value for value in accuracy.tolist()]


def _claim_folder(out: Path, training_info: TrainingInfo, protocol: EvaluationRecipe, engine: Engine) -> None:
    """Write what `out` is the evaluation of; raise FolderInUseError where it holds anything else."""
    values = _describe(training_info, protocol, engine)
    _is_claimed(out, values)
    remove_partial_files(out)
    write_json(out / INFO_FILE, values)


def _describe(training_info: TrainingInfo, protocol: EvaluationRecipe, engine: Engine) -> dict[str, Any]:
    training_info = dataclasses.replace(training_info, evaluation=None)  # the protocol counts, not the stored one
    parts = {"trained": training_info.to_json(), "protocol": protocol.to_json()}
    return {"format": EVALUATION_FORMAT, **parts, "engine": engine.name}


def _is_finished(out: Path) -> bool:
    """Tell whether the result is there, in the format of this release: others are measured again where they differ."""
    path = out / EVALUATION_FILE
    return path.is_file() and read_json(path).get("format") == EVALUATION_FORMAT


def _is_claimed(out: Path, values: Mapping[str, Any]) -> bool:
    """Tell whether `out` is this evaluation, finished or not; raise FolderInUseError where it holds anything else."""
    is_claimed = (out / INFO_FILE).is_file()
    if is_claimed:
        # A key that an earlier release did not have means what that release did: the default.
        stored: dict[str, Any] = read_json(out / INFO_FILE)
        if stored.get("format") in READABLE_FORMATS:
            stored["format"] = EVALUATION_FORMAT
        stored["protocol"] = EvaluationRecipe().to_json() | stored.get("protocol", {})
        with contextlib.suppress(FormatError):  # an unreadable record is compared as it is
            trained = TrainingInfo.from_json(stored.get("trained"))
            stored["trained"] = dataclasses.replace(trained, evaluation=None).to_json()
        if stored != values:
            raise FolderInUseError(f"output folder {out} holds another evaluation; pass a different --out")
    else:
        check_unused(out)
    return is_claimed


def read_evaluated_training(evaluation: Path) -> TrainingInfo:
    """Return the training of the hyper-representation that was evaluated into a folder.

    Raises:
        FormatError: the folder is not an evaluation.
    """
    path = evaluation / INFO_FILE
    if not path.is_file():
        raise FormatError(f"{evaluation} is not an evaluation: it has no {INFO_FILE}; run modelzoo-hyperrep evaluate")
    return TrainingInfo.from_json(read_json(path).get("trained"))
