"""Linear probes: how much of a model's properties can be read off a representation of its weights.

N states, F features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from modelzoo_datasets.layout import Layout

# The published regularisation path (2110.15288 and 2209.14764, code of the ridge probe).
PENALTIES = (
    1e3,
    3e2,
    1e2,
    3e1,
    1e1,
    3,
    1,
    3e-1,
    1e-1,
    3e-2,
    1e-2,
    3e-3,
    1e-3,
    3e-4,
    1e-4,
    3e-5,
    1e-5,
)
_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


def layer_statistics(weights: Tensor, layout: Layout) -> Tensor:
    """s(W): mean, variance, five quantiles of each layer's weights and of its biases: (N, P) -> (N, 14 per layer)."""
    levels = torch.tensor(_QUANTILES, dtype=torch.float64, device=weights.device)
    columns = []
    for slot in layout.slots:
        values = weights[:, slot.start : slot.stop].double()
        columns += [values.mean(1, keepdim=True), values.var(1, correction=0, keepdim=True)]
        columns.append(torch.quantile(values, levels, dim=1).mT)
    return torch.cat(columns, dim=1)


def ridge_r2(
    features: Mapping[str, Tensor],  # split -> (N, F)
    targets: Mapping[str, Tensor],  # split -> (N,)
) -> float:
    """R² on the test split of ridge regression with the penalty that is best on the validation split.

    R² = 1 - mean squared error / variance of the target, both on the test split (2209.14764, property prediction). The
    bias is a column of ones and is penalised like the others, as published.
    """
    x = {split: _with_ones(f.double()) for split, f in features.items()}
    y = {split: t.double() for split, t in targets.items()}
    # One decomposition serves the whole path.
    left, values, right = torch.linalg.svd(x["train"], full_matrices=False)
    projected = left.mT @ y["train"]
    best = max(
        (right.mT @ (values / (values.square() + penalty) * projected) for penalty in PENALTIES),
        key=lambda w: r2(x["validation"] @ w, y["validation"]),
    )
    return r2(x["test"] @ best, y["test"])


def r2(predicted: Tensor, target: Tensor) -> float:
    """Coefficient of determination of predictions (N,); 0 for predicting the mean, negative for worse."""
    error = (predicted - target).square().mean()
    return float(1 - error / (target - target.mean()).square().mean())


def _with_ones(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)
