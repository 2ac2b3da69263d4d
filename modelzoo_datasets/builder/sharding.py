"""How the rows of a split are cut into files and row groups: never within a model.

A split of less than 64 MB of weights is one file. A larger one has at least four, as far as it has models, so that
workers can share them; none has more than 128 MB, unless one model alone has. They are as even as models allow.
"""

import itertools
from bisect import bisect_left, bisect_right

import numpy as np
import pandas as pd

_WORTH_SHARDS = 64_000_000  # bytes of weights
_LEAST_SHARDS = 4
_SHARD_BYTES = 128_000_000  # of one file, at most: quick to fetch, few enough for any zoo
_GROUP_BYTES = 10_000_000  # of a row group, about: far below the viewer's limit of 300 MB


def shards_of(rows: pd.DataFrame, state_bytes: int) -> list[pd.DataFrame]:
    """The rows of each file of a split, given sorted by model."""
    ends = _ends_of_models(rows)
    shards = _LEAST_SHARDS if len(rows) * state_bytes >= _WORTH_SHARDS else 1
    cuts = _even(ends, shards, _SHARD_BYTES // state_bytes)
    return [rows.iloc[a:b] for a, b in itertools.pairwise(cuts)]


def groups_of(rows: pd.DataFrame, state_bytes: int) -> list[pd.DataFrame]:
    """The rows of each row group of a file."""
    target = max(1, _GROUP_BYTES // state_bytes)
    cuts = [0]
    for end in _ends_of_models(rows):
        if end - cuts[-1] >= target:
            cuts.append(end)
    if cuts[-1] < len(rows):
        cuts.append(len(rows))
    return [rows.iloc[a:b] for a, b in itertools.pairwise(cuts)]


def models_of(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each model, given sorted by model."""
    return [rows.iloc[a:b] for a, b in itertools.pairwise([0, *_ends_of_models(rows)])]


def _ends_of_models(rows: pd.DataFrame) -> list[int]:
    """For each model the place behind its last row."""
    ids = rows["model_id"].to_numpy()
    return [*(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), len(rows)]


def _even(ends: list[int], shards: int, most: int) -> list[int]:
    """Ends of models that cut all rows into parts as even as may be.

    Each is of one model at least, and of `most` rows at most if it has several; so many parts as far as there are
    models for them, or as few more as it takes.
    """
    starts = _earliest_starts(ends, most)
    shards = max(min(shards, len(ends)), len(starts) - 1)
    cuts, models = [0], 0  # behind the last cut
    for left in range(shards - 1, 0, -1):  # parts behind the next cut
        first = bisect_left(ends, starts[left], models) if left < len(starts) else models
        last = min(max(models, bisect_right(ends, cuts[-1] + most) - 1), len(ends) - left - 1)
        wanted = cuts[-1] + (ends[-1] - cuts[-1]) / (left + 1)
        place = bisect_left(ends, wanted, first, last + 1)
        chosen = min(max(place - 1, first), min(place, last), key=lambda model: abs(ends[model] - wanted))
        cuts.append(ends[chosen])
        models = chosen + 1
    return [*cuts, ends[-1]]


def _earliest_starts(ends: list[int], most: int) -> list[int]:
    """For 0, 1, 2, ... parts the first row from which on they can hold all that follows; the last is 0."""
    bounds, starts = [0, *ends], [ends[-1]]
    while starts[-1]:
        whole = bisect_left(bounds, starts[-1])
        starts.append(bounds[min(bisect_left(bounds, starts[-1] - most), whole - 1)])
    return starts
