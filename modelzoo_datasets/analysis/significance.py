"""Comparison of two groups of models: the difference of their means, its 95 % interval, and a test.

n and m models
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError

_CONFIDENCE = 0.95


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
