"""The protocol: judge samples next to every population they must be compared with, one resumable step at a time.

n models, P weights.
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from modelzoo_datasets._util import SPLITS
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.zoo import read_json, remove_partial_files, write_json

from ..data import drop_untrained, group_by_split, load_recipe_states
from ..model import HyperRepresentation, compute_principal_axes
from ..probes import AnswerOptions, probe_properties, select_probed_states
from ..recipe import EvaluationRecipe, HyperRecipe
from ..storage import TrainingInfo, check_unused
from ..trainer import measure_reconstruction
from ..zoo_values import read_numbers
from .baselines import SamplingContext
from .control import evaluate_control
from .equal_work import compare_equal_work, evaluate_equal_work
from .judgment import judge_samples
from .metrics import Evaluator, evaluate_population, evaluate_scratch
from .population import Population
from .populations import draw_samples, make_reconstructions, surround_samples
from .result import (
    EVALUATION_FILE,
    EVALUATION_FORMAT,
    EmbeddingPoints,
    EvaluationResult,
    Places,
    PopulationResult,
)
from .scores import ScoreEvaluator, score_population
from .significance import compare_populations
from .training_states import TrainingStates
from .transfer import TransferTarget, evaluate_each, evaluate_transfer, hash_targets, load_targets

INFO_FILE = "facts.json"
_log = logging.getLogger(__name__)


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
    claim = _describe(training_info, protocol, engine)
    if finished := read_finished(out, claim):
        return finished
    zoo = load_zoo(dataset, recipe.data.config)
    splits = group_by_split(drop_untrained(zoo))
    states = {split: load_recipe_states(dataset, recipe, split) for split in SPLITS}
    # Everything that can be wrong with the request is checked before anything is evaluated or written.
    training = TrainingStates.from_representation(rep, states["train"])
    evaluator = Evaluator.from_states(training, protocol, engine, images_root)
    targets = load_targets(evaluator, images_root)
    select_probed_states(rep, splits)
    samples = draw_samples(SamplingContext(rep=rep, training=training), evaluator)
    last = {split: states[split] for split in ("train", "test")}
    populations = [*surround_samples(samples, last, evaluator), *make_reconstructions(rep, last, evaluator)]
    claim_folder(out, claim)
    result = judge_populations(
        populations,
        evaluator,
        out,
        scratch=evaluate_scratch(zoo),
        offset=recipe.data.epochs[1],
        targets=targets,
        gradients=_count_gradients(training_info, len(states["train"])),
        progress=progress,
    )
    result = dataclasses.replace(
        result,
        control=evaluate_control(rep, evaluator),
        probes=probe_properties(
            rep,
            splits,
            seed=protocol.seed,
            answers=AnswerOptions(engine=engine, images=evaluator.images),
            progress=progress,
        ),
        reconstruction={split: measure_reconstruction(rep, rep.align(part.weights)) for split, part in states.items()},
        embeddings=project_embeddings(rep, states, populations),
    )
    write_json(out / EVALUATION_FILE, result.to_json())
    return EvaluationResult.read(out)


def _count_gradients(training_info: TrainingInfo, num_states: int) -> int:
    """Return the image gradients of a training; earlier releases did not note them."""
    if training_info.image_gradients is not None:
        return training_info.image_gradients
    return training_info.recipe.learning.count_image_gradients(num_states)


def judge_populations(
    populations: Sequence[Population],
    evaluator: Evaluator | ScoreEvaluator,
    out: Path,
    *,
    scratch: PopulationResult | None,
    offset: int,
    targets: Sequence[TransferTarget] = (),
    gradients: int = 0,
    progress: Progress = NO_PROGRESS,
) -> EvaluationResult:
    """Evaluate samples and all that surrounds them, and compare them; what a file of `out` holds is not done again.

    Args:
        populations: samples, zoo members and nulls, see `surround_samples`.
        evaluator: runs and fine-tunes them.
        out: the folder of the evaluation.
        scratch: the models of the zoo from their first epoch on; None where nothing is fine-tuned.
        offset: epochs for which the training states were trained.
        targets: what models are fine-tuned on besides the images of the zoo.
        gradients: image gradients that learning the sampler spent, if they are known: members are fine-tuned by as
            many.
        progress: reports the steps.

    Returns:
        The result without what only a hyper-representation has: probes, reconstruction and embeddings.
    """
    results = [*_evaluate_populations(out, populations, evaluator, progress), *([] if scratch is None else [scratch])]
    places: tuple[Places, Places] = ({}, {})
    equal_work = None
    if isinstance(evaluator, Evaluator):
        places = evaluate_transfer(out, populations, targets, evaluator, progress)
        num_samples = max((result.n for result in results if result.is_sample), default=0)
        equal_work = evaluate_equal_work(gradients, num_samples, evaluator, out, progress=progress)
    transfer, changed = places
    tests = compare_populations(results, transfer, changed, evaluator.recipe, offset)
    if equal_work is not None:
        tests += compare_equal_work(equal_work, results)
    return EvaluationResult(
        protocol=evaluator.recipe,
        offset=offset,
        populations=results,
        transfer=transfer,
        changed=changed,
        tests=tests,
        judgments=judge_samples(results, tests),
        equal_work=equal_work,
        score=evaluator.name if isinstance(evaluator, ScoreEvaluator) else "",
    )


def _evaluate_populations(
    out: Path, populations: Sequence[Population], evaluator: Evaluator | ScoreEvaluator, progress: Progress
) -> Iterable[PopulationResult]:
    by_name = {population.name: population for population in populations}

    def evaluate(name: str) -> PopulationResult:
        if isinstance(evaluator, ScoreEvaluator):
            return score_population(by_name[name], evaluator, progress=progress)
        return evaluate_population(by_name[name], evaluator, progress=progress)

    return evaluate_each(out / "populations", by_name, PopulationResult, evaluate).values()


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


def read_finished(out: Path, claim: Mapping[str, Any]) -> EvaluationResult | None:
    """Return the result that a folder holds, with a line; None where it is unfinished.

    Args:
        out: the folder of the evaluation.
        claim: everything that decides the result.

    Raises:
        FolderInUseError: the folder holds another evaluation, or other files.
    """
    if not (_is_claimed(out, claim) and (out / EVALUATION_FILE).is_file()):
        return None
    _log.info("%s is finished already; nothing was evaluated", out)
    return EvaluationResult.read(out)


def claim_folder(out: Path, claim: Mapping[str, Any]) -> None:
    """Write what `out` is the evaluation of; raise FolderInUseError where it holds anything else."""
    _is_claimed(out, claim)
    remove_partial_files(out)
    write_json(out / INFO_FILE, claim)


def _describe(training_info: TrainingInfo, protocol: EvaluationRecipe, engine: Engine) -> dict[str, Any]:
    training_info = dataclasses.replace(training_info, evaluation=None)  # the protocol counts, not the stored one
    parts = {"trained": training_info.to_json(), "protocol": protocol.to_json()}
    return {"format": EVALUATION_FORMAT, **parts, "engine": engine.name, "targets": hash_targets(protocol.transfer)}


def _is_claimed(out: Path, values: Mapping[str, Any]) -> bool:
    """Tell whether `out` is this evaluation, finished or not; raise FolderInUseError where it holds anything else."""
    is_claimed = (out / INFO_FILE).is_file()
    if is_claimed:
        # A key that an earlier release did not have means what that release did: the default.
        stored: dict[str, Any] = read_json(out / INFO_FILE)
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
