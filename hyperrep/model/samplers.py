"""Samplers of embeddings: each is a name, what it promises, and a draw that repeats with its generator.

N training embeddings, n samples, D latent dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modelzoo_datasets.engines import one_thread
from modelzoo_datasets.errors import ModelZooError

from ..sampler_names import SAMPLER_INFO, SamplerInfo
from .gan_sampler import gan
from .umap_sampler import neighbour


@dataclass(frozen=True)
class Sampler:
    """A way to draw embeddings; `draw(z, n, bandwidth, draws)` takes those of the training states (N, D)."""

    info: SamplerInfo
    draw: Callable[[Tensor, int, float, torch.Generator], Tensor]

    def __call__(self, z: Tensor, n: int, bandwidth: float, draws: torch.Generator) -> Tensor:
        """Draw (n, D).

        Raises:
            ModelZooError: too few embeddings, or the extra is not installed.
        """
        if len(z) < self.info.min_states:
            raise ModelZooError(
                f"sampler {self.info.name} needs at least {self.info.min_states} training states, got {len(z)}; draw "
                "from a larger share of the states (quality), or learn from more models"
            )
        return self.draw(z, n, bandwidth, draws)


def best_states(accuracy: Tensor, quality: float) -> Tensor:
    """Indices of the states at or above the (1 - quality) quantile of accuracy (N,): 'S_KDE30' means quality 0.3.

    States without an accuracy (NaN) are among them only where all are.

    Raises:
        ModelZooError: none has an accuracy.
    """
    if quality == 1:
        return torch.arange(len(accuracy))
    if accuracy.isnan().all():
        raise ModelZooError(
            f"none of the {len(accuracy)} training states has a validation accuracy, so none is among the best "
            f"{quality:.0%}; draw from all of them with quality 1"
        )
    return (accuracy >= torch.nanquantile(accuracy, 1 - quality)).nonzero().squeeze(1)


def uniform(z: Tensor, n: int, bandwidth: float, draws: torch.Generator) -> Tensor:
    """z ~ U(-1, 1) in every dimension, whatever the embeddings are (2209.14733, S_U)."""
    return 2 * torch.rand(n, z.shape[1], generator=draws) - 1


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


def normal(z: Tensor, n: int, bandwidth: float, draws: torch.Generator) -> Tensor:
    """The normal distribution with mean and covariance of the embeddings: z (N, D) -> (n, D).

    Mean + C (z - mean), C ~ N(0, 1/N): what decoders with a loss of mixed behaviour were taught to decode.
    """
    centre = z.mean(dim=0)
    shares = torch.randn(n, len(z), generator=draws) / len(z) ** 0.5
    drawn: Tensor = centre + shares @ (z - centre)
    return drawn


def interpolation(z: Tensor, n: int, bandwidth: float, draws: torch.Generator) -> Tensor:
    """Points on the way between two embeddings, any of them as likely: z (N, D) -> (n, D)."""
    first = torch.randint(len(z), (n,), generator=draws)
    second = (first + torch.randint(1, len(z), (n,), generator=draws)) % len(z)
    share = torch.rand(n, 1, generator=draws)
    return (1 - share) * z[first] + share * z[second]


SAMPLERS: dict[str, Sampler] = {
    name: Sampler(SAMPLER_INFO[name], draw)
    for name, draw in (
        ("uniform", uniform),
        ("kde", kde),
        ("kde-shared", kde_shared),
        ("kde-principal", kde_principal),
        ("normal", normal),
        ("interpolation", interpolation),
        ("neighbour", neighbour),
        ("gan", gan),
    )
}
