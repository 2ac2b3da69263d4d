"""What a hyper-representation learns from a batch of states: every loss, and what they add up to.

B states per batch, P weights, D latent dimensions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelzoo_datasets.errors import RecipeError
from modelzoo_datasets.seeds import keyed_generator

from ..model import HyperRepresentation, compute_layer_statistics
from ..recipe import HyperRecipe, LearningRecipe
from .augmentation import erased, mixed_pairs, noisy, permuted
from .functional_loss import MIXTURES, Queries, gaussian_mixtures
from .losses import contrastive_loss, reconstruction_loss

LOSSES = ("reconstruction", "contrast", "behaviour", "mixed", "statistics")
_SMALLEST_DEVIATION = 1e-6  # of a statistic over the training states


class Learner(nn.Module):
    """What is trained together: the auto-encoder, and the heads used only inside losses."""

    statistics: Tensor  # (2, F) mean and standard deviation of s(W) over the training states
    unit: Tensor  # (P,) what an error of normalised weights is divided by

    def __init__(
        self,
        rep: HyperRepresentation,
        recipe: HyperRecipe,
        weights: Tensor,
        *,
        compiled: bool = False,
        half: bool = False,
    ) -> None:
        """All of it is on the device of `rep`.

        Args:
            weights: the training states (N, P).
            compiled: encode and reconstruct by `torch.compile`, which adds up in another order: other bits.
            half: transformers multiply in bfloat16.
        """
        super().__init__()
        self.rep, self.in_half = rep, half
        self.encode = torch.compile(rep.encode, dynamic=False) if compiled else rep.encode
        self.reconstruct = torch.compile(rep.reconstruct, dynamic=False) if compiled else rep.reconstruct
        projection = recipe.model.projection
        self.head = nn.Sequential(
            nn.Linear(rep.latent, projection),
            nn.LayerNorm(projection),
            nn.ReLU(),
            nn.Linear(projection, projection),
        )
        _initialise(self.head, keyed_generator(recipe.learning.seed, "projection head"))
        found = compute_layer_statistics(weights, rep.layout).float()
        if recipe.learning.statistics and recipe.model.pooled < found.shape[1]:
            raise RecipeError(
                f"recipe {recipe.name}: [learning] statistics needs [model] pooled of at least {found.shape[1]}, the "
                f"statistics of the layers of {rep.architecture.name}, got {recipe.model.pooled}"
            )
        spread = found.std(dim=0).clamp_min(_SMALLEST_DEVIATION)
        self.register_buffer("statistics", torch.stack([found.mean(dim=0), spread]), persistent=False)
        self.register_buffer("unit", 1 / error_weights(rep, recipe.learning), persistent=False)
        self.to(rep.device)


def _initialise(head: nn.Module, draws: torch.Generator) -> None:
    for name, parameter in head.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=draws)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


@dataclass(frozen=True)
class Draws:
    """Random streams of an epoch, one per purpose, so that none depends on whether another is used."""

    augmentation: torch.Generator
    behaviour: torch.Generator

    @classmethod
    def of(cls, seed: int, epoch: int) -> "Draws":
        """Those of this epoch of a run."""
        return cls(keyed_generator(seed, "augmentation", epoch), keyed_generator(seed, "behaviour", epoch))


def losses(learner: Learner, weights: Tensor, how: LearningRecipe, queries: Queries | None, draws: Draws) -> Tensor:
    """All of `LOSSES` (5,) on a batch of aligned states (B, P); 0 for those that the recipe gives no weight.

    Of a learner that is `half` the transformers multiply in bfloat16. All else is of float32, and so is the decoder
    where decoded networks are asked what they do.
    """
    rep, zero, half = learner.rep, weights.new_zeros(()), learner.in_half
    mixed = mixed_pairs(weights, how.mix, draws.augmentation)
    first = _view(rep, mixed, how, draws.augmentation, permute=how.permute == "both")
    second = _view(rep, mixed, how, draws.augmentation, permute=how.permute != "none") if how.two_views else None
    views = [first] if second is None else [first, second]
    z = learner.encode(torch.cat(views), half=half)
    x = first if how.reconstruct == "first" or second is None else torch.cat(views)
    decoded = learner.reconstruct(z[: len(x)], half=half and queries is None)
    reconstruction = reconstruction_loss(decoded, x, learner.unit)
    contrast = zero
    if second is not None:
        of_first_view, of_second_view = learner.head(z).chunk(2)
        contrast = contrastive_loss(of_first_view, of_second_view, how.temperature)
    behaviour = mixture = zero
    if queries is not None:
        of_first = slice(len(weights))
        behaviour, mixture = _behaviour(learner, queries, mixed, z[of_first], decoded[of_first], how, draws.behaviour)
    told = _statistics(learner, mixed, z[: len(weights)]) if how.statistics else zero
    return torch.stack([reconstruction, contrast, behaviour, mixture, told])


def _statistics(learner: Learner, weights: Tensor, z: Tensor) -> Tensor:
    """How far the first numbers of the pooled part (B, D) are from the standardised s(W) of weights (B, P)."""
    mean, deviation = learner.statistics
    wanted = (compute_layer_statistics(weights, learner.rep.layout).float() - mean) / deviation
    begin = learner.rep.bottleneck.latent
    error: Tensor = z[:, begin : begin + wanted.shape[1]] - wanted
    return error.square().mean()


def weighted(parts: Tensor, how: LearningRecipe) -> Tensor:
    """What `losses` (5,) add up to: (1 - contrast) L_rec + contrast L_c as published, and the others on top."""
    factors = [1 - how.contrast, how.contrast, how.behaviour, how.mixed_behaviour, how.statistics]
    return (parts * parts.new_tensor(factors)).sum()


def _view(
    rep: HyperRepresentation, weights: Tensor, how: LearningRecipe, draws: torch.Generator, *, permute: bool
) -> Tensor:
    """Normalised weights (B, P), augmented afresh."""
    view = permuted(weights, rep.architecture.symmetry, draws) if permute else weights
    return erased(noisy(rep.normalise(view), how.noise, draws), how.erase, draws)


def _behaviour(
    learner: Learner,
    queries: Queries,
    weights: Tensor,  # (B, P)
    z: Tensor,  # (B, D)
    decoded: Tensor,  # (B, P), normalised
    how: LearningRecipe,
    draws: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Of networks decoded from embeddings, and of those decoded from draws around them."""
    rep, asked = learner.rep, queries.drawn(how.queries, draws)
    said = queries.answers(weights, asked)
    behaviour = mixture = weights.new_zeros(())
    if how.behaviour:
        behaviour = queries.divergence(rep.denormalise(decoded), asked, said)
    if how.mixed_behaviour:
        drawn, shares = gaussian_mixtures(z, draws)
        wanted = MIXTURES[how.mixture](said, shares)
        mixture = queries.divergence(rep.denormalise(learner.reconstruct(drawn)), asked, wanted)
    return behaviour, mixture


def error_weights(rep: HyperRepresentation, how: LearningRecipe) -> Tensor:
    """What errors of normalised weights are multiplied by, (P,): sqrt(omega) of each layer; its scale for plain MSE."""
    weight = torch.ones_like(rep.scale) if how.layerwise else rep.scale
    if how.layer_weights:
        omega = weight.new_tensor([*how.layer_weights, 1.0])  # the last one for counters, which belong to layer -1
        weight = weight * omega[rep.layout.layer_of_weight().to(weight.device)].sqrt()
    return weight
