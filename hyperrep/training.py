"""Learn a hyper-representation: a loop that yields after every epoch, with checkpoints that resume to the same bits.

N states, B states per batch, P weights.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modelzoo_datasets.errors import FormatError, ModelZooError, RecipeError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import generator
from modelzoo_datasets.states import read_json, read_tensors, write_json, write_tensors

from .augmentation import erased, mixed_pairs, noisy, permuted
from .autoencoder import HyperRepresentation
from .losses import contrastive_loss, reconstruction_loss
from .recipe import HyperRecipe, LearningRecipe

_ALIGNMENT_ROUNDS = 8
_SMALLEST_SCALE = 1e-4  # floor of a layer's standard deviation, as published
_WARM_UP = 0.1  # share of the steps over which the learning rate rises
_LARGEST_GRADIENT = 1.0  # norm that gradients are clipped to
_CHECKPOINT_EVERY = 10  # epochs


@dataclass(frozen=True)
class EpochMetrics:
    """Means over the batches of one epoch, and R² of reconstructing validation states."""

    epoch: int
    reconstruction: float
    contrast: float
    validation_r2: float  # 1 - error / error of predicting the training mean, in layer-scaled units


def new_representation(recipe: HyperRecipe, zoo: Zoo) -> HyperRepresentation:
    """An untrained hyper-representation whose reference, mean and scale are fitted to training states.

    Raises:
        FormatError: weights that are not finite, models that were trained in different ways, or signs to be aligned
            where an activation is not odd.
    """
    model, weights, activations = recipe.model, zoo.weights, zoo.table["activation"].unique()
    if recipe.data.signs and list(activations) != ["tanh"]:
        raise FormatError(
            f"recipe {recipe.name}: signs = true needs networks with tanh alone, the zoo has {', '.join(activations)}"
        )
    for field in dataclasses.fields(Training):
        if zoo.table[field.name].nunique() > 1:
            raise FormatError(
                f"recipe {recipe.name} learns from models that were trained alike; config {recipe.data.config} has "
                f"several values of {field.name}"
            )
    rep = HyperRepresentation(
        architecture=zoo.architecture.name,
        activation=str(activations[0]),
        dropout=float(zoo.table["dropout"].iloc[0]),
        width=model.width,
        blocks=model.blocks,
        heads=model.heads,
        feedforward=model.feedforward,
        bottleneck=model.bottleneck,
        latent=model.latent,
        states=len(weights),
        aligned=recipe.data.align,
        signs=recipe.data.signs,
        center=model.center,
    )
    rep.initialise(generator(recipe.learning.seed, "auto-encoder"))
    rep.accuracy.copy_(torch.from_numpy(zoo.table["val_acc"].to_numpy(copy=True)))
    rep.scale.copy_(layer_scales(weights, rep))
    if len(recipe.learning.layer_weights) not in (0, len(rep.layout.layers)):
        raise RecipeError(
            f"recipe {recipe.name}: layer_weights needs one number for each of the {len(rep.layout.layers)} layers of "
            f"{zoo.architecture.name}, got {len(recipe.learning.layer_weights)}"
        )
    if recipe.data.align:
        fit_reference(rep, weights)
    weights = rep.align(weights)  # also refuses weights that are not finite
    rep.mean.copy_(weights.mean(dim=0))
    if rep.linear_path is not None:
        rep.linear_path.fit(rep.layout.to_tokens(rep.normalise(weights)))
    return rep


def layer_scales(weights: Tensor, rep: HyperRepresentation) -> Tensor:
    """(P,): for every weight the standard deviation of its layer, over all states and weights of it (2209.14733)."""
    index = rep.layout.layer_of_weight()
    scales = torch.ones(rep.layout.size)  # counters, which belong to no layer, keep 1
    for layer in range(len(rep.layout.layers)):
        scales[index == layer] = weights[:, index == layer].std().clamp_min(_SMALLEST_SCALE)
    return scales


def fit_reference(rep: HyperRepresentation, weights: Tensor) -> None:
    """Set the reference to the mean of all states (N, P) once each is aligned to it.

    Starts from one state, then aligns and averages until nothing moves.
    """
    rep.reference.copy_(weights[0])
    for _ in range(_ALIGNMENT_ROUNDS):
        weights, before = rep.align(weights), weights
        rep.reference.copy_(weights.mean(dim=0))
        if torch.equal(weights, before):
            break


class _Learner(nn.Module):
    """What is trained together: the auto-encoder and the head used only inside the contrastive loss."""

    def __init__(self, rep: HyperRepresentation, projection: int) -> None:
        super().__init__()
        self.rep = rep
        self.head = nn.Sequential(
            nn.Linear(rep.latent, projection),
            nn.LayerNorm(projection),
            nn.ReLU(),
            nn.Linear(projection, projection),
        )


def learn(
    rep: HyperRepresentation,
    weights: Tensor,  # (N, P) training states
    validation: Tensor,  # (V, P)
    recipe: HyperRecipe,
    checkpoints: Path,
) -> Iterator[EpochMetrics]:
    """Train `rep` in place; yield after every epoch, those before a resume too.

    Args:
        checkpoints: a folder; a run that was killed goes on from the last checkpoint in it, to the same bits.
    """
    how = recipe.learning
    if len(weights) < how.batch_size:
        raise ModelZooError(
            f"{len(weights)} training states are fewer than one batch of {how.batch_size}; "
            "take more epochs or models, or a smaller batch_size"
        )
    learner = _Learner(rep, recipe.model.projection)
    draws = generator(how.seed, "projection head")
    for name, parameter in learner.head.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=draws)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    optimizer = torch.optim.AdamW(learner.parameters(), how.lr, weight_decay=how.weight_decay, fused=True)
    aligned, aligned_validation = rep.align(weights), rep.align(validation)
    history = _restore(checkpoints, learner, optimizer)
    yield from history
    for epoch in range(len(history) + 1, how.epochs + 1):
        reconstruction, contrast = _learn_epoch(learner, optimizer, aligned, how, epoch)
        r2 = reconstruction_r2(rep, aligned_validation).total
        history.append(EpochMetrics(epoch, reconstruction, contrast, r2))
        if epoch % _CHECKPOINT_EVERY == 0:
            _save(checkpoints, learner, optimizer, history)
        yield history[-1]
    rep.embeddings.copy_(rep.embed(aligned))


def _learn_epoch(
    learner: _Learner,
    optimizer: torch.optim.Optimizer,
    weights: Tensor,
    how: LearningRecipe,
    epoch: int,
) -> tuple[float, float]:
    """One pass over the states in batches of equal size; mean reconstruction and contrastive loss."""
    learner.train()
    draws = generator(how.seed, "augmentation", epoch)
    order = torch.randperm(len(weights), generator=generator(how.seed, "order", epoch))
    batches = order[: len(order) - len(order) % how.batch_size].split(how.batch_size)
    sums = torch.zeros(2)
    for number, index in enumerate(batches):
        step = (epoch - 1) * len(batches) + number
        for group in optimizer.param_groups:
            group["lr"] = how.lr * _schedule((step + 1) / (how.epochs * len(batches)))
        losses = _losses(learner, weights[index], how, draws)
        loss = (1 - how.contrast) * losses[0] + how.contrast * losses[1]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        sums += losses.detach()
    reconstruction, contrast = (sums / len(batches)).tolist()
    return reconstruction, contrast


def _losses(learner: _Learner, weights: Tensor, how: LearningRecipe, draws: torch.Generator) -> Tensor:
    """Reconstruction and contrastive loss (2,) of two fresh views of a batch (B, P); views are their own targets."""
    rep = learner.rep
    mixed = mixed_pairs(weights, how.mix, draws)
    views = []
    for name in ("first", "second"):
        view = mixed
        if how.permute in (name, "both"):
            view = permuted(view, rep.architecture.symmetry, draws)
        views.append(erased(noisy(rep.normalise(view), how.noise, draws), how.erase, draws))
    z = rep.encode(torch.cat(views))
    x = views[0] if how.reconstruct == "first" else torch.cat(views)
    weight = _error_weights(rep, how)
    reconstruction = reconstruction_loss(rep.reconstruct(z[: len(x)]), x, 1 / weight)
    first, second = learner.head(z).chunk(2)
    return torch.stack([reconstruction, contrastive_loss(first, second, how.temperature)])


def _error_weights(rep: HyperRepresentation, how: LearningRecipe) -> Tensor:
    """What errors of normalised weights are multiplied by, (P,): sqrt(omega) of each layer; its scale for plain MSE."""
    weight = torch.ones_like(rep.scale) if how.layerwise else rep.scale
    if how.layer_weights:
        omega = torch.tensor([*how.layer_weights, 1.0])  # the last one for counters, which belong to layer -1
        weight = weight * omega[rep.layout.layer_of_weight()].sqrt()
    return weight


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
    learner: _Learner,
    optimizer: torch.optim.Optimizer,
    history: list[EpochMetrics],
) -> None:
    """Metrics first: the checkpoint is what says how far we are."""
    write_json(folder / "checkpoint.json", [asdict(row) for row in history])
    tensors = {f"model.{name}": tensor for name, tensor in learner.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    write_tensors(folder / "checkpoint.safetensors", tensors | {"epoch": torch.tensor(len(history))})


def _restore(folder: Path, learner: _Learner, optimizer: torch.optim.Optimizer) -> list[EpochMetrics]:
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
