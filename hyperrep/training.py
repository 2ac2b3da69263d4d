"""Learn a hyper-representation: a loop that yields after every epoch, with checkpoints that resume to the same bits.

N states, B states per batch, P weights.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.seeds import generator
from modelzoo_datasets.states import read_json, read_tensors, write_json, write_tensors

from .autoencoder import HyperRepresentation
from .behaviour import Queries
from .objective import LOSSES, Draws, Learner, losses, weighted
from .recipe import HyperRecipe, LearningRecipe

_WARM_UP = 0.1  # share of the steps over which the learning rate rises
_LARGEST_GRADIENT = 1.0  # norm that gradients are clipped to
_CHECKPOINT_EVERY = 10  # epochs


@dataclass(frozen=True)
class EpochMetrics:
    """Mean of every loss over the batches of one epoch (0 where the recipe has none), and R² on validation states."""

    epoch: int
    reconstruction: float
    contrast: float
    behaviour: float  # in nats: Kullback-Leibler divergence of what decoded networks say from what the originals say
    mixed: float  # the same of networks decoded from draws around embeddings
    statistics: float
    validation_r2: float  # 1 - error / error of predicting the training mean, in layer-scaled units


def learn(
    rep: HyperRepresentation,
    weights: Tensor,  # (N, P) training states
    validation: Tensor,  # (V, P)
    recipe: HyperRecipe,
    checkpoints: Path,
    queries: Queries | None = None,
) -> Iterator[EpochMetrics]:
    """Train `rep` in place; yield after every epoch, those before a resume too.

    Args:
        queries: what networks are asked about, for recipes with a loss of behaviour.
        checkpoints: a folder; a run that was killed goes on from the last checkpoint in it, to the same bits.
    """
    how = recipe.learning
    if len(weights) < how.batch_size:
        raise ModelZooError(
            f"{len(weights)} training states are fewer than one batch of {how.batch_size}; "
            "take more epochs or models, or a smaller batch_size"
        )
    if how.asks and queries is None:
        raise ModelZooError(f"recipe {recipe.name} has a loss of behaviour: it needs images to ask networks about")
    learner = Learner(rep, recipe, weights)
    optimizer = torch.optim.AdamW(learner.parameters(), how.lr, weight_decay=how.weight_decay, fused=True)
    aligned, aligned_validation = rep.align(weights), rep.align(validation)
    history = _restore(checkpoints, learner, optimizer)
    yield from history
    for epoch in range(len(history) + 1, how.epochs + 1):
        means = _learn_epoch(learner, optimizer, aligned, how, queries if how.asks else None, epoch)
        r2 = reconstruction_r2(rep, aligned_validation).total
        history.append(EpochMetrics(epoch=epoch, validation_r2=r2, **means))
        if epoch % _CHECKPOINT_EVERY == 0:
            _save(checkpoints, learner, optimizer, history)
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
    order = torch.randperm(len(weights), generator=generator(how.seed, "order", epoch))
    batches = order[: len(order) - len(order) % how.batch_size].split(how.batch_size)
    sums = torch.zeros(len(LOSSES))
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
    index = rep.layout.layer_of_weight()
    parts = [
        float(1 - error[index == layer].sum() / baseline[index == layer].sum())
        for layer in range(len(rep.layout.layers))
    ]
    return ReconstructionR2(float(1 - error.sum() / baseline.sum()), tuple(parts))


def _save(
    folder: Path,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    history: list[EpochMetrics],
) -> None:
    """Metrics first: the checkpoint is what says how far we are."""
    write_json(folder / "checkpoint.json", [asdict(row) for row in history])
    tensors = {f"model.{name}": tensor for name, tensor in learner.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    write_tensors(folder / "checkpoint.safetensors", tensors | {"epoch": torch.tensor(len(history))})


def _restore(folder: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> list[EpochMetrics]:
    """Load the last checkpoint, if there is one; returns the metrics up to it."""
    if not (folder / "checkpoint.safetensors").is_file():
        return []
    tensors = read_tensors(folder / "checkpoint.safetensors")
    rows = read_json(folder / "checkpoint.json")[: int(tensors.pop("epoch"))]
    learner.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return [EpochMetrics(**row) for row in rows]
