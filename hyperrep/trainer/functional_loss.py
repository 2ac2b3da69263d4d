"""What decoded networks do: they are asked about images, beside the networks that they were decoded from.

B models per batch, P weights, Q images, C classes, D latent dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modelzoo_datasets.engines import BatchedNetwork

_SMALLEST_SHARE = 1e-6  # of a class, before its logarithm is taken


@dataclass(frozen=True)
class Queries:
    """Images that networks are asked about, and the networks as functions of their weights."""

    functions: BatchedNetwork
    inputs: Tensor  # (N, channels, height, width), normalised, on the CPU: functions take them to where they compute

    def drawn(self, count: int, draws: torch.Generator) -> Tensor:
        """`count` images, any of them as likely as any other."""
        return self.inputs[torch.randint(len(self.inputs), (count,), generator=draws)]

    def answers(self, weights: Tensor, asked: Tensor) -> Tensor:
        """What models (B, P) say of images: shares of the classes (B, Q, C)."""
        return self.functions.compute_logits(weights, asked).softmax(dim=-1)

    def divergence(self, weights: Tensor, asked: Tensor, wanted: Tensor) -> Tensor:
        """Mean Kullback-Leibler divergence of what models (B, P) say from what is wanted (B, Q, C): a scalar, >= 0."""
        entropy = -(wanted * wanted.clamp_min(_SMALLEST_SHARE).log()).sum(dim=-1).mean(dim=1)
        return (self.functions.cross_entropy(weights, asked, wanted) - entropy).mean()


def gaussian_mixtures(z: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws from the normal distribution that embeddings (B, D) suggest: mean + C (z - mean), C ~ N(0, 1/B).

    Returns:
        The draws (B, D), whose covariance given z is that of z; and C (B, B).
    """
    shares = torch.randn(len(z), len(z), generator=draws).to(z.device) / len(z) ** 0.5
    centre = z.detach().mean(dim=0)
    return centre + shares @ (z - centre), shares


def ensemble(answers: Tensor, shares: Tensor) -> Tensor:
    """What all models (B, Q, C) say together, whatever the shares: the mean of their distributions."""
    return answers.mean(dim=0, keepdim=True).expand(len(shares), *answers.shape[1:])


def mixed_logits(answers: Tensor, shares: Tensor) -> Tensor:
    """As far from what models say on average as each mixture is from the average model: linear in log shares."""
    logs = answers.clamp_min(_SMALLEST_SHARE).log()
    centre = logs.mean(dim=0)
    return (centre + torch.einsum("ij,jqc->iqc", shares, logs - centre)).softmax(dim=-1)


MIXTURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ensemble": ensemble, "logits": mixed_logits}
