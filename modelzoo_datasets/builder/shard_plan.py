"""Cut the rows of a split into files and row groups, never within a model.

A split of less than 64 MB of weights is one file. A larger split has at least four files, or one per model if it has
fewer models, so that workers can share it. A file has at most 128 MB, unless one model alone has more. All files are
as even as whole models allow.
"""

import itertools
from bisect import bisect_left, bisect_right

import numpy as np
import pandas as pd

_MIN_BYTES_TO_SHARD = 64_000_000  # bytes of weights
_MIN_SHARDS = 4
_MAX_SHARD_BYTES = 128_000_000  # small enough to download quickly, large enough to have few files in any zoo
_ROW_GROUP_BYTES = 10_000_000  # approximate; far below the limit of 300 MB of the Hub's viewer


def split_into_shards(rows: pd.DataFrame, state_bytes: int) -> list[pd.DataFrame]:
    """Cut the rows of a split into files.

    Args:
        rows: One row per state, sorted by model.
        state_bytes: Bytes of the weights of one state.

    Returns:
        The rows of each file.
    """
    num_shards = _MIN_SHARDS if len(rows) * state_bytes >= _MIN_BYTES_TO_SHARD else 1
    cuts = _cut_evenly(_find_model_ends(rows), num_shards, _MAX_SHARD_BYTES // state_bytes)
    return [rows.iloc[a:b] for a, b in itertools.pairwise(cuts)]


def split_into_row_groups(rows: pd.DataFrame, state_bytes: int) -> list[pd.DataFrame]:
    """Cut the rows of a file into row groups.

    Args:
        rows: One row per state, sorted by model.
        state_bytes: Bytes of the weights of one state.

    Returns:
        The rows of each row group.
    """
    min_rows = max(1, _ROW_GROUP_BYTES // state_bytes)
    cuts = [0]
    for end in _find_model_ends(rows):
        if end - cuts[-1] >= min_rows:
            cuts.append(end)
    if cuts[-1] < len(rows):
        cuts.append(len(rows))
    return [rows.iloc[a:b] for a, b in itertools.pairwise(cuts)]


def split_by_model(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Cut rows, sorted by model, into those of each model."""
    return [rows.iloc[a:b] for a, b in itertools.pairwise([0, *_find_model_ends(rows)])]


def _find_model_ends(rows: pd.DataFrame) -> list[int]:
    """Return for each model the position after its last row."""
    ids = rows["model_id"].to_numpy()
    return [*(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), len(rows)]


def _cut_evenly(ends: list[int], num_parts: int, max_rows: int) -> list[int]:
    """Choose where to cut all rows, so that the parts are as even as whole models allow.

    Args:
        ends: The position after the last row of each model.
        num_parts: Desired number of parts. There are fewer if there are fewer models, and more if `max_rows` needs
            them, but no more than necessary.
        max_rows: Most rows of a part, unless it is one single model.

    Returns:
        The ends of the parts, preceded by 0.
    """
    starts = _find_earliest_starts(ends, max_rows)
    num_parts = max(min(num_parts, len(ends)), len(starts) - 1)
    cuts, model = [0], 0  # `model` is the first one after the last cut
    for remaining in range(num_parts - 1, 0, -1):  # parts after the next cut
        # The next cut must leave no more than `remaining` parts can hold ...
        first = bisect_left(ends, starts[remaining], model) if remaining < len(starts) else model
        # ... and at least one model for each of them, and the part before it must not exceed `max_rows`.
        last = min(max(model, bisect_right(ends, cuts[-1] + max_rows) - 1), len(ends) - remaining - 1)
        # Of the two allowed ends around the ideal position, take the nearer one.
        ideal = cuts[-1] + (ends[-1] - cuts[-1]) / (remaining + 1)
        above = bisect_left(ends, ideal, first, last + 1)
        nearest = min(max(above - 1, first), min(above, last), key=lambda end: abs(ends[end] - ideal))
        cuts.append(ends[nearest])
        model = nearest + 1
    return [*cuts, ends[-1]]


def _find_earliest_starts(ends: list[int], max_rows: int) -> list[int]:
    """Return for 0, 1, 2, ... parts the earliest row from which they can hold all following rows, down to row 0."""
    bounds, starts = [0, *ends], [ends[-1]]
    while starts[-1]:
        last_model = bisect_left(bounds, starts[-1]) - 1
        starts.append(bounds[min(bisect_left(bounds, starts[-1] - max_rows), last_model)])
    return starts
