"""Further questions of the protocol: what samples are worth on other images and in other architectures.

n models, P weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from modelzoo_datasets.architectures import Architecture, get_architecture
from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.images import Images
from modelzoo_datasets.progress import Progress
from modelzoo_datasets.seeds import derive_seed

from .baselines import fresh_weights
from .metrics import Evaluator
from .populations import MEMBERS, Population

SCRATCH, RANDOM = "scratch", "random init"


def transfer_populations(populated: Sequence[Population]) -> list[Population]:
    """The populations that are tried elsewhere: samples, and zoo members, which they must beat."""
    return [p for p in populated if p.name == MEMBERS or (p.sampled and p.fine_tuned)]


def initial_weights(name: str, populated: Mapping[str, Population], bench: Evaluator) -> Tensor:
    """Weights (n, P) that a population of `travellers` starts from, or fresh ones for `SCRATCH`."""
    if name != SCRATCH:
        return populated[name].weights[: bench.recipe.num_finetuned]
    seeds = [derive_seed(bench.recipe.seed, "scratch", i) for i in range(bench.recipe.num_finetuned)]
    return fresh_weights(bench.architecture, bench.rep.activation, bench.training.init, seeds)


def transferred(name: str, start: Tensor, bench: Evaluator, images: Images, progress: Progress) -> dict[str, Any]:
    """Test accuracy on other images over the epochs of fine-tuning on them, epoch 0 being zero-shot."""
    curves, _ = bench.tune(start, progress, f"{name} on {images.name}", images=images)
    return {"name": name, "n": len(start), "curves": curves.tolist()}


def changed(name: str, start: Tensor | None, bench: Evaluator, architecture: str, progress: Progress) -> dict[str, Any]:
    """The same where samples are loaded into another architecture; `start` None: nothing is, for `RANDOM`."""
    count = bench.recipe.num_finetuned if start is None else len(start)
    target = get_architecture(architecture)
    seeds = [derive_seed(bench.recipe.seed, "changed", i) for i in range(count)]
    weights = fresh_weights(architecture, bench.rep.activation, bench.training.init, seeds)
    if start is not None:
        weights[:, : start.shape[1]] = start
    curves, _ = bench.tune(weights, progress, f"{name} in {target.name}", architecture=architecture)
    return {"name": name, "n": count, "curves": curves.tolist()}


def check_fits(architecture: str, bench: Evaluator) -> Architecture:
    """A changed architecture must take images as these and all numbers of a sample; raises ModelZooError."""
    target, own = get_architecture(architecture), bench.rep.architecture
    if target.layout.size < own.layout.size or (target.input_shape, target.classes) != (own.input_shape, own.classes):
        raise ModelZooError(
            f"[evaluation] changed: {architecture} is for {target.images} and has {target.layout.size:,} weights; "
            f"samples of {own.name} are for {own.images} and have {own.layout.size:,}"
        )
    return target


def require_images(images: Images, bench: Evaluator) -> None:
    """Images to transfer to must be such as the architecture takes; raises ModelZooError."""
    own = bench.rep.architecture
    if (images.input_shape, images.classes) != (own.input_shape, own.classes):
        raise ModelZooError(
            f"[evaluation] transfer: {images.name} has {'×'.join(map(str, images.input_shape))} images of "
            f"{images.classes} classes, {own.name} is for {own.images}"
        )
