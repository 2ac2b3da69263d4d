"""Scores and their intervals against scipy and numpy, model by model."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from hyperrep.probes.bootstrap import resample_models, score_hits, score_numbers
from modelzoo_datasets.seeds import keyed_generator

MODELS = [f"m{i}" for i in (0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4)]


def values() -> tuple[Tensor, Tensor]:
    """Predictions and targets, both with ties."""
    draws = keyed_generator(0, "scores")
    target = torch.randint(5, (len(MODELS),), generator=draws).double()
    predicted = (target + torch.randn(len(MODELS), generator=draws)).round(decimals=0)
    return predicted, target


def resampled(counts: Tensor) -> list[int]:
    """The states of a bootstrap sample: each model as often as it is in it, with all its states."""
    of = {model: np.flatnonzero(np.array(MODELS) == model).tolist() for model in dict.fromkeys(MODELS)}
    return [s for states, count in zip(of.values(), counts.int().tolist(), strict=True) for s in states * count]


def r2_of(x: np.ndarray, y: np.ndarray) -> float:
    return float(1 - ((x - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def test_scores_are_scipys_and_numpys() -> None:
    predicted, target = (v.numpy() for v in values())
    found = score_numbers(*values(), MODELS, keyed_generator(0, "bootstrap"))
    assert found.r2.value == pytest.approx(r2_of(predicted, target))
    assert found.tau.value == pytest.approx(scipy.stats.kendalltau(predicted, target).statistic)


def test_intervals_are_percentiles_over_models_that_are_drawn_with_all_their_states() -> None:
    predicted, target = (v.numpy() for v in values())
    found = score_numbers(*values(), MODELS, keyed_generator(0, "bootstrap"))
    samples = [resampled(counts) for counts in resample_models(5, keyed_generator(0, "bootstrap"))[1:]]
    for score, statistic in (
        (found.tau, lambda s: scipy.stats.kendalltau(predicted[s], target[s]).statistic),
        (found.r2, lambda s: r2_of(predicted[s], target[s])),
    ):
        slow = [statistic(sample) for sample in samples if len({*target[sample].tolist()}) > 1]
        assert (score.low, score.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))
        assert score.low < score.value < score.high


def test_the_ceiling_is_the_best_of_all_orders_without_ties() -> None:
    for target in ([0, 0, 1, 2, 2, 2], [3, 1, 2, 5, 4, 0], [0, 0, 0, 0, 1, 1]):
        tried = [scipy.stats.kendalltau(order, target).statistic for order in itertools.permutations(range(6))]
        found = score_numbers(torch.arange(6.0), torch.tensor(target), list("abcdef"), keyed_generator(0, "bootstrap"))
        assert found.tau_ceiling == pytest.approx(max(tried))


def test_shares_are_of_states_and_their_intervals_of_models() -> None:
    hits = torch.tensor([1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0]).bool()
    found = score_hits(hits, MODELS, keyed_generator(0, "bootstrap"))
    slow = [float(hits[resampled(c)].double().mean()) for c in resample_models(5, keyed_generator(0, "bootstrap"))[1:]]
    assert found.value == pytest.approx(7 / 12)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))


def test_what_is_not_defined_is_not_a_number() -> None:
    constant = score_numbers(torch.ones(4), torch.arange(4.0), list("abcd"), keyed_generator(0, "bootstrap"))
    assert math.isnan(constant.tau.value) and math.isnan(constant.tau.low)
    assert constant.r2.value == pytest.approx(r2_of(np.ones(4), np.arange(4)))


def test_a_block_of_rows_more_changes_nothing() -> None:
    draws = keyed_generator(1, "scores")
    x, y = torch.randn(2, 1300, generator=draws)
    found = score_numbers(x, y, [str(i % 7) for i in range(1300)], keyed_generator(0, "bootstrap"))
    assert found.tau.value == pytest.approx(scipy.stats.kendalltau(x.numpy(), y.numpy()).statistic)
