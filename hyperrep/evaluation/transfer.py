"""Fine-tuning of samples on other images and in other architectures, one resumable file per population.

n models, P weights.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.images import Images
from modelzoo_datasets.progress import Progress
from modelzoo_datasets.seeds import derive_seed
from modelzoo_datasets.zoo import read_json, write_json

from ..json_record import JsonRecord
from .baselines import initialize_models
from .metrics import Evaluator
from .population import RANDOM, SCRATCH, Population
from .populations import MEMBERS
from .result import CurveResult, Places

_Record = TypeVar("_Record", bound=JsonRecord)


def evaluate_transfer(
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
        transfer[other.name] = evaluate_each(out / "transfer" / other.name, [*starts, SCRATCH], CurveResult, run)
    for name in evaluator.recipe.changed:
        run = partial(_finetune_changed, name, evaluator, starts, progress)
        changed[name] = evaluate_each(out / "changed" / name, [*starts, RANDOM], CurveResult, run)
    return transfer, changed


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
        path = folder / (re.sub(r"[^-+.\w]", "-", name) + ".json")
        if not path.is_file():
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
    return initialize_models(architecture, evaluator.training.activation, evaluator.training.init, seeds)


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
