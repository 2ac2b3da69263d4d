"""Statistics of a population: its weights per tensor, and its accuracy per epoch, in ensembles and after fine-tuning.

Means of two populations are compared by a test and an interval.

N models, P weights, B images, C classes
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..engines import Engine, Job
from ..errors import ArgumentError
from ..images import Images
from ..progress import NO_PROGRESS, Progress
from ..recipes import Training
from ..seeds import choose_generator
from ..weights import Layout
from .similarity import require_finite

_PERCENTILES = (1, 25, 50, 75, 99)  # as in the layer statistics s(W)
_CONFIDENCE = 0.95
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


def ensemble_curve(
    logits: Tensor,
    labels: Tensor,
    max_size: int,
    num_orders: int,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the accuracy of ensembles of 1 to K = min(N, max_size) models.

    An ensemble of size k consists of the first k models of a random order.

    Args:
        logits: The logits (N, B, C).
        labels: The class indices (B,).
        max_size: The maximum size of an ensemble.
        num_orders: The number R of random orders.
        generator: The source of the random orders.
        seed: A seed instead of the generator; 0 by default.

    Returns:
        Accuracies (R, K), float64, and for each image the number of orders whose largest ensemble is right, (B,) int64.
        Their mean over images, divided by R, is the mean accuracy of the largest ensembles.

    Raises:
        ArgumentError: There are no models, or logits are not finite.
    """
    if not len(logits) or not logits.isfinite().all():
        raise ArgumentError(f"an ensemble needs models with finite logits, got {len(logits)} models")
    size_limit = min(len(logits), max_size)
    accuracy = torch.empty(num_orders, size_limit, dtype=torch.float64)
    right = torch.zeros(len(labels), dtype=torch.int64)
    generator = choose_generator(generator, seed, "ensembles")
    for row in range(num_orders):
        order = torch.randperm(len(logits), generator=generator)[:size_limit]
        total = torch.zeros_like(logits[0])
        for size, model in enumerate(order.tolist(), start=1):
            total += logits[model]
            hits = total.argmax(dim=1) == labels
            accuracy[row, size - 1] = hits.double().mean()
        right += hits
    return accuracy, right


def fine_tune(
    engine: Engine,
    architecture: str,
    images: Images,
    weights: Tensor,
    training: Training,
    seeds: Sequence[int],
    *,
    progress: Progress = NO_PROGRESS,
    what: str = "fine-tuning",
) -> tuple[Tensor, Tensor]:
    """Fine-tune every model of a population, each with a fresh optimizer.

    Args:
        engine: The engine that trains.
        architecture: The name of the architecture.
        images: The images.
        weights: The initial weights (N, P).
        training: The hyperparameters; E = `training.epochs`.
        seeds: One seed per model, which determines the order of its images and its dropout.
        progress: Receives one task for all models.
        what: The description of the task.

    Returns:
        Test accuracies (N, E + 1) after 0 (zero-shot) to E epochs, float64, and the final weights (N, P).
    """
    jobs = [
        Job(training=training, seed=seed, initial_weights=start) for seed, start in zip(seeds, weights, strict=True)
    ]
    accuracy = torch.full((len(jobs), training.epochs + 1), float("nan"), dtype=torch.float64)
    last = torch.empty_like(weights)
    with progress.start(what, len(jobs)) as task:
        for states in engine.train(architecture, images, jobs, metrics_on=("test",)):
            accuracy[states.jobs, states.epochs] = states.metrics["test_acc"]
            ended = states.epochs == training.epochs
            last[states.jobs[ended]] = states.weights[ended]
            task.update(int(ended.sum()))
    return accuracy, last


@dataclass(frozen=True)
class Comparison:
    """The mean of one group minus the mean of another; `p`, `low` and `high` are NaN if a group has a single value."""

    difference: float
    low: float
    high: float
    p: float  # two-sided
    test: str  # "Welch" or "paired"
    n: int
    m: int

    @property
    def word(self) -> str:
        """The direction of the difference by its interval: "above", "below" or "level with"."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "level with"


def compare_means(one: Sequence[float], other: Sequence[float], *, paired: bool = False) -> Comparison:
    """Compare the means of two groups with a t-test of scipy.

    Args:
        one: The values of one group.
        other: The values of the other group.
        paired: True for a paired t-test of values that correspond one by one; Welch's t-test by default.

    Returns:
        The difference, its 95 % confidence interval and the two-sided p-value.

    Raises:
        ArgumentError: A group is empty, a value is not finite, or paired groups differ in size.
    """
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if not len(a) or not len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ArgumentError(f"expected groups of finite values, got {len(a)} and {len(b)} values")
    if paired and len(a) != len(b):
        raise ArgumentError(f"expected paired groups of equal size, got {len(a)} and {len(b)} values")
    low, high, p = _test_difference(a, b, paired)
    test = "paired" if paired else "Welch"
    return Comparison(float(a.mean() - b.mean()), low, high, p, test, n=len(a), m=len(b))


def _test_difference(a: np.ndarray, b: np.ndarray, paired: bool) -> tuple[float, float, float]:
    """Return both ends of the interval, and p."""
    from scipy import stats  # here, so that only a comparison imports scipy

    if min(len(a), len(b)) < 2:
        return math.nan, math.nan, math.nan
    spread = (a - b).std() if paired else a.std() + b.std()
    if spread == 0:  # scipy divides by the spread: without any, the difference is certain
        difference = float(a.mean() - b.mean())
        return difference, difference, float(difference == 0)
    with warnings.catch_warnings():  # scipy warns of lost precision where values are nearly equal
        warnings.simplefilter("ignore", RuntimeWarning)
        result: Any = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
    interval = result.confidence_interval(_CONFIDENCE)
    return float(interval.low), float(interval.high), float(result.pvalue)
