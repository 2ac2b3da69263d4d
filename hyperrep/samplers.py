"""Samplers of embeddings, and the baselines that a sampler must beat.

N training embeddings, n samples, D latent dimensions, P weights.
"""

import torch
from torch import Tensor

from modelzoo_datasets.engines import one_thread


def best_states(accuracy: Tensor, quality: float) -> Tensor:
    """Indices of the states at or above the (1 - quality) quantile of accuracy (N,): 'S_KDE30' means quality 0.3."""
    return (accuracy >= torch.quantile(accuracy, 1 - quality)).nonzero().squeeze(1)


def kde(z: Tensor, n: int, bandwidth: float, draws: torch.Generator) -> Tensor:
    """Gaussian kernel density per latent dimension, every dimension drawn on its own: z (N, D) -> (n, D).

    The method as 2209.14733 states it (section 3.3: conditional independence of the dimensions given the data).
    """
    donors = torch.randint(len(z), (n, z.shape[1]), generator=draws)
    return z.gather(0, donors) + bandwidth * torch.randn(n, z.shape[1], generator=draws)


def kde_principal(z: Tensor, n: int, bandwidth: float, draws: torch.Generator) -> Tensor:
    """`kde` along the principal axes of the embeddings, where their coordinates are uncorrelated: z (N, D) -> (n, D).

    Independent draws ignore all correlation between dimensions; in these axes there is none left to ignore.
    """
    mean, axes = principal_axes(z)
    return kde((z - mean) @ axes, n, bandwidth, draws) @ axes.mT + mean


@one_thread()  # with more, the decomposition can be a hundred times slower on busy cores
def principal_axes(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and orthogonal axes (D, D), widest first, of embeddings (N, D)."""
    mean = z.mean(dim=0)
    axes = torch.linalg.eigh((z - mean).double().mT.cov()).eigenvectors.flip(1)
    return mean, axes.to(z.dtype)


def kde_shared(z: Tensor, n: int, bandwidth: float, draws: torch.Generator) -> Tensor:
    """What the published code does: one seed for all dimensions, so a sample is a training embedding plus one scalar.

    Every dimension draws the same donor and the same noise. Kept under its own name because published numbers depend on
    it; its samples are decoded training embeddings.
    """
    donors = torch.randint(len(z), (n,), generator=draws)
    return z[donors] + bandwidth * torch.randn(n, 1, generator=draws)


SAMPLERS = {"kde": kde, "kde-principal": kde_principal, "kde-shared": kde_shared}


def with_noise(
    weights: Tensor,  # (n, P)
    scale: Tensor,  # (P,)
    distance: Tensor,  # (n,) in layer standard deviations, root mean square over the weights
    draws: torch.Generator,
) -> Tensor:
    """Weights moved in a random direction by exactly the distance asked for: the baseline of equal novelty."""
    direction = torch.randn(weights.shape, generator=draws)
    direction = direction / direction.square().mean(dim=1, keepdim=True).sqrt()
    return weights + distance.unsqueeze(1) * direction * scale
