"""Transfer: samples as start weights for other images and in other architectures.

n models, P weights.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from modelzoo_datasets.architectures import Architecture, get_architecture
from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.images import Images
from modelzoo_datasets.progress import Progress
from modelzoo_datasets.seeds import derive_seed

from .baselines import initialize_models
from .metrics import Evaluator
from .populations import MEMBERS, SCRATCH, Population
from .result import CurveResult


def transfer_populations(populations: Sequence[Population]) -> list[Population]:
    """Return the populations that are transferred: samples, and zoo members, which samples must beat."""
    return [p for p in populations if p.name == MEMBERS or (p.is_sample and p.num_finetuned)]


def initial_weights(name: str, populations: Mapping[str, Population], evaluator: Evaluator) -> Tensor:
    """Return start weights (n, P): those of a population, or untrained ones for `SCRATCH`."""
    count = evaluator.recipe.num_finetuned
    if name != SCRATCH:
        return populations[name].weights[:count]
    seeds = [derive_seed(evaluator.recipe.seed, "scratch", i) for i in range(count)]
    return initialize_models(evaluator.architecture, evaluator.rep.activation, evaluator.training.init, seeds)


def finetune_on(images: Images, name: str, start: Tensor, evaluator: Evaluator, progress: Progress) -> CurveResult:
    """Fine-tune models (n, P) on other images; epoch 0 of the curves is zero-shot."""
    curves, _ = evaluator.finetune(start, progress, f"{name} on {images.name}", images=images)
    return CurveResult(name=name, n=len(start), curves=curves.tolist())


def finetune_changed(
    architecture: str, name: str, start: Tensor | None, evaluator: Evaluator, progress: Progress
) -> CurveResult:
    """Fine-tune another architecture whose first weights are those of the models (n, P).

    Args:
        architecture: name of the other architecture; its further weights are initialized as the zoo's were.
        name: the population that `start` is from.
        start: weights (n, P); None for models that are initialized alone.
        evaluator: fine-tunes the models.
        progress: reports the models.
    """
    count = evaluator.recipe.num_finetuned if start is None else len(start)
    seeds = [derive_seed(evaluator.recipe.seed, "changed", i) for i in range(count)]
    weights = initialize_models(architecture, evaluator.rep.activation, evaluator.training.init, seeds)
    if start is not None:
        weights[:, : start.shape[1]] = start
    description = f"{name} in {get_architecture(architecture).name}"
    curves, _ = evaluator.finetune(weights, progress, description, architecture=architecture)
    return CurveResult(name=name, n=count, curves=curves.tolist())


def check_fits(architecture: str, evaluator: Evaluator) -> Architecture:
    """Return the changed architecture; raise ModelZooError unless it takes the same images and all weights."""
    target, own = get_architecture(architecture), evaluator.rep.architecture
    if target.layout.size < own.layout.size or (target.input_shape, target.classes) != (own.input_shape, own.classes):
        raise ModelZooError(
            f"[evaluation] changed: {architecture} is for {target.images} and has {target.layout.size:,} weights; "
            f"samples of {own.name} are for {own.images} and have {own.layout.size:,}"
        )
    return target


def check_images(images: Images, evaluator: Evaluator) -> None:
    """Raise ModelZooError unless the architecture takes these images."""
    own = evaluator.rep.architecture
    if (images.input_shape, images.classes) != (own.input_shape, own.classes):
        raise ModelZooError(
            f"[evaluation] transfer: {images.name} has {'×'.join(map(str, images.input_shape))} images of "
            f"{images.classes} classes, {own.name} is for {own.images}"
        )
