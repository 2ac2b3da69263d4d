"""Two groups of models compared: the difference of their means, its 95 % interval, and a test.

n and m models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..errors import FormatError

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """Mean of one group minus mean of the other; `p`, `low` and `high` are NaN where a group is too small to tell."""

    difference: float
    low: float
    high: float
    p: float  # two-sided
    test: str  # "Welch", or "paired"
    n: int
    m: int

    @property
    def word(self) -> str:
        """'above', 'below' or 'level with': what the interval says."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "level with"


def compare_means(one: Sequence[float], other: Sequence[float], *, paired: bool = False) -> Comparison:
    """Welch's t-test of two groups, or the paired t-test of values that belong together one by one.

    Raises:
        FormatError: a group is empty, a value is not finite, or paired groups differ in size.
    """
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if not len(a) or not len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise FormatError(f"groups that are compared need finite values, got {len(a)} and {len(b)}, or others")
    if paired and len(a) != len(b):
        raise FormatError(f"paired groups need as many values each, got {len(a)} and {len(b)}")
    low, high, p = _paired(a - b) if paired else _welch(a, b)
    return Comparison(
        difference=float(a.mean() - b.mean()),
        low=low,
        high=high,
        p=p,
        test="paired" if paired else "Welch",
        n=len(a),
        m=len(b),
    )


def _paired(differences: np.ndarray) -> tuple[float, float, float]:
    n = len(differences)
    if n < 2:
        return math.nan, math.nan, math.nan
    return _interval(float(differences.mean()), float(differences.std(ddof=1)) / n**0.5, n - 1)


def _welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        return math.nan, math.nan, math.nan
    first, second = a.var(ddof=1) / n, b.var(ddof=1) / m
    total = float(first + second)
    # Welch and Satterthwaite's degrees of freedom; any serve where nothing varies.
    degrees = total**2 / float(first**2 / (n - 1) + second**2 / (m - 1)) if total > 0 else 1.0
    return _interval(float(a.mean() - b.mean()), total**0.5, degrees)


def _interval(difference: float, error: float, degrees: float) -> tuple[float, float, float]:
    """Ends of the interval, and p; without any spread they are the difference itself and certainty."""
    if error == 0:
        return difference, difference, float(difference == 0)
    half = error * float(stats.t.ppf(0.5 + _CONFIDENCE / 2, degrees))
    return difference - half, difference + half, 2 * float(stats.t.sf(abs(difference) / error, degrees))
