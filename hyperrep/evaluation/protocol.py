"""The protocol: what sampled models are worth, beside everything they must be compared with; resumable step by step."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo_datasets._util import SPLITS
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.images import Images, load_images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.zoo import read_json, write_json

from ..data import check_architecture, drop_untrained, group_by_split, load_recipe_states
from ..model import HyperRepresentation, compute_principal_axes
from ..probes import probe_properties, select_probed_states
from ..recipe import EvaluationRecipe, HyperRecipe
from ..trainer import compute_reconstruction_r2
from ..training_info import TrainingInfo
from .baselines import SamplingContext
from .metrics import Evaluator, judge, scratch
from .populations import Population, populations
from .significance import comparisons
from .transfer import (
    RANDOM,
    SCRATCH,
    changed,
    check_fits,
    initial_weights,
    require_images,
    transfer_populations,
    transferred,
)

EVALUATION_FORMAT = "modelzoo-evaluation-2"


def evaluated(
    rep: HyperRepresentation,
    dataset: str | Path,
    recipe: HyperRecipe,
    out: Path,
    learned_by: TrainingInfo,
    *,
    engine: Engine,
    images_root: Path,
    progress: Progress = NO_PROGRESS,
) -> dict[str, Any]:
    """Make sure that `out` holds the evaluation; returns what its evaluation.json says.

    What was judged before a stop is not judged again.

    Args:
        learned_by: what the hyper-representation's training.json says.
    """
    everything = load_zoo(dataset, recipe.data.config)
    setting = _setting(rep, dataset, everything, recipe, engine, images_root)
    _claim(out, {"trained": learned_by.to_json(), "protocol": recipe.evaluation.to_json(), "engine": engine.name})
    answers = _answers(setting, everything, recipe, out, progress)
    probed = probe_properties(
        rep, group_by_split(drop_untrained(everything)), seed=recipe.evaluation.seed, progress=progress
    )
    report = {
        "format": EVALUATION_FORMAT,
        "protocol": recipe.evaluation.to_json(),
        "offset": recipe.data.epochs[1],
        **answers,
        "probes": [dataclasses.asdict(row) for row in probed],
        "reconstruction": reconstruction(rep, setting.learned),
        "embeddings": embeddings_2d(rep, setting.learned, setting.populated),
    }
    write_json(out / "evaluation.json", report)
    found: dict[str, Any] = _as_json(report)
    return found


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What is judged, and with what."""

    learned: Mapping[str, Zoo]  # split -> the states with the epochs that were learned from
    bench: Evaluator
    others: Sequence[Images]  # what is transferred to
    populated: list[Population]


def _setting(
    rep: HyperRepresentation,
    dataset: str | Path,
    everything: Zoo,
    recipe: HyperRecipe,
    engine: Engine,
    images_root: Path,
) -> _Setting:
    """All that may be wrong with what was asked for is found here, before anything is judged or written."""
    learned = {split: load_recipe_states(dataset, recipe, split) for split in SPLITS}
    check_architecture(rep, learned["train"], dataset)
    source = SamplingContext(rep=rep, zoo=learned["train"])
    bench = Evaluator(
        rep=rep,
        train=learned["train"],
        aligned=source.aligned,
        engine=engine,
        images=load_images(learned["train"].images, images_root),
        training=learned["train"].hyperparameters(0),
        recipe=recipe.evaluation,
    )
    others = [load_images(name, images_root) for name in recipe.evaluation.transfer]
    for images in others:
        require_images(images, bench)
    for architecture in recipe.evaluation.changed:
        check_fits(architecture, bench)
    select_probed_states(rep, group_by_split(drop_untrained(everything)))
    populated = populations(source, {split: learned[split] for split in ("train", "test")}, recipe.evaluation)
    return _Setting(learned=learned, bench=bench, others=others, populated=populated)


def _answers(setting: _Setting, everything: Zoo, recipe: HyperRecipe, out: Path, progress: Progress) -> dict[str, Any]:
    """What was measured of all populations, here and elsewhere, and the tests between them."""
    bench, populated, judged = setting.bench, setting.populated, recipe.evaluation
    results = [_judged(population, bench, out, progress) for population in populated] + [scratch(everything)]
    transfer = {images.name: _transfer(images, populated, bench, out, progress) for images in setting.others}
    architectures = {name: _changed(name, populated, bench, out, progress) for name in judged.changed}
    by_name = {population["name"]: population for population in results}
    return {
        "populations": results,
        "transfer": transfer,
        "changed": architectures,
        "comparisons": comparisons(by_name, transfer, architectures, judged, recipe.data.epochs[1]),
    }


def reconstruction(rep: HyperRepresentation, zoo: Mapping[str, Zoo]) -> dict[str, Any]:
    """R² of reconstruction, in all and per layer, of training and of unseen states."""
    found = {}
    for split, part in zoo.items():
        measured = compute_reconstruction_r2(rep, rep.align(part.weights))
        found[split] = {"total": measured.total, "layers": list(measured.layers), "n": len(part)}
    return found


def embeddings_2d(rep: HyperRepresentation, zoo: Mapping[str, Zoo], populated: list[Population]) -> dict[str, Any]:
    """The two widest principal axes of z, of zoo states with their accuracy and of samples."""
    mean, axes = compute_principal_axes(rep.embeddings)

    def flat(weights: Any) -> Any:
        return ((rep.encode(weights) - mean) @ axes[:, :2]).tolist()

    found: dict[str, Any] = {
        split: {"z": flat(zoo[split].weights), "test_acc": zoo[split].table["test_acc"].tolist()}
        for split in ("train", "test")
    }
    for population in populated:
        if population.sampled:
            found[population.name] = {"z": flat(population.weights)}
    return found


def _judged(population: Population, bench: Evaluator, out: Path, progress: Progress) -> dict[str, Any]:
    path = out / "populations" / f"{_file_name(population.name)}.json"
    return _kept(path, lambda: judge(population, bench, progress=progress))


def _transfer(
    images: Any, populated: list[Population], bench: Evaluator, out: Path, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Every population that travels, and scratch, on other images."""
    known = {population.name: population for population in populated}
    found = {}
    for name in (*(p.name for p in transfer_populations(populated)), SCRATCH):

        def tried(name: str = name) -> dict[str, Any]:
            return transferred(name, initial_weights(name, known, bench), bench, images, progress)

        found[name] = _kept(out / "transfer" / images.name / f"{_file_name(name)}.json", tried)
    return found


def _changed(
    architecture: str, populated: list[Population], bench: Evaluator, out: Path, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Samples, zoo members and nothing at all, loaded into another architecture."""
    starts = {p.name: p.weights[: bench.recipe.num_finetuned] for p in transfer_populations(populated)} | {RANDOM: None}
    found = {}
    for name, start in starts.items():

        def tried(name: str = name, start: Any = start) -> dict[str, Any]:
            return changed(name, start, bench, architecture, progress)

        found[name] = _kept(out / "changed" / architecture / f"{_file_name(name)}.json", tried)
    return found


def _kept(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds, measured if it is not there."""
    if not path.is_file():
        write_json(path, measure())
    found: dict[str, Any] = read_json(path)
    return found


def _file_name(population: str) -> str:
    return population.replace(" ", "-").replace("@", "-")


def _claim(out: Path, facts: dict[str, Any]) -> None:
    """Write down what `out` is the evaluation of; raises FolderInUseError where it is of something else."""
    facts = {"format": EVALUATION_FORMAT, **facts}
    if (out / "facts.json").is_file():
        # Through JSON once, so that tuples compare equal to the lists that are read back; keys that this release has
        # added mean what an earlier one did.
        stored, defaults = read_json(out / "facts.json"), EvaluationRecipe().to_json()
        stored["protocol"] = defaults | stored.get("protocol", {})
        with contextlib.suppress(FormatError):  # what cannot be read is compared as it is
            stored["trained"] = TrainingInfo.from_json(stored.get("trained")).to_json()
        if stored != _as_json(facts):
            raise FolderInUseError(f"{out} holds another evaluation; choose another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderInUseError(f"{out} holds something else; choose another --out or remove it")
    write_json(out / "facts.json", facts)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
