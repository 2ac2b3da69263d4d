"""How good predictions are, with intervals over models: states of one model are no independent observations.

N states, M models, R resamplings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_RESAMPLINGS = 1000
_LEVELS = (0.025, 0.975)
_ROWS = 512  # states compared with all others at once


@dataclass(frozen=True)
class Score:
    """A figure and its 95 % interval (percentiles of the bootstrap), NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class NumberScores:
    """Of predicted numbers."""

    r2: Score
    tau: Score
    tau_ceiling: float  # of any predictions that are all different


def resampled_models(models: int, draws: torch.Generator) -> Tensor:
    """How often each of M models is in a bootstrap sample, (R + 1, M); the first row is the models as they are."""
    drawn = torch.randint(models, (_RESAMPLINGS, models), generator=draws)
    counts = torch.zeros(_RESAMPLINGS, models, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return torch.cat([torch.ones(1, models, dtype=torch.float64), counts])


def number_scores(
    predicted: Tensor,  # (N,)
    target: Tensor,  # (N,)
    models: Sequence[str],
    draws: torch.Generator,
) -> NumberScores:
    """R², Kendall's tau-b, and the tau-b that predictions without ties can reach at most where targets have ties.

    Args:
        models: the model of each state.
    """
    of = _numbers(models)
    counts = resampled_models(int(of.max()) + 1, draws)
    x, y = predicted.double(), target.double()
    agreeing, x_differs, y_differs = _pairs_of_models(x, y, of)

    def over_pairs(matrix: Tensor) -> Tensor:
        return ((counts @ matrix) * counts).sum(dim=1)

    tau = over_pairs(agreeing) / (over_pairs(x_differs) * over_pairs(y_differs)).sqrt()
    ceiling = (y_differs.sum() / (len(y) * (len(y) - 1))).sqrt() if len(y) > 1 else y.new_tensor(float("nan"))
    return NumberScores(_score(_r2(x, y, of, counts)), _score(tau), float(ceiling))


def share_score(hits: Tensor, models: Sequence[str], draws: torch.Generator) -> Score:
    """Share of states (N,) bool that are hits."""
    of = _numbers(models)
    counts = resampled_models(int(of.max()) + 1, draws)
    columns = torch.stack([hits.double(), torch.ones(len(hits), dtype=torch.float64)])
    hit, states = (counts @ _sums(columns, of).mT).unbind(1)
    return _score(hit / states)


def _r2(x: Tensor, y: Tensor, of: Tensor, counts: Tensor) -> Tensor:
    """(R + 1,) from sums per model."""
    centred = y - y.mean()
    columns = torch.stack([torch.ones_like(y), centred, centred.square(), (x - y).square()])
    n, total, squares, errors = (counts @ _sums(columns, of).mT).unbind(1)
    return 1 - errors / (squares - total.square() / n)


def _pairs_of_models(x: Tensor, y: Tensor, of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over ordered pairs of states, per pair of models (M, M) float64.

    They are of sign(x_i - x_j) sign(y_i - y_j), of x_i != x_j and of y_i != y_j. With models that come c times, tau-b
    is c'Ac / sqrt(c'Xc c'Yc): copies of one state differ in nothing and count as the tie that they are.
    """
    member = torch.nn.functional.one_hot(of).float()  # (N, M)
    found = [torch.zeros(member.shape[1], member.shape[1], dtype=torch.float64) for _ in range(3)]
    for rows in torch.arange(len(x)).split(_ROWS):
        signs_x, signs_y = ((v[rows].unsqueeze(1) - v).sign().float() for v in (x, y))
        for sums, values in zip(found, (signs_x * signs_y, signs_x.abs(), signs_y.abs()), strict=True):
            sums += (member[rows].mT @ (values @ member)).double()  # whole numbers, exact in float32 to 2^24
    return found[0], found[1], found[2]


def _numbers(models: Sequence[str]) -> Tensor:
    """Each state's model as a number, (N,)."""
    order = {model: number for number, model in enumerate(dict.fromkeys(models))}
    return torch.tensor([order[model] for model in models])


def _sums(columns: Tensor, of: Tensor) -> Tensor:
    """Sums (C, M) of columns (C, N) over the states of each model."""
    sums = columns.new_zeros(len(columns), int(of.max()) + 1)
    return sums.index_add_(1, of, columns)


def _score(values: Tensor) -> Score:
    """The first of (R + 1,) and the spread of the others; resamplings in which it is not defined are left out."""
    others = values[1:][values[1:].isfinite()]
    if not len(others):
        return Score(float(values[0]), float("nan"), float("nan"))
    low, high = torch.quantile(others, torch.tensor(_LEVELS, dtype=torch.float64)).tolist()
    return Score(float(values[0]), low, high)
