"""How the rows of a split are cut into files and row groups: never within a model.

A split of less than 64 MB of weights is one file. A larger one has at least four, as far as it has models, so that
workers can share them; none has more than 128 MB, unless one model alone has. They are as even as models allow.
"""

import itertools

import numpy as np
import pandas as pd

_WORTH_SHARDS = 64_000_000  # bytes of weights
_LEAST_SHARDS = 4
_SHARD_BYTES = 128_000_000  # of one file, at most: quick to fetch, few enough for any zoo
_GROUP_BYTES = 10_000_000  # of a row group, about: far below the viewer's limit of 300 MB


def shards_of(rows: pd.DataFrame, state_bytes: int) -> list[pd.DataFrame]:
    """The rows of each file of a split, given sorted by model."""
    ends = _ends_of_models(rows)
    total = len(rows) * state_bytes
    count = max(-(-total // _SHARD_BYTES), _LEAST_SHARDS if total >= _WORTH_SHARDS else 1)
    for shards in range(min(count, len(ends)), len(ends) + 1):
        cuts = _even(ends, shards)
        if max(b - a for a, b in itertools.pairwise(cuts)) * state_bytes <= _SHARD_BYTES:
            break
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


def _even(ends: list[int], shards: int) -> list[int]:
    """Ends of models that cut all rows into so many parts, each with a model at least, as evenly as may be."""
    cuts = [0]
    for number in range(1, shards):
        wanted = ends[-1] * number / shards
        first, last = np.searchsorted(ends, cuts[-1], "right"), len(ends) - (shards - number)
        cuts.append(min(ends[int(first) : last], key=lambda end: abs(end - wanted)))
    return [*cuts, ends[-1]]
