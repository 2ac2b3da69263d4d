"""What a hyper-representation is trained on: layer-wise normalised reconstruction and contrast of two views.

B models per batch, P weights, D latent dimensions.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def reconstruction_loss(decoded: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Mean over the batch and all weights of ((decoded - target) / scale)^2, each (B, P), scale (P,).

    With scale = standard deviation of the weight's layer this is the layer-wise loss normalisation of 2209.14733
    (section 3, reduction over all weights); with ones it is the plain mean squared error.
    """
    return ((decoded - target) / scale).square().mean()


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent of the projections (B, H) of two views: each finds its partner among 2B - 1 (2002.05709, eq. 1)."""
    views = normalize(torch.cat([first, second]), dim=1)
    similarity = views @ views.mT / temperature
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)
