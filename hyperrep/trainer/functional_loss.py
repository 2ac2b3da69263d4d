"""Functional loss: decoded networks must predict what the original networks predict on training images.

B models per batch, P weights, Q images, C classes, D latent dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modelzoo_datasets.engines import BatchedNetwork

_MIN_PROBABILITY = 1e-6  # floor of a class, before its logarithm is taken


@dataclass(frozen=True)
class Predictor:
    """Networks as functions of their weights, and the images that losses run them on."""

    network: BatchedNetwork
    inputs: Tensor  # (N, channels, height, width), normalized, on the CPU; the network moves them to its device

    def sample_images(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n images uniformly, with replacement: (Q, channels, height, width)."""
        return self.inputs[torch.randint(len(self.inputs), (n,), generator=generator)]

    def predict(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return the predicted probabilities of the classes (B, Q, C) of models (B, P)."""
        return self.network.compute_logits(weights, images).softmax(dim=-1)

    def compute_divergence(self, weights: Tensor, images: Tensor, target: Tensor) -> Tensor:
        """Return the mean Kullback-Leibler divergence of the predictions of models (B, P) from a target.

        Args:
            weights: models (B, P), with gradients.
            images: (Q, channels, height, width).
            target: probabilities of the classes (B, Q, C).

        Returns:
            A scalar >= 0, in nats.
        """
        entropy = -(target * target.clamp_min(_MIN_PROBABILITY).log()).sum(dim=-1).mean(dim=1)
        return (self.network.cross_entropy(weights, images, target) - entropy).mean()


def draw_normal_mixtures(z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw from the normal distribution with mean and covariance of the embeddings: mean + C (z - mean).

    Args:
        z: embeddings (B, D).
        generator: source of C ~ N(0, 1/B).

    Returns:
        The draws (B, D), and the shares C (B, B).
    """
    shares = torch.randn(len(z), len(z), generator=generator).to(z.device) / len(z) ** 0.5
    mean = z.detach().mean(dim=0)
    return mean + shares @ (z - mean), shares


def mix_as_ensemble(predictions: Tensor, shares: Tensor) -> Tensor:
    """Return the mean prediction of all models (B, Q, C), whatever the shares (B, B): a target (B, Q, C)."""
    return predictions.mean(dim=0, keepdim=True).expand(len(shares), *predictions.shape[1:])


def mix_logits(predictions: Tensor, shares: Tensor) -> Tensor:
    """Mix log probabilities (B, Q, C) as the embeddings are mixed, by shares (B, B): a target (B, Q, C)."""
    logs = predictions.clamp_min(_MIN_PROBABILITY).log()
    mean = logs.mean(dim=0)
    return (mean + torch.einsum("ij,jqc->iqc", shares, logs - mean)).softmax(dim=-1)


MIXTURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ensemble": mix_as_ensemble, "logits": mix_logits}
