"""Ensembles: models whose logits are averaged.

n models, B images, C classes, K sizes, R orders.
"""

import torch
from torch import Tensor

from ..errors import FormatError


def ensemble_curve(
    logits: Tensor,  # (n, B, C)
    labels: Tensor,  # (B,)
    largest: int,
    orders: int,
    draws: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Accuracy of ensembles of 1 to K models, K = min(n, largest), by the mean of their logits.

    Each of R random orders of the models gives an ensemble of every size: its first ones.

    Returns:
        Accuracy (R, K) float64, and whether the largest ensemble of the first order is right on each image, (B,) bool.

    Raises:
        FormatError: there are no models, or logits that are not finite.
    """
    if not len(logits) or not logits.isfinite().all():
        raise FormatError(f"an ensemble needs models with finite logits, got {len(logits)} models")
    largest = min(len(logits), largest)
    accuracy = torch.empty(orders, largest, dtype=torch.float64)
    right = torch.empty(0, dtype=torch.bool)
    for row in range(orders):
        order = torch.randperm(len(logits), generator=draws)[:largest]
        total = torch.zeros_like(logits[0])
        for size, model in enumerate(order.tolist(), start=1):
            total += logits[model]
            hits = total.argmax(dim=1) == labels
            accuracy[row, size - 1] = hits.double().mean()
        right = hits if row == 0 else right
    return accuracy, right
