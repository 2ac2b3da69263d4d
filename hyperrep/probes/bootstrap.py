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
_LAST_EPOCHS = 5  # that R² within an epoch is the mean of
_ROUNDING = 1e-12  # a smaller share of the squares is no variance
_MIN_STUCK = 3, 0.1  # models, and share of the states, that have the same value if models are stuck


@dataclass(frozen=True)
class Score:
    """A figure and its 95 % interval (percentiles of the bootstrap), NaN if it is not defined."""

    value: float
    low: float
    high: float

    @classmethod
    def from_values(cls, values: Tensor) -> "Score":
        """Return the first of (R + 1,) values with the percentiles of the others, without those not defined."""
        others = values[1:][values[1:].isfinite()]
        if not len(others):
            return cls(float(values[0]), float("nan"), float("nan"))
        low, high = torch.quantile(others, torch.tensor(_LEVELS, dtype=torch.float64)).tolist()
        return cls(float(values[0]), low, high)


@dataclass(frozen=True)
class Resampling:
    """Bootstrap samples of models: a sample has all states of a model as often as the model."""

    index: Tensor  # (N,) number of each state's model
    counts: Tensor  # (R + 1, M) how often each model is in each sample; the first row is all models once

    @classmethod
    def from_models(cls, models: Sequence[str], generator: torch.Generator) -> "Resampling":
        """Draw samples of the models of N states."""
        order = {model: number for number, model in enumerate(dict.fromkeys(models))}
        index = torch.tensor([order[model] for model in models])
        samples = torch.randint(len(order), (_RESAMPLINGS, len(order)), generator=generator)
        counts = torch.zeros(_RESAMPLINGS, len(order), dtype=torch.float64)
        counts.scatter_add_(1, samples, torch.ones_like(samples, dtype=torch.float64))
        return cls(index, torch.cat([torch.ones(1, len(order), dtype=torch.float64), counts]))

    def sum_states(self, columns: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Sum columns (C, n) of all or some states over every sample: (C, R + 1)."""
        sums = columns.new_zeros(len(columns), self.counts.shape[1])
        return sums.index_add_(1, self.index[rows], columns) @ self.counts.mT


@dataclass(frozen=True)
class TauScores:
    """Kendall's tau-b, and what ties do to it."""

    tau: Score
    ceiling: float  # largest tau-b of predictions without ties
    tied: float  # share of the pairs that differ in the target whose predictions are equal
    untied: float  # tau-b without stuck models; NaN if none are stuck


def resample_r2(predicted: Tensor, target: Tensor, resampling: Resampling) -> Tensor:
    """Compute R² of all states, (R + 1,).

    Args:
        predicted: predictions (N,).
        target: true values (N,).
        resampling: samples of the models.
    """
    return _compute_r2(predicted.double(), target.double(), resampling)


def resample_r2_within(predicted: Tensor, target: Tensor, epochs: Tensor, resampling: Resampling) -> Tensor:
    """Compute the mean over the last five epochs of the R² of the states of that epoch, (R + 1,).

    An epoch counts if the target varies in it; NaN if there is none. Each R² is around the mean of its epoch, so that
    a predictor that knows the epoch and nothing else has 0.

    Args:
        predicted: predictions (N,).
        target: true values (N,).
        epochs: epoch of each state, (N,).
        resampling: samples of the models.
    """
    x, y = predicted.double(), target.double()
    rows = [epochs == epoch for epoch in find_last_epochs(target, epochs)]
    if not rows:
        return torch.full((len(resampling.counts),), torch.nan, dtype=torch.float64)
    return torch.stack([_compute_r2(x[own], y[own], resampling, own) for own in rows]).mean(dim=0)


def find_last_epochs(target: Tensor, epochs: Tensor) -> list[int]:
    """Return those of the last five epochs in which the target varies."""
    last = epochs.unique().tolist()[-_LAST_EPOCHS:]
    return [epoch for epoch in last if len(target[epochs == epoch].unique()) > 1]


def score_order(predicted: Tensor, target: Tensor, resampling: Resampling) -> TauScores:
    """Compute Kendall's tau-b, the largest one of predictions without ties, and the share of tied predictions.

    Models are stuck if one value is that of a tenth of the states and of three models: networks that learned nothing
    have the accuracy of guessing.

    Args:
        predicted: predictions (N,).
        target: true values (N,).
        resampling: samples of the models.
    """
    x, y = predicted.double(), target.double()
    pairs = _sum_pairs_of_models(x, y, resampling.index)
    agreeing, x_differs, y_differs, y_alone = (
        ((resampling.counts @ matrix) * resampling.counts).sum(dim=1) for matrix in pairs
    )
    ceiling = (y_differs[0] / (len(y) * (len(y) - 1))).sqrt() if len(y) > 1 else y.new_tensor(torch.nan)
    tau = agreeing / (x_differs * y_differs).sqrt()
    return TauScores(
        Score.from_values(tau), float(ceiling), float(y_alone[0] / y_differs[0]), _compute_untied(x, y, resampling)
    )


def resample_hits(hits: Tensor, resampling: Resampling) -> Tensor:
    """Compute the share of hits (N,), bool, among states, (R + 1,)."""
    hit, states = resampling.sum_states(torch.stack([hits.double(), torch.ones(len(hits), dtype=torch.float64)]))
    shares: Tensor = hit / states
    return shares


def _compute_r2(x: Tensor, y: Tensor, resampling: Resampling, rows: Tensor | slice = slice(None)) -> Tensor:
    """Return R² of each resampling (R + 1,), from sums per model, of all or some states."""
    centered = y - y.mean()
    columns = torch.stack([torch.ones_like(y), centered, centered.square(), (x - y).square()])
    n, total, squares, errors = resampling.sum_states(columns, rows)
    variance = squares - total.square() / n
    r2: Tensor = 1 - errors / torch.where(variance > _ROUNDING * squares, variance, torch.nan)
    return r2


def _compute_untied(x: Tensor, y: Tensor, resampling: Resampling) -> float:
    """Return tau-b of the states that do not have the most frequent value, NaN if it is not that of stuck models."""
    values, counts = y.unique(return_counts=True)
    free = y != values[counts.argmax()]
    models, share = len(resampling.index[~free].unique()), float((~free).double().mean())
    if models < _MIN_STUCK[0] or share < _MIN_STUCK[1] or not free.any():
        return float("nan")
    agreeing, x_differs, y_differs, _ = (
        m.sum() for m in _sum_pairs_of_models(x[free], y[free], resampling.index[free])
    )
    return float(agreeing / (x_differs * y_differs).sqrt())


def _sum_pairs_of_models(x: Tensor, y: Tensor, index: Tensor) -> list[Tensor]:
    """Sum over ordered pairs of states, per pair of models: four matrices (M, M), float64.

    The sums A, X, Y, Z are of sign(x_i - x_j) sign(y_i - y_j), of x_i != x_j, of y_i != y_j, and of the latter where
    x_i = x_j. If the models come c times, tau-b is c'Ac / sqrt(c'Xc c'Yc): two copies of one state are a tie, and count
    as one.
    """
    member = torch.nn.functional.one_hot(index).float()  # (N, M)
    sums = [torch.zeros(member.shape[1], member.shape[1], dtype=torch.float64) for _ in range(4)]
    for rows in torch.arange(len(x)).split(_BATCH_SIZE):
        signs_x, signs_y = ((v[rows].unsqueeze(1) - v).sign().float() for v in (x, y))
        matrices = (signs_x * signs_y, signs_x.abs(), signs_y.abs(), signs_y.abs() * (signs_x == 0))
        for total, values in zip(sums, matrices, strict=True):
            total += (member[rows].mT @ (values @ member)).double()  # whole numbers, exact in float32 to 2^24
    return sums
