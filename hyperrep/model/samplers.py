"""Samplers of embeddings (2209.14733, section 3.3): functions (z, n, bandwidth, generator) -> samples, by name.

All randomness comes from the generator, so equal seeds draw equal samples.

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
    """A way to draw embeddings like those of the training states."""

    info: SamplerInfo
    draw: Callable[[Tensor, int, float, torch.Generator], Tensor]

    def __call__(self, z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
        """Draw samples.

        Args:
            z: embeddings of the training states (N, D).
            n: number of samples.
            bandwidth: standard deviation of the kernels; samplers without kernels ignore it.
            generator: source of all randomness.

        Returns:
            Embeddings (n, D).

        Raises:
            ModelZooError: there are too few embeddings, or the sampler's optional dependency is not installed.
        """
        if len(z) < self.info.min_states:
            raise ModelZooError(
                f"sampler {self.info.name} needs at least {self.info.min_states} training states, got {len(z)}; draw "
                "from a larger share of the states (top_fraction), or train on more models"
            )
        return self.draw(z, n, bandwidth, generator)


def select_best_states(accuracy: Tensor, top_fraction: float) -> Tensor:
    """Return the indices of the best states: S_KDE30 of 2209.14733 draws from a top fraction of 0.3.

    Args:
        accuracy: validation accuracy of all states (N,); NaN, unknown, counts only where all states are drawn from.
        top_fraction: share of the states; those at or above the (1 - top_fraction) quantile are returned.

    Raises:
        ModelZooError: no state has an accuracy.
    """
    if top_fraction == 1:
        return torch.arange(len(accuracy))
    if accuracy.isnan().all():
        raise ModelZooError(
            f"cannot select the best {top_fraction:.0%} of the training states: none of the {len(accuracy)} has a "
            "validation accuracy; draw from all of them with top_fraction 1"
        )
    return (accuracy >= torch.nanquantile(accuracy, 1 - top_fraction)).nonzero().squeeze(1)


def uniform(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) from U(-1, 1) in every dimension, whatever the embeddings are (2209.14733, S_U)."""
    return 2 * torch.rand(n, z.shape[1], generator=generator) - 1


def kde(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) from a Gaussian kernel density per dimension of z (N, D), each dimension independently.

    The method as stated in 2209.14733, section 3.3: conditional independence of the dimensions given the data.
    """
    donors = torch.randint(len(z), (n, z.shape[1]), generator=generator)
    return z.gather(0, donors) + bandwidth * torch.randn(n, z.shape[1], generator=generator)


def kde_principal(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) by `kde` along the principal axes of z (N, D), where the coordinates are uncorrelated.

    Independent draws ignore all correlation between dimensions; along these axes there is none to ignore.
    """
    mean, axes = compute_principal_axes(z)
    return kde((z - mean) @ axes, n, bandwidth, generator) @ axes.mT + mean


@one_thread()  # with more, the decomposition can be a hundred times slower on busy cores
def compute_principal_axes(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and orthogonal axes (D, D), widest first, of embeddings (N, D)."""
    mean = z.mean(dim=0)
    axes = torch.linalg.eigh((z - mean).double().mT.cov()).eigenvectors.flip(1)
    return mean, axes.to(z.dtype)


def kde_shared(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) as the published code does: a row of z (N, D) plus one random scalar for all dimensions.

    The code seeds every dimension alike, so all of them draw the same donor and the same noise. It has its own name
    because published numbers depend on it; its samples are decoded training embeddings.
    """
    donors = torch.randint(len(z), (n,), generator=generator)
    return z[donors] + bandwidth * torch.randn(n, 1, generator=generator)


def normal(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) from the normal distribution with mean and covariance of z (N, D).

    Mean + C (z - mean), C ~ N(0, 1/N): the mixed functional loss trains decoders on such draws.
    """
    mean = z.mean(dim=0)
    shares = torch.randn(n, len(z), generator=generator) / len(z) ** 0.5
    samples: Tensor = mean + shares @ (z - mean)
    return samples


def interpolation(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) uniformly from the lines between two different rows of z (N, D)."""
    first = torch.randint(len(z), (n,), generator=generator)
    second = (first + torch.randint(1, len(z), (n,), generator=generator)) % len(z)
    share = torch.rand(n, 1, generator=generator)
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
