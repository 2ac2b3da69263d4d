"""The protocol: judge samples next to every population they must be compared with, one resumable step at a time."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from modelzoo_datasets._util import SPLITS
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.images import Images, load_images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.zoo import read_json, write_json

from ..data import check_architecture, drop_untrained, group_by_split, load_recipe_states
from ..json_record import JsonRecord
from ..model import HyperRepresentation, compute_principal_axes
from ..probes import probe_properties, select_probed_states
from ..recipe import EvaluationRecipe, HyperRecipe
from ..trainer import compute_reconstruction_r2
from ..training_info import TrainingInfo
from .baselines import SamplingContext
from .metrics import Evaluator, evaluate_population, evaluate_scratch
from .populations import RANDOM, SCRATCH, Population, make_populations
from .result import (
    EVALUATION_FILE,
    EVALUATION_FORMAT,
    CurveResult,
    EmbeddingPoints,
    EvaluationResult,
    PopulationResult,
    ReconstructionResult,
)
from .significance import compare_populations
from .transfer import (
    check_fits,
    check_images,
    finetune_changed,
    finetune_on,
    initial_weights,
    transfer_populations,
)

INFO_FILE = "facts.json"
_Record = TypeVar("_Record", bound=JsonRecord)


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """The populations, and everything that they are evaluated with."""

    zoo: Mapping[str, Zoo]  # split -> states of the epochs that the hyper-representation learned from
    evaluator: Evaluator
    transfer_images: Sequence[Images]
    populations: Sequence[Population]
    out: Path
    progress: Progress

    @property
    def recipe(self) -> EvaluationRecipe:
        """The protocol."""
        return self.evaluator.recipe


def run_protocol(
    rep: HyperRepresentation,
    dataset: str | Path,
    recipe: HyperRecipe,
    out: Path,
    training_info: TrainingInfo,
    *,
    engine: Engine,
    images_root: Path,
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
    zoo = load_zoo(dataset, recipe.data.config)
    setup = _prepare(rep, dataset, zoo, recipe, engine, images_root, out, progress)
    _claim_folder(out, training_info, recipe.evaluation, engine)
    results = [_evaluate(population, setup) for population in setup.populations] + [evaluate_scratch(zoo)]
    transfer = {images.name: _evaluate_transfer(images, setup) for images in setup.transfer_images}
    changed = {name: _evaluate_changed(name, setup) for name in setup.recipe.changed}
    offset = recipe.data.epochs[1]
    splits = group_by_split(drop_untrained(zoo))
    result = EvaluationResult(
        protocol=recipe.evaluation,
        offset=offset,
        populations=results,
        transfer=transfer,
        changed=changed,
        tests=compare_populations(results, transfer, changed, recipe.evaluation, offset),
        probes=probe_properties(rep, splits, seed=recipe.evaluation.seed, progress=progress),
        reconstruction=measure_reconstruction(rep, setup.zoo),
        embeddings=project_embeddings(rep, setup.zoo, setup.populations),
    )
    write_json(out / EVALUATION_FILE, result.to_json())
    return EvaluationResult.read(out)


def _prepare(
    rep: HyperRepresentation,
    dataset: str | Path,
    zoo: Zoo,
    recipe: HyperRecipe,
    engine: Engine,
    images_root: Path,
    out: Path,
    progress: Progress,
) -> _Setup:
    """Check everything that can be wrong with the request before anything is evaluated or written."""
    states = {split: load_recipe_states(dataset, recipe, split) for split in SPLITS}
    check_architecture(rep, states["train"], dataset)
    context = SamplingContext(rep=rep, zoo=states["train"])
    evaluator = Evaluator(
        rep=rep,
        train=states["train"],
        aligned=context.train_weights,
        engine=engine,
        images=load_images(states["train"].images, images_root),
        training=states["train"].hyperparameters(0),
        recipe=recipe.evaluation,
    )
    transfer_images = [load_images(name, images_root) for name in recipe.evaluation.transfer]
    for images in transfer_images:
        check_images(images, evaluator)
    for architecture in recipe.evaluation.changed:
        check_fits(architecture, evaluator)
    select_probed_states(rep, group_by_split(drop_untrained(zoo)))
    populations = make_populations(context, {s: states[s] for s in ("train", "test")}, recipe.evaluation)
    return _Setup(
        zoo=states,
        evaluator=evaluator,
        transfer_images=transfer_images,
        populations=populations,
        out=out,
        progress=progress,
    )


def measure_reconstruction(rep: HyperRepresentation, zoo: Mapping[str, Zoo]) -> dict[str, ReconstructionResult]:
    """Return R² of the reconstructed states of every split, in total and per layer."""
    results = {}
    for split, part in zoo.items():
        r2 = compute_reconstruction_r2(rep, rep.align(part.weights))
        results[split] = ReconstructionResult(total=r2.total, layers=list(r2.layers), n=len(part))
    return results


def project_embeddings(
    rep: HyperRepresentation, zoo: Mapping[str, Zoo], populations: Sequence[Population]
) -> dict[str, EmbeddingPoints]:
    """Return zoo states, with their accuracy, and samples in the plane of the two widest principal axes of z."""
    mean, axes = compute_principal_axes(rep.embeddings)

    def project(weights: Tensor) -> list[list[float]]:
        points: list[list[float]] = ((rep.encode(weights) - mean) @ axes[:, :2]).tolist()
        return points

    points = {
        split: EmbeddingPoints(z=project(zoo[split].weights), test_acc=zoo[split].table["test_acc"].tolist())
        for split in ("train", "test")
    }
    samples = {p.name: EmbeddingPoints(z=project(p.weights)) for p in populations if p.is_sample}
    return points | samples


def _evaluate(population: Population, setup: _Setup) -> PopulationResult:
    path = setup.out / "populations" / f"{_file_name(population.name)}.json"
    return _read_or_run(
        path, PopulationResult, lambda: evaluate_population(population, setup.evaluator, progress=setup.progress)
    )


def _evaluate_transfer(images: Images, setup: _Setup) -> dict[str, CurveResult]:
    """Fine-tune samples, zoo members and fresh models on other images."""
    by_name = {population.name: population for population in setup.populations}
    results = {}
    for name in (*(p.name for p in transfer_populations(setup.populations)), SCRATCH):

        def run(name: str = name) -> CurveResult:
            start = initial_weights(name, by_name, setup.evaluator)
            return finetune_on(images, name, start, setup.evaluator, setup.progress)

        path = setup.out / "transfer" / images.name / f"{_file_name(name)}.json"
        results[name] = _read_or_run(path, CurveResult, run)
    return results


def _evaluate_changed(architecture: str, setup: _Setup) -> dict[str, CurveResult]:
    """Fine-tune another architecture that starts from samples, from zoo members and from random weights."""
    count = setup.recipe.num_finetuned
    starts = {p.name: p.weights[:count] for p in transfer_populations(setup.populations)} | {RANDOM: None}
    results = {}
    for name, start in starts.items():

        def run(name: str = name, start: Tensor | None = start) -> CurveResult:
            return finetune_changed(architecture, name, start, setup.evaluator, setup.progress)

        path = setup.out / "changed" / architecture / f"{_file_name(name)}.json"
        results[name] = _read_or_run(path, CurveResult, run)
    return results


def _read_or_run(path: Path, kind: type[_Record], run: Callable[[], _Record]) -> _Record:
    """Return the result that a file holds; where there is no file, run and write it first."""
    if not path.is_file():
        write_json(path, run().to_json())
    return kind.from_json(read_json(path))


def _file_name(population: str) -> str:
    return population.replace(" ", "-").replace("@", "-")


def _claim_folder(out: Path, training_info: TrainingInfo, protocol: EvaluationRecipe, engine: Engine) -> None:
    """Write what `out` is the evaluation of; raise FolderInUseError where it holds anything else."""
    # Through JSON once, so that tuples compare equal to the lists in the file.
    values = {"trained": training_info.to_json(), "protocol": protocol.to_json(), "engine": engine.name}
    values = json.loads(json.dumps({"format": EVALUATION_FORMAT, **values}))
    if (out / INFO_FILE).is_file():
        # A key that an earlier release did not have means what that release did: the default.
        stored: dict[str, Any] = read_json(out / INFO_FILE)
        stored["protocol"] = json.loads(json.dumps(EvaluationRecipe().to_json())) | stored.get("protocol", {})
        with contextlib.suppress(FormatError):  # an unreadable record is compared as it is
            stored["trained"] = TrainingInfo.from_json(stored.get("trained")).to_json()
        if stored != values:
            raise FolderInUseError(f"output folder {out} holds another evaluation; pass a different --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderInUseError(f"output folder {out} already contains other files; pass a different --out or delete it")
    write_json(out / INFO_FILE, values)


def read_training_info(evaluation: Path) -> TrainingInfo:
    """Return the training of the hyper-representation that was evaluated into a folder.

    Raises:
        FormatError: the folder is not an evaluation.
    """
    path = evaluation / INFO_FILE
    if not path.is_file():
        raise FormatError(f"{evaluation} is not an evaluation: it has no {INFO_FILE}; run modelzoo-hyperrep evaluate")
    return TrainingInfo.from_json(read_json(path).get("trained"))
