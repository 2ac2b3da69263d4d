"""Samplers of embeddings (2209.14733, section 3.3): functions (z, n, bandwidth, generator) -> samples, by name.

All randomness comes from the generator, so equal seeds draw equal samples.

N training embeddings, n samples, D latent dimensions.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modelzoo_datasets.engines import one_thread
from modelzoo_datasets.errors import ModelZooError, unknown
from modelzoo_datasets.extras import translate_import_errors

from ..sampler_names import SAMPLER_INFO

_log = logging.getLogger(__name__)
_NEIGHBOURS, _MIN_DISTANCE, _COMPONENTS = 15, 0.01, 3  # published settings of UMAP
# The GAN.
_MAX_AXES = 32  # beyond the widest principal axes there is noise that no critic can judge from few states
_NOISE, _WIDTH, _BATCH_SIZE, _STEPS, _LR = 32, 128, 64, 800, 5e-4
_DECAY = 0.99  # decay of the running mean of the generator network's weights, which draws the samples
_PENALTY = 0.5  # on the critic's gradient at training embeddings (R1, 1801.04406), without which it only memorizes


def select_best_states(accuracy: Tensor, top_fraction: float, min_states: int = 1) -> Tensor:
    """Return the indices of the best states: S_KDE30 of 2209.14733 draws from a top fraction of 0.3.

    A line says where the share is too small for the sampler, or where no accuracy is known, so that all are drawn from.

    Args:
        accuracy: validation accuracy of all states (N,); NaN, unknown, counts only where all states are drawn from.
        top_fraction: share of the states; those at or above the (1 - top_fraction) quantile are returned.
        min_states: fewest states that the sampler needs, as far as there are so many.
    """
    if top_fraction == 1 or accuracy.isnan().all():
        if top_fraction < 1:
            _log.warning("no accuracy of the %s training states is known: drawing from all of them", len(accuracy))
        return torch.arange(len(accuracy))
    best = (accuracy >= torch.nanquantile(accuracy, 1 - top_fraction)).nonzero().squeeze(1)
    if len(best) >= min_states:
        return best
    order = accuracy.nan_to_num(-1).argsort(descending=True, stable=True)
    _log.warning(
        "the best %.0f %% of the %s training states are too few for the sampler: drawing from the best %s",
        *(100 * top_fraction, len(accuracy), len(order[:min_states])),
    )
    return order[:min_states].sort().values


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


@one_thread()
def neighbour(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) uniformly from a cube around the 3-d UMAP of z (N, D), mapped back by its inverse (S_Neigh).

    The cube spans the smallest to the largest coordinate of the whole map, the same in all three dimensions, as
    published.

    Raises:
        ModelZooError: the extra `umap` is not installed.
    """
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    # UMAP needs more points than neighbours; with a seed it runs on one thread anyway.
    reducer = _import_umap().UMAP(
        n_neighbors=min(_NEIGHBOURS, len(z) - 1),
        min_dist=_MIN_DISTANCE,
        n_components=_COMPONENTS,
        metric="euclidean",
        random_state=seed,
        n_jobs=1,
    )
    projected = torch.from_numpy(reducer.fit_transform(z.numpy()))
    low, high = projected.min(), projected.max()
    points = low + (high - low) * torch.rand(n, _COMPONENTS, generator=generator)
    return torch.from_numpy(reducer.inverse_transform(points.numpy())).to(z.dtype)


def _import_umap() -> Any:
    """Import the library, which takes seconds, only when it is needed."""
    with translate_import_errors("draws of the sampler neighbour", "umap"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # about another optional library
        import umap
    return umap


@one_thread()
def gan(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) from a generator network that is trained, in seconds, against a critic on z (N, D).

    S_GAN of 2209.14733, whose own network was never published. This one models at most 32 principal axes, each scaled
    to variance 1, so samples lie in the affine span of the embeddings' widest axes. All randomness, initial weights
    included, comes from `generator`.
    """
    mean = z.mean(dim=0)
    _, values, axes = torch.linalg.svd((z - mean).double(), full_matrices=False)
    count = int((values[:_MAX_AXES] > 1e-6 * values[0].clamp_min(1e-12)).sum())
    scale = values[:count] / (len(z) - 1) ** 0.5
    axes = axes[:count]
    if count == 0:  # all embeddings are equal
        return mean.repeat(n, 1)
    real = ((z - mean).double() @ axes.mT / scale).float()
    network = _train_network(real, generator)
    with torch.no_grad():
        coordinates: Tensor = network(torch.randn(n, _NOISE, generator=generator))
    samples: Tensor = mean + (coordinates.double() * scale) @ axes
    return samples.to(z.dtype)


def _train_network(real: Tensor, generator: torch.Generator) -> nn.Module:
    """Train a non-saturating GAN with R1 on the rows of `real` (N, K); return the running mean of its generator."""
    network, critic = _make_network(_NOISE, real.shape[1], generator), _make_network(real.shape[1], 1, generator)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(_DECAY))
    optimizers = [torch.optim.Adam(net.parameters(), _LR, betas=(0.0, 0.99)) for net in (network, critic)]

    def make_fake() -> Tensor:
        fake: Tensor = network(torch.randn(_BATCH_SIZE, _NOISE, generator=generator))
        return fake

    for _ in range(_STEPS):
        batch = real[torch.randint(len(real), (_BATCH_SIZE,), generator=generator)].requires_grad_()
        scores = critic(batch)
        (slope,) = torch.autograd.grad(scores.sum(), batch, create_graph=True)
        loss = softplus(-scores).mean() + softplus(critic(make_fake().detach())).mean()
        _step(optimizers[1], loss + _PENALTY * slope.square().sum(dim=1).mean())
        _step(optimizers[0], softplus(-critic(make_fake())).mean())
        averaged.update_parameters(network)
    return averaged


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _make_network(inputs: int, outputs: int, generator: torch.Generator) -> nn.Module:
    """Return a network of two hidden layers; weights N(0, 2 / inputs of the layer), biases 0."""
    with torch.random.fork_rng(devices=[]):  # torch initializes from its global generator; replaced below
        network = nn.Sequential(
            *(nn.Linear(inputs, _WIDTH), nn.LeakyReLU(0.2)),
            *(nn.Linear(_WIDTH, _WIDTH), nn.LeakyReLU(0.2)),
            nn.Linear(_WIDTH, outputs),
        )
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5, generator=generator)
            nn.init.zeros_(layer.bias)
    return network


SAMPLERS: dict[str, Callable[[Tensor, int, float, torch.Generator], Tensor]] = {
    "uniform": uniform,
    "kde": kde,
    "kde-shared": kde_shared,
    "kde-principal": kde_principal,
    "normal": normal,
    "interpolation": interpolation,
    "neighbour": neighbour,
    "gan": gan,
}


def draw_embeddings(name: str, z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw embeddings like those of the training states.

    Args:
        name: name of the sampler.
        z: embeddings of the training states (N, D).
        n: number of samples.
        bandwidth: standard deviation of the kernels; samplers without kernels ignore it.
        generator: source of all randomness.

    Returns:
        Embeddings (n, D).

    Raises:
        ModelZooError: the sampler is unknown, lacks its optional dependency, or has too few embeddings.
    """
    if name not in SAMPLERS:
        raise ModelZooError(unknown("sampler", name, SAMPLERS))
    required = SAMPLER_INFO[name].min_states
    if len(z) < required:
        raise ModelZooError(
            f"sampler {name} needs at least {required} training states, got {len(z)}; draw from a larger share of the "
            "states (top_fraction), or train on more models"
        )
    return SAMPLERS[name](z, n, bandwidth, generator)
