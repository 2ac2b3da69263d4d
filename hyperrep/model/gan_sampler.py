"""A small GAN of embeddings: S_GAN of 2209.14733, whose own network was never published.

N training embeddings, n samples, D latent dimensions, K axes that are modeled.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modelzoo_datasets.engines import one_thread

_MAX_AXES = 32  # beyond the widest principal axes there is noise that no critic can judge from few states
_NOISE, _WIDTH, _BATCH_SIZE, _STEPS, _LR = 32, 128, 64, 800, 5e-4
_DECAY = 0.99  # decay of the running mean of the generator network's weights, which draws the samples
_PENALTY = 0.5  # on the critic's gradient at training embeddings (R1, 1801.04406), without which it only memorizes


@one_thread()
def gan(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) from a generator network that is trained, in seconds, against a critic on z (N, D).

    It models at most 32 principal axes, each scaled to variance 1, so samples lie in the affine span of the
    embeddings' widest axes. All randomness, initial weights included, comes from `generator`.
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
