"""Training of a hyper-representation: a loop that yields after every epoch, on the device of its parameters.

N training states, B states per batch, P weights, V validation states.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from modelzoo_datasets.engines import full_precision
from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.seeds import keyed_generator

from ..json_record import JsonRecord
from ..model import HyperRepresentation
from ..recipe import HyperRecipe, LearningRecipe
from .checkpoints import EpochMetrics, load_checkpoint, save_checkpoint
from .functional_loss import Predictor
from .losses import LOSSES, EpochGenerators, Learner, compute_losses, sum_losses

Precision = Literal["float32", "bf16"]
_WARM_UP = 0.1  # share of the steps over which the learning rate rises
_MAX_GRADIENT_NORM = 1.0
_CHECKPOINT_EVERY = 10  # epochs


def train_epochs(
    rep: HyperRepresentation,
    weights: Tensor,
    validation: Tensor,
    recipe: HyperRecipe,
    checkpoints: Path,
    predictor: Predictor | None = None,
    *,
    compiled: bool = False,
    precision: Precision = "float32",
) -> Iterator[EpochMetrics]:
    """Train `rep` in place, on its own device; yield metrics after every epoch, those before a resume too.

    Random numbers are drawn on the CPU, so they are the same on every device; arithmetic rounds differently on each.

    Args:
        rep: an untrained hyper-representation, fitted to the training states.
        weights: training states (N, P).
        validation: states (V, P) of models that are not trained on, for the metrics.
        recipe: losses, augmentation and optimization.
        checkpoints: a folder; a run that was stopped resumes from the last checkpoint in it, to the same bits.
        predictor: networks and training images, for recipes with a functional loss.
        compiled: run encoder and decoder through `torch.compile`; faster once compiled, but other bits.
        precision: of products inside the transformers; "bf16" is bfloat16.

    Yields:
        The metrics of each epoch.

    Raises:
        ModelZooError: fewer states than one batch, or no predictor for a functional loss.
    """
    learning = recipe.learning
    if len(weights) < learning.batch_size:
        raise ModelZooError(
            f"expected at least one batch of {learning.batch_size} training states, got {len(weights)}; take more "
            "epochs or models, or a smaller batch_size"
        )
    if learning.needs_images and predictor is None:
        raise ModelZooError(f"recipe {recipe.name} has a functional loss, which needs training images and an engine")
    learner = Learner(rep, recipe, weights, compiled=compiled, bf16=precision == "bf16")
    optimizer = torch.optim.AdamW(learner.parameters(), learning.lr, weight_decay=learning.weight_decay, fused=True)
    aligned, aligned_validation = (rep.align(states.to(rep.device)) for states in (weights, validation))
    history = load_checkpoint(checkpoints, learner, optimizer)
    yield from history
    for epoch in range(len(history) + 1, learning.epochs + 1):
        means = _train_epoch(learner, optimizer, aligned, learning, predictor if learning.needs_images else None, epoch)
        r2 = measure_reconstruction(rep, aligned_validation).total
        history.append(EpochMetrics(epoch=epoch, validation_r2=r2, **means))
        if epoch % _CHECKPOINT_EVERY == 0:
            save_checkpoint(checkpoints, learner, optimizer, history)
        yield history[-1]
    rep.embeddings.copy_(rep.encode(aligned))


@full_precision()  # on a GPU, convolutions of networks in the loss would be in TF32, there and back
def _train_epoch(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    weights: Tensor,  # (N, P)
    recipe: LearningRecipe,
    predictor: Predictor | None,
    epoch: int,
) -> dict[str, float]:
    """Make one pass over the states in batches of equal size; return the mean of every loss."""
    learner.train()
    generators = EpochGenerators.from_epoch(recipe.seed, epoch)
    order = torch.randperm(len(weights), generator=keyed_generator(recipe.seed, "order", epoch)).to(weights.device)
    batches = order[: len(order) - len(order) % recipe.batch_size].split(recipe.batch_size)
    sums = weights.new_zeros(len(LOSSES))
    for number, index in enumerate(batches):
        step = (epoch - 1) * len(batches) + number
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _compute_lr_factor((step + 1) / (recipe.epochs * len(batches)))
        losses = compute_losses(learner, weights[index], recipe, predictor, generators)
        optimizer.zero_grad()
        sum_losses(losses, learner.loss_factors).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        sums += losses.detach()
    return dict(zip(LOSSES, (sums / len(batches)).tolist(), strict=True))


def _compute_lr_factor(share: float) -> float:
    """Return the factor of the peak learning rate after a share of the steps: linear warm-up, half a cosine to zero."""
    if share < _WARM_UP:
        return share / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP)))


@dataclass(frozen=True, kw_only=True)
class ReconstructionResult(JsonRecord):
    """R² of reconstructed weights in layer-scaled units, against predicting the training mean."""

    total: float
    layers: Sequence[float]
    n: int  # number of states


@torch.inference_mode()
def measure_reconstruction(rep: HyperRepresentation, aligned: Tensor) -> ReconstructionResult:
    """Return R² of aligned states (N, P), encoded and decoded, in total and per layer (2209.14733: 1 - L / L_mean)."""
    decoded = rep.decode(rep.encode(aligned))
    error = ((decoded - aligned) / rep.scale).square().sum(dim=0)
    baseline = ((aligned - rep.mean) / rep.scale).square().sum(dim=0)
    index = rep.layout.layer_of_weight().to(error.device)
    layers = [
        float(1 - error[index == layer].sum() / baseline[index == layer].sum())
        for layer in range(len(rep.layout.layers))
    ]
    return ReconstructionResult(total=float(1 - error.sum() / baseline.sum()), layers=layers, n=len(aligned))
