"""Learn a hyper-representation: a loop that yields after every epoch, on the device of what is learned.

N states, B states per batch, P weights.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.seeds import keyed_generator

from ..model import HyperRepresentation
from ..recipe import HyperRecipe, LearningRecipe
from .checkpoints import restore, save
from .functional_loss import Queries
from .metrics_log import EpochMetrics
from .objective import LOSSES, Draws, Learner, losses, weighted

_WARM_UP = 0.1  # share of the steps over which the learning rate rises
_LARGEST_GRADIENT = 1.0  # norm that gradients are clipped to
_CHECKPOINT_EVERY = 10  # epochs


def learn(
    rep: HyperRepresentation,
    weights: Tensor,  # (N, P) training states
    validation: Tensor,  # (V, P)
    recipe: HyperRecipe,
    checkpoints: Path,
    queries: Queries | None = None,
    *,
    compiled: bool = False,
    half: bool = False,
) -> Iterator[EpochMetrics]:
    """Train `rep` in place, on the device that it is on; yield after every epoch, those before a resume too.

    What is random is drawn on the CPU, so it is the same on every device; arithmetic rounds differently on each.

    Args:
        queries: what networks are asked about, for recipes with a loss of behaviour.
        checkpoints: a folder; a run that was killed goes on from the last checkpoint in it, to the same bits.
        compiled: run encoder and decoder through `torch.compile`; faster once compiled, and other bits.
        half: transformers multiply in bfloat16.
    """
    how = recipe.learning
    if len(weights) < how.batch_size:
        raise ModelZooError(
            f"{len(weights)} training states are fewer than one batch of {how.batch_size}; "
            "take more epochs or models, or a smaller batch_size"
        )
    if how.asks and queries is None:
        raise ModelZooError(f"recipe {recipe.name} has a loss of behaviour: it needs images to ask networks about")
    learner = Learner(rep, recipe, weights, compiled=compiled, half=half)
    optimizer = torch.optim.AdamW(learner.parameters(), how.lr, weight_decay=how.weight_decay, fused=True)
    aligned, aligned_validation = (rep.align(states.to(rep.device)) for states in (weights, validation))
    history = restore(checkpoints, learner, optimizer)
    yield from history
    for epoch in range(len(history) + 1, how.epochs + 1):
        means = _learn_epoch(learner, optimizer, aligned, how, queries if how.asks else None, epoch)
        r2 = reconstruction_r2(rep, aligned_validation).total
        history.append(EpochMetrics(epoch=epoch, validation_r2=r2, **means))
        if epoch % _CHECKPOINT_EVERY == 0:
            save(checkpoints, learner, optimizer, history)
        yield history[-1]
    rep.embeddings.copy_(rep.embed(aligned))


def _learn_epoch(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    weights: Tensor,
    how: LearningRecipe,
    queries: Queries | None,
    epoch: int,
) -> dict[str, float]:
    """One pass over the states in batches of equal size; the mean of every loss."""
    learner.train()
    draws = Draws.of(how.seed, epoch)
    order = torch.randperm(len(weights), generator=keyed_generator(how.seed, "order", epoch)).to(weights.device)
    batches = order[: len(order) - len(order) % how.batch_size].split(how.batch_size)
    sums = weights.new_zeros(len(LOSSES))
    for number, index in enumerate(batches):
        step = (epoch - 1) * len(batches) + number
        for group in optimizer.param_groups:
            group["lr"] = how.lr * _schedule((step + 1) / (how.epochs * len(batches)))
        parts = losses(learner, weights[index], how, queries, draws)
        optimizer.zero_grad()
        weighted(parts, how).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        sums += parts.detach()
    return dict(zip(LOSSES, (sums / len(batches)).tolist(), strict=True))


def _schedule(done: float) -> float:
    """Share of the peak learning rate after a share of the steps: linear warm-up, then a half cosine to zero."""
    if done < _WARM_UP:
        return done / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


@dataclass(frozen=True)
class ReconstructionR2:
    """R² of reconstructed weights in layer-scaled units, against predicting the training mean."""

    total: float
    layers: tuple[float, ...]


@torch.inference_mode()
def reconstruction_r2(rep: HyperRepresentation, aligned: Tensor) -> ReconstructionR2:
    """How well aligned states (N, P) are reconstructed, in all and per layer (2209.14733: 1 - L / L_mean)."""
    decoded = rep.decode(rep.embed(aligned))
    error = ((decoded - aligned) / rep.scale).square().sum(dim=0)
    baseline = ((aligned - rep.mean) / rep.scale).square().sum(dim=0)
    index = rep.layout.layer_of_weight().to(error.device)
    parts = [
        float(1 - error[index == layer].sum() / baseline[index == layer].sum())
        for layer in range(len(rep.layout.layers))
    ]
    return ReconstructionR2(float(1 - error.sum() / baseline.sum()), tuple(parts))
