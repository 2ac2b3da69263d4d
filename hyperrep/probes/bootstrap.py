"""Scores of predictions, with intervals over models: states of one model are not independent observations.

N states, M models, R resamplings, C columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_RESAMPLINGS = 1000
_LEVELS = (0.025, 0.975)
_BATCH_SIZE = 512  # states compared with all others together


@dataclass(frozen=True)
class Score:
    """A figure and its 95 % interval (percentiles of the bootstrap), NaN if it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class NumberScores:
    """Scores of predicted numbers."""

    r2: Score
    tau: Score
    tau_ceiling: float  # largest tau-b of predictions without ties


def resample_models(num_models: int, generator: torch.Generator) -> Tensor:
    """Count how often each model is in every bootstrap sample: (R + 1, M); the first row is all models once."""
    samples = torch.randint(num_models, (_RESAMPLINGS, num_models), generator=generator)
    counts = torch.zeros(_RESAMPLINGS, num_models, dtype=torch.float64)
    counts.scatter_add_(1, samples, torch.ones_like(samples, dtype=torch.float64))
    return torch.cat([torch.ones(1, num_models, dtype=torch.float64), counts])


def score_numbers(predicted: Tensor, target: Tensor, models: Sequence[str], generator: torch.Generator) -> NumberScores:
    """Compute R², Kendall's tau-b, and the largest tau-b that predictions without ties can reach.

    Args:
        predicted: predictions (N,).
        target: true values (N,).
        models: the model of each state, N names.
        generator: source of the bootstrap samples.
    """
    index = _number_models(models)
    counts = resample_models(int(index.max()) + 1, generator)
    x, y = predicted.double(), target.double()
    agreeing, x_differs, y_differs = _sum_pairs_of_models(x, y, index)

    def sum_over_pairs(matrix: Tensor) -> Tensor:
        return ((counts @ matrix) * counts).sum(dim=1)

    tau = sum_over_pairs(agreeing) / (sum_over_pairs(x_differs) * sum_over_pairs(y_differs)).sqrt()
    ceiling = (y_differs.sum() / (len(y) * (len(y) - 1))).sqrt() if len(y) > 1 else y.new_tensor(float("nan"))
    return NumberScores(_make_score(_compute_r2(x, y, index, counts)), _make_score(tau), float(ceiling))


def score_hits(hits: Tensor, models: Sequence[str], generator: torch.Generator) -> Score:
    """Compute the share of hits among states.

    Args:
        hits: whether each prediction is right, (N,) bool.
        models: the model of each state, N names.
        generator: source of the bootstrap samples.
    """
    index = _number_models(models)
    counts = resample_models(int(index.max()) + 1, generator)
    columns = torch.stack([hits.double(), torch.ones(len(hits), dtype=torch.float64)])
    hit, states = (counts @ _sum_by_model(columns, index).mT).unbind(1)
    return _make_score(hit / states)


def _compute_r2(x: Tensor, y: Tensor, index: Tensor, counts: Tensor) -> Tensor:
    """Return R² of each resampling (R + 1,), from sums per model."""
    centered = y - y.mean()
    columns = torch.stack([torch.ones_like(y), centered, centered.square(), (x - y).square()])
    n, total, squares, errors = (counts @ _sum_by_model(columns, index).mT).unbind(1)
    return 1 - errors / (squares - total.square() / n)


def _sum_pairs_of_models(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over ordered pairs of states, per pair of models: three matrices (M, M), float64.

    The sums A, X, Y are of sign(x_i - x_j) sign(y_i - y_j), of x_i != x_j and of y_i != y_j. If the models come c
    times, tau-b is c'Ac / sqrt(c'Xc c'Yc): two copies of one state are a tie, and count as one.
    """
    member = torch.nn.functional.one_hot(index).float()  # (N, M)
    sums = [torch.zeros(member.shape[1], member.shape[1], dtype=torch.float64) for _ in range(3)]
    for rows in torch.arange(len(x)).split(_BATCH_SIZE):
        signs_x, signs_y = ((v[rows].unsqueeze(1) - v).sign().float() for v in (x, y))
        for total, values in zip(sums, (signs_x * signs_y, signs_x.abs(), signs_y.abs()), strict=True):
            total += (member[rows].mT @ (values @ member)).double()  # whole numbers, exact in float32 to 2^24
    return sums[0], sums[1], sums[2]


def _number_models(models: Sequence[str]) -> Tensor:
    """Return the number of each state's model, (N,)."""
    order = {model: number for number, model in enumerate(dict.fromkeys(models))}
    return torch.tensor([order[model] for model in models])


def _sum_by_model(columns: Tensor, index: Tensor) -> Tensor:
    """Sum columns (C, N) over the states of each model: (C, M)."""
    sums = columns.new_zeros(len(columns), int(index.max()) + 1)
    return sums.index_add_(1, index, columns)


def _make_score(values: Tensor) -> Score:
    """Return the first of (R + 1,) values with the percentiles of the others, without those that are not defined."""
    others = values[1:][values[1:].isfinite()]
    if not len(others):
        return Score(float(values[0]), float("nan"), float("nan"))
    low, high = torch.quantile(others, torch.tensor(_LEVELS, dtype=torch.float64)).tolist()
    return Score(float(values[0]), low, high)
