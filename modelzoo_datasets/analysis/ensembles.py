"""Ensembles that average the logits of their models.

N models, B images, C classes, K sizes, R orders
"""

import torch
from torch import Tensor

from ..errors import ArgumentError


def ensemble_curve(
    logits: Tensor, labels: Tensor, max_size: int, num_orders: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the accuracy of ensembles of 1 to K = min(N, max_size) models.

    An ensemble of size k consists of the first k models of a random order.

    Args:
        logits: The logits (N, B, C).
        labels: The class indices (B,).
        max_size: The maximum size of an ensemble.
        num_orders: The number R of random orders.
        generator: The source of the random orders.

    Returns:
        Accuracies (R, K), float64, and the correct images of the largest ensemble of the first order, (B,) bool.

    Raises:
        ArgumentError: There are no models, or logits are not finite.
    """
    if not len(logits) or not logits.isfinite().all():
        raise ArgumentError(f"an ensemble needs models with finite logits, got {len(logits)} models")
    size_limit = min(len(logits), max_size)
    accuracy = torch.empty(num_orders, size_limit, dtype=torch.float64)
    right = torch.empty(0, dtype=torch.bool)
    for row in range(num_orders):
        order = torch.randperm(len(logits), generator=generator)[:size_limit]
        total = torch.zeros_like(logits[0])
        for size, model in enumerate(order.tolist(), start=1):
            total += logits[model]
            hits = total.argmax(dim=1) == labels
            accuracy[row, size - 1] = hits.double().mean()
        right = hits if row == 0 else right
    return accuracy, right
