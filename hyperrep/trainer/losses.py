"""Random views of a batch of training states, the losses of a hyper-representation on them, and their weighted sum.

Random numbers are drawn on the CPU, whatever device the weights are on: equal seeds give equal views everywhere.

B states per batch, P weights, D latent dimensions, H numbers of a projection, F statistics.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from modelzoo_datasets.errors import RecipeError
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights import Symmetry, permute_units, sample_permutations

from ..model import HyperRepresentation, compute_layer_statistics, init_parameters
from ..recipe import HyperRecipe, LearningRecipe
from .functional_loss import MIXTURES, Predictor, draw_normal_mixtures

LOSSES = ("reconstruction", "contrastive", "functional", "mixed_functional", "statistics")
_MIN_STD = 1e-6  # floor of the standard deviation of a statistic over the training states
_MIN_ERASED, _MAX_ERASED = 0.02, 0.33  # shares of the weights in an erased block (2110.15288, code)


def permute_randomly(weights: Tensor, symmetry: Symmetry, generator: torch.Generator) -> Tensor:
    """Put the units of every model (B, P) into a random order; the functions of the networks stay the same."""
    orders = sample_permutations(symmetry, len(weights), generator)
    return permute_units(weights, symmetry, [order.to(weights.device) for order in orders])


def mix_pairs(weights: Tensor, max_share: float, generator: torch.Generator) -> Tensor:
    """Move every model (B, P) towards another one of the batch, by a uniform share of the way up to `max_share`.

    The models must be aligned: means of unaligned models are no sensible networks.
    """
    if max_share == 0:
        return weights
    share = (max_share * torch.rand(len(weights), 1, generator=generator)).to(weights.device)
    partner = torch.randperm(len(weights), generator=generator).to(weights.device)
    return weights + share * (weights[partner] - weights)


def add_noise(x: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Add N(0, std²) to every entry of (B, P)."""
    return x + std * torch.randn(x.shape, generator=generator).to(x.device) if std > 0 else x


def erase_blocks(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Set a contiguous block of 2 to 33 % of a row to zero, in each row of (B, P) with this probability."""
    if probability == 0:
        return x
    rows, size = x.shape
    has_block = torch.rand(rows, 1, generator=generator) < probability
    share = _MIN_ERASED + (_MAX_ERASED - _MIN_ERASED) * torch.rand(rows, 1, generator=generator)
    length = (share * size).round()
    start = (torch.rand(rows, 1, generator=generator) * (size - length + 1)).floor()
    has_block, length, start = has_block.to(x.device), length.to(x.device), start.to(x.device)
    position = torch.arange(size, device=x.device)
    return torch.where(has_block & (position >= start) & (position < start + length), 0.0, x)


def reconstruction_loss(decoded: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Return the mean over batch and weights of ((decoded - target) / scale)².

    With the standard deviation of each weight's layer as scale this is the layer-wise loss normalization of 2209.14733
    (section 3, reduction over all weights); with ones it is the plain mean squared error.

    Args:
        decoded: reconstructed weights (B, P).
        target: original weights (B, P).
        scale: (P,).
    """
    return ((decoded - target) / scale).square().mean()


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent: each view has to find its partner among the 2B - 1 other views (2002.05709, eq. 1).

    Args:
        first: projections (B, H) of one view of each state.
        second: projections (B, H) of the other view.
        temperature: divisor of the cosine similarities.
    """
    views = normalize(torch.cat([first, second]), dim=1)
    similarity = views @ views.mT / temperature
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


class Learner(nn.Module):
    """All that is trained: the auto-encoder, and the projection head used only inside the contrastive loss."""

    statistics: Tensor  # (2, F) mean and standard deviation of s(W) over the training states
    error_scale: Tensor  # (P,) divisor of the errors of normalized weights
    loss_factors: Tensor  # (5,) factors of `LOSSES`

    def __init__(
        self,
        rep: HyperRepresentation,
        recipe: HyperRecipe,
        weights: Tensor,
        *,
        compiled: bool = False,
        bf16: bool = False,
    ) -> None:
        """Put everything on the device of `rep`.

        Args:
            rep: the auto-encoder, trained in place.
            recipe: sizes of the head, weights of the losses, and the seed.
            weights: the training states (N, P).
            compiled: run encoder and decoder through `torch.compile`, which rounds differently.
            bf16: multiply in bfloat16 inside the transformers.

        Raises:
            RecipeError: the pooled part is too short to hold s(W).
        """
        super().__init__()
        self.rep, self.bf16 = rep, bf16
        encode, decode = rep._encode_normalized, rep._decode_normalized
        self.encode = torch.compile(encode, dynamic=False) if compiled else encode
        self.decode = torch.compile(decode, dynamic=False) if compiled else decode
        projection = recipe.model.projection
        self.head = nn.Sequential(
            nn.Linear(rep.latent_dim, projection),
            nn.LayerNorm(projection),
            nn.ReLU(),
            nn.Linear(projection, projection),
        )
        init_parameters(self.head, keyed_generator(recipe.learning.seed, "projection head"))
        statistics = compute_layer_statistics(weights, rep.layout).float()
        if recipe.learning.statistics_weight and recipe.model.pooled_dim < statistics.shape[1]:
            raise RecipeError(
                f"recipe {recipe.name}: [learning] statistics_weight needs [model] pooled_dim of at least "
                f"{statistics.shape[1]}, the number of statistics of {rep.architecture.name}, got "
                f"{recipe.model.pooled_dim}"
            )
        std = statistics.std(dim=0).clamp_min(_MIN_STD)
        self.register_buffer("statistics", torch.stack([statistics.mean(dim=0), std]), persistent=False)
        self.register_buffer("error_scale", 1 / compute_error_weights(rep, recipe.learning), persistent=False)
        self.register_buffer("loss_factors", torch.tensor(list_loss_factors(recipe.learning)), persistent=False)
        self.to(rep.device)


@dataclass(frozen=True)
class EpochGenerators:
    """Random streams of one epoch, one per purpose: using one never shifts the other."""

    augmentation: torch.Generator
    functional: torch.Generator

    @classmethod
    def from_epoch(cls, seed: int, epoch: int) -> "EpochGenerators":
        """Derive the streams of an epoch from the seed of the run."""
        return cls(keyed_generator(seed, "augmentation", epoch), keyed_generator(seed, "behaviour", epoch))


def compute_losses(
    learner: Learner,
    weights: Tensor,
    recipe: LearningRecipe,
    predictor: Predictor | None,
    generators: EpochGenerators,
) -> Tensor:
    """Return all of `LOSSES` (5,) on a batch; a loss without weight in the recipe is 0.

    Args:
        learner: auto-encoder and head; with `bf16` its transformers multiply in bfloat16, but not the decoder where
            decoded networks are run on images.
        weights: aligned training states (B, P).
        recipe: augmentation and the weights of the losses.
        predictor: networks and images, for recipes with a functional loss.
        generators: random streams of the epoch.
    """
    rep, zero, bf16 = learner.rep, weights.new_zeros(()), learner.bf16
    # One or two augmented views of each state, encoded together.
    mixed = mix_pairs(weights, recipe.mixup, generators.augmentation)
    first = _make_view(rep, mixed, recipe, generators.augmentation, permute=recipe.permute == "both")
    second = None
    if recipe.has_two_views:
        second = _make_view(rep, mixed, recipe, generators.augmentation, permute=recipe.permute != "none")
    views = [first] if second is None else [first, second]
    z = learner.encode(torch.cat(views), bf16=bf16)
    # Reconstruction of one view or of both, in units of the layers' standard deviations.
    x = first if recipe.reconstruct == "first" or second is None else torch.cat(views)
    decoded = learner.decode(z[: len(x)], bf16=bf16 and predictor is None)
    reconstruction = reconstruction_loss(decoded, x, learner.error_scale)
    # Contrast between the two views.
    contrastive = zero
    if second is not None:
        first_projection, second_projection = learner.head(z).chunk(2)
        contrastive = contrastive_loss(first_projection, second_projection, recipe.temperature)
    # Predictions of networks that are decoded from the first view, and from draws around it.
    size = len(weights)
    functional = mixed_functional = zero
    if predictor is not None:
        functional, mixed_functional = _compute_functional_losses(
            learner, predictor, mixed, z[:size], decoded[:size], recipe, generators.functional
        )
    statistics = _compute_statistics_loss(learner, mixed, z[:size]) if recipe.statistics_weight else zero
    return torch.stack([reconstruction, contrastive, functional, mixed_functional, statistics])


def sum_losses(losses: Tensor, factors: Tensor) -> Tensor:
    """Weight and add the losses (5,) by their factors (5,), see `list_loss_factors`."""
    return (losses * factors).sum()


def list_loss_factors(recipe: LearningRecipe) -> list[float]:
    """Return the factor of each of `LOSSES`: (1 - w) L_rec + w L_c as published, and the others on top."""
    share = recipe.contrastive_weight
    return [1 - share, share, recipe.functional_weight, recipe.mixed_functional_weight, recipe.statistics_weight]


def _make_view(
    rep: HyperRepresentation, weights: Tensor, recipe: LearningRecipe, generator: torch.Generator, *, permute: bool
) -> Tensor:
    """Return normalized weights (B, P), augmented anew."""
    view = permute_randomly(weights, rep.symmetry, generator) if permute else weights
    noisy = add_noise(rep._normalize(view), recipe.noise_std, generator)
    return erase_blocks(noisy, recipe.erase_prob, generator)


def _compute_functional_losses(
    learner: Learner,
    predictor: Predictor,
    weights: Tensor,  # (B, P)
    z: Tensor,  # (B, D)
    decoded: Tensor,  # (B, P), normalized
    recipe: LearningRecipe,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the functional losses of networks decoded from embeddings, and of those decoded from draws around them."""
    rep, images = learner.rep, predictor.sample_images(recipe.num_queries, generator)
    predictions = predictor.predict(weights, images)
    functional = mixed_functional = weights.new_zeros(())
    if recipe.functional_weight:
        functional = predictor.compute_divergence(rep._denormalize(decoded), images, predictions)
    if recipe.mixed_functional_weight:
        mixed_z, shares = draw_normal_mixtures(z, generator)
        target = MIXTURES[recipe.mixture](predictions, shares)
        mixed_functional = predictor.compute_divergence(rep._denormalize(learner.decode(mixed_z)), images, target)
    return functional, mixed_functional


def _compute_statistics_loss(learner: Learner, weights: Tensor, z: Tensor) -> Tensor:
    """Return the mean squared error of the first numbers of the pooled part of z (B, D) from standardized s(W)."""
    mean, std = learner.statistics
    target = (compute_layer_statistics(weights, learner.rep.layout).float() - mean) / std
    start = learner.rep.bottleneck.latent_dim
    error: Tensor = z[:, start : start + target.shape[1]] - target
    return error.square().mean()


def compute_error_weights(rep: HyperRepresentation, recipe: LearningRecipe) -> Tensor:
    """Return factors (P,) of errors of normalized weights: sqrt(omega) of each layer, and its scale for plain MSE."""
    weight = torch.ones_like(rep.scale) if recipe.layerwise else rep.scale
    if recipe.layer_weights:
        omega = weight.new_tensor([*recipe.layer_weights, 1.0])  # the last one for counters, which are of layer -1
        weight = weight * omega[rep.layout.layer_of_weight().to(weight.device)].sqrt()
    return weight
