"""s(W): statistics of the weights of every layer (2110.15288, section 3).

N states, P weights.
"""

import torch
from torch import Tensor

from modelzoo_datasets.weights import Layout

_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


def compute_layer_statistics(weights: Tensor, layout: Layout) -> Tensor:
    """Return s(W): mean, variance and five quantiles of each layer's weights and of its biases.

    Args:
        weights: models (N, P).
        layout: positions of the layers in a weight vector.

    Returns:
        Statistics (N, 14 per layer), float64.
    """
    levels = torch.tensor(_QUANTILES, dtype=torch.float64, device=weights.device)
    columns = []
    for slot in layout.slots:
        values = weights[:, slot.start : slot.stop].double()
        columns += [values.mean(1, keepdim=True), values.var(1, correction=0, keepdim=True)]
        columns.append(torch.quantile(values, levels, dim=1).mT)
    return torch.cat(columns, dim=1)
