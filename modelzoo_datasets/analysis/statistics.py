"""What a population is like: its weights tensor by tensor, its accuracy epoch by epoch.

N models, P weights.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import FormatError
from ..weights import Layout
from .similarity import require_finite

_PERCENTILES = (1, 25, 50, 75, 99)  # those of s(W)
_NUMBERS = 2**20  # whose moments are taken at once, in float64


def layer_statistics(weights: Tensor, layout: Layout) -> pd.DataFrame:
    """The weights (N, P) of all models together, one row per trained tensor, in the order of the layout.

    Beyond its input it holds a copy of one tensor of all models at a time.

    Returns:
        layer and kind (the tensor's name: module, and parameter within it), size (numbers per model); over all numbers
        of all models mean, std, min, max and percentiles p1, p25, p50, p75, p99 (linear between neighbours); and how
        much models differ, mean_spread and std_spread: the standard deviation over models of each model's own mean and
        std. A std of weights divides by their number, a spread over models by N - 1 (NaN for one model). All float64.

    Raises:
        FormatError: there are no models, P is not the layout's, or weights are not finite.
    """
    if weights.ndim != 2 or not len(weights) or weights.shape[1] != layout.size:
        raise FormatError(f"expected weights of shape (models, {layout.size}), got {tuple(weights.shape)}")
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
    """Statistics of one tensor of all models, values (N, size)."""
    blocks = values.split(max(1, _NUMBERS // values.shape[1]))
    parts = [torch.var_mean(block.double(), dim=1, correction=0) for block in blocks]
    variances, means = (torch.cat(own).cpu().numpy() for own in zip(*parts, strict=True))
    numbers = values.cpu().numpy().flatten()  # numpy's flatten copies, always
    places = (numbers.size - 1) * np.array(_PERCENTILES) / 100
    ranks = np.unique([0, *np.floor(places), *np.ceil(places), numbers.size - 1]).astype(int)
    numbers.partition(ranks)  # in place, and no more sorted than it takes
    found = np.interp(places, ranks, numbers[ranks])
    many = len(values) > 1
    return {
        "mean": float(means.mean()),
        "std": float((variances.mean() + means.var()) ** 0.5),  # all models have as many numbers
        "min": float(numbers[0]),
        "max": float(numbers[-1]),
        **{f"p{p}": float(v) for p, v in zip(_PERCENTILES, found, strict=True)},
        "mean_spread": float(means.std(ddof=1)) if many else float("nan"),
        "std_spread": float(np.sqrt(variances).std(ddof=1)) if many else float("nan"),
    }


def accuracy_spread(states: pd.DataFrame) -> pd.DataFrame:
    """How test accuracy and generalization gap spread over the models of a zoo, one row per epoch, epochs ascending.

    Args:
        states: one row per state, with columns epoch, test_acc, ggap (= train_acc - test_acc); missing values are
            skipped.

    Returns:
        epoch; models (that have a test accuracy); mean, std, min, p25, p50, p75, max of test_acc; ggap_mean, ggap_std.
        Standard deviations divide by the number of models - 1; NaN where there are too few.

    Raises:
        FormatError: a column is missing.
    """
    if missing := [name for name in ("epoch", "test_acc", "ggap") if name not in states.columns]:
        raise FormatError(f"a table of states has columns epoch, test_acc, ggap; {', '.join(missing)} missing")
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
