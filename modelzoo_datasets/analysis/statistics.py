"""Statistics of a population: of its weights per tensor, and of its accuracy per epoch.

N models, P weights
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import ArgumentError
from ..weights import Layout
from .similarity import require_finite

_PERCENTILES = (1, 25, 50, 75, 99)  # as in the layer statistics s(W)
_BLOCK_SIZE = 2**20  # numbers whose float64 moments are computed at once


def layer_statistics(weights: Tensor, layout: Layout) -> pd.DataFrame:
    """Return statistics of the weights of all models, one row per trained tensor in the order of the layout.

    In addition to its input, this holds a copy of one tensor of all models at a time.

    Args:
        weights: The weights (N, P).
        layout: Their layout.

    Returns:
        A table with these columns, all statistics in float64:

        * `layer`, `kind`: the module and the parameter of the tensor
        * `size`: elements per model
        * `mean`, `std`, `min`, `max`, `p1`, `p25`, `p50`, `p75`, `p99`: over all elements of all models; percentiles
          are interpolated linearly, and `std` divides by the number of elements
        * `mean_spread`, `std_spread`: standard deviation over models of each model's mean and std, with N - 1 in the
          denominator; NaN for a single model

    Raises:
        ArgumentError: There are no models, P is not the size of the layout, or weights are not finite.
    """
    if weights.ndim != 2 or not len(weights) or weights.shape[1] != layout.size:
        raise ArgumentError(f"expected weights of shape (models, {layout.size}), got {tuple(weights.shape)}")
    require_finite(weights, "weights")
    rows = []
    for slot in layout.slots:
        if slot.buffer:
            continue
        layer, _, kind = slot.name.rpartition(".")
        statistics = _describe(weights[:, slot.start : slot.stop])
        rows.append({"layer": layer, "kind": kind, "size": slot.size, **statistics})
    return pd.DataFrame(rows)


def _describe(values: Tensor) -> dict[str, float]:
    """Return the statistics of one tensor of all models, for values (N, size)."""
    blocks = values.split(max(1, _BLOCK_SIZE // values.shape[1]))
    parts = [torch.var_mean(block.double(), dim=1, correction=0) for block in blocks]
    variances, means = (torch.cat(own).cpu().numpy() for own in zip(*parts, strict=True))
    numbers = values.cpu().numpy().flatten()  # flatten of numpy always copies
    places = (numbers.size - 1) * np.array(_PERCENTILES) / 100
    ranks = np.unique([0, *np.floor(places), *np.ceil(places), numbers.size - 1]).astype(int)
    numbers.partition(ranks)  # in place; sorts only as far as the percentiles need
    percentiles = np.interp(places, ranks, numbers[ranks])
    many = len(values) > 1
    return {
        "mean": float(means.mean()),
        "std": float((variances.mean() + means.var()) ** 0.5),  # all models have the same number of elements
        "min": float(numbers[0]),
        "max": float(numbers[-1]),
        **{f"p{p}": float(v) for p, v in zip(_PERCENTILES, percentiles, strict=True)},
        "mean_spread": float(means.std(ddof=1)) if many else float("nan"),
        "std_spread": float(np.sqrt(variances).std(ddof=1)) if many else float("nan"),
    }


def accuracy_spread(states: pd.DataFrame) -> pd.DataFrame:
    """Return the spread of test accuracy and generalization gap over the models of a zoo, one row per epoch.

    Args:
        states: One row per state, with the columns `epoch`, `test_acc` and `ggap` (train_acc - test_acc). Missing
            values are skipped.

    Returns:
        A table with the columns `epoch` (ascending), `models` (with a test accuracy), `mean`, `std`, `min`, `p25`,
        `p50`, `p75` and `max` of the test accuracy, `ggap_mean` and `ggap_std`. Standard deviations divide by the
        number of models - 1, and are NaN if there are too few models.

    Raises:
        ArgumentError: A column is missing.
    """
    if missing := [name for name in ("epoch", "test_acc", "ggap") if name not in states.columns]:
        raise ArgumentError(f"a table of states has columns epoch, test_acc, ggap; {', '.join(missing)} missing")
    by_epoch = states.astype({"test_acc": "float64", "ggap": "float64"}).groupby("epoch", sort=True)
    accuracy, ggap = by_epoch["test_acc"], by_epoch["ggap"]
    columns = {
        "models": accuracy.count(),
        "mean": accuracy.mean(),
        "std": accuracy.std(),
        "min": accuracy.min(),
        "p25": accuracy.quantile(0.25),
        "p50": accuracy.quantile(0.5),
        "p75": accuracy.quantile(0.75),
        "max": accuracy.max(),
        "ggap_mean": ggap.mean(),
        "ggap_std": ggap.std(),
    }
    return pd.DataFrame(columns).reset_index()
