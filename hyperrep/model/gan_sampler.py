"""A small GAN of embeddings: S_GAN of 2209.14733, whose own network was never published.

N training embeddings, n samples, D latent dimensions, K axes that are modelled.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modelzoo_datasets.engines import one_thread

_AXES = 32  # at most: what the widest principal axes leave over is noise that no critic can judge from few states
_NOISE, _WIDTH, _BATCH, _STEPS, _LR = 32, 128, 64, 800, 5e-4
_DECAY = 0.99  # of the running mean of the generator's weights, which is what is drawn from
_PENALTY = 0.5  # on the critic's gradient at training embeddings (R1, 1801.04406), without which it only memorizes


@one_thread()
def gan(z: Tensor, n: int, bandwidth: float, draws: torch.Generator) -> Tensor:
    """Draw (n, D) from a generator that is trained, in seconds, to be taken for the embeddings (N, D).

    It works on at most 32 principal axes, each scaled to variance 1, so samples lie in the affine span of the
    embeddings' widest axes. All randomness, first weights included, is that of `draws`.
    """
    mean = z.mean(dim=0)
    _, values, axes = torch.linalg.svd((z - mean).double(), full_matrices=False)
    count = int((values[:_AXES] > 1e-6 * values[0].clamp_min(1e-12)).sum())
    scale = values[:count] / (len(z) - 1) ** 0.5
    axes = axes[:count]
    if count == 0:  # all embeddings are one
        return mean.repeat(n, 1)
    real = ((z - mean).double() @ axes.mT / scale).float()
    generator = _trained_generator(real, draws)
    with torch.no_grad():
        drawn: Tensor = generator(torch.randn(n, _NOISE, generator=draws))
    sample: Tensor = mean + (drawn.double() * scale) @ axes
    return sample.to(z.dtype)


def _trained_generator(real: Tensor, draws: torch.Generator) -> nn.Module:
    """Non-saturating GAN with R1 on the rows of `real` (N, K); returns the running mean of the generator's weights."""
    generator, critic = _network(_NOISE, real.shape[1], draws), _network(real.shape[1], 1, draws)
    averaged = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(_DECAY))
    optimizers = [torch.optim.Adam(net.parameters(), _LR, betas=(0.0, 0.99)) for net in (generator, critic)]

    def fake() -> Tensor:
        made: Tensor = generator(torch.randn(_BATCH, _NOISE, generator=draws))
        return made

    for _ in range(_STEPS):
        batch = real[torch.randint(len(real), (_BATCH,), generator=draws)].requires_grad_()
        judged = critic(batch)
        (slope,) = torch.autograd.grad(judged.sum(), batch, create_graph=True)
        loss = softplus(-judged).mean() + softplus(critic(fake().detach())).mean()
        _step(optimizers[1], loss + _PENALTY * slope.square().sum(dim=1).mean())
        _step(optimizers[0], softplus(-critic(fake())).mean())
        averaged.update_parameters(generator)
    return averaged


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _network(inputs: int, outputs: int, draws: torch.Generator) -> nn.Module:
    """Two hidden layers; weights N(0, 2 / inputs of the layer), biases 0."""
    with torch.random.fork_rng(devices=[]):  # building draws weights, which are replaced, from the global generator
        network = nn.Sequential(
            *(nn.Linear(inputs, _WIDTH), nn.LeakyReLU(0.2)),
            *(nn.Linear(_WIDTH, _WIDTH), nn.LeakyReLU(0.2)),
            nn.Linear(_WIDTH, outputs),
        )
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5, generator=draws)
            nn.init.zeros_(layer.bias)
    return network
