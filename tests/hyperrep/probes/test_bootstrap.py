"""Scores and their intervals against scipy and numpy, model by model."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from hyperrep.probes.bootstrap import (
    Resampling,
    Score,
    resample_hits,
    resample_r2,
    resample_r2_within,
    score_order,
)
from modelzoo_datasets.seeds import keyed_generator

MODELS = [f"m{i}" for i in (0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4)]


RESAMPLING = Resampling.from_models(MODELS, keyed_generator(0, "bootstrap"))
EPOCHS = torch.tensor([1, 2, 7, 1, 2, 1, 2, 7, 9, 1, 2, 1])


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


def slow_within(x: np.ndarray, y: np.ndarray, epochs: np.ndarray, last: list[int]) -> float:
    """The mean over epochs of R² in each, NaN where the states of one are all alike."""
    scores = []
    for epoch in last:
        own = [i for i, e in enumerate(epochs) if e == epoch]
        mean = sum(y[i] for i in own) / len(own) if own else 0
        spread = sum((y[i] - mean) ** 2 for i in own)
        scores.append(1 - sum((x[i] - y[i]) ** 2 for i in own) / spread if spread > 1e-9 else math.nan)
    return sum(scores) / len(scores)


def percentiles(values: list[float]) -> tuple[float, ...]:
    return tuple(np.percentile([value for value in values if not math.isnan(value)], [2.5, 97.5]))


def test_scores_are_scipys_and_numpys() -> None:
    predicted, target = (v.numpy() for v in values())
    assert float(resample_r2(*values(), RESAMPLING)[0]) == pytest.approx(r2_of(predicted, target))
    assert score_order(*values(), RESAMPLING).tau.value == pytest.approx(
        scipy.stats.kendalltau(predicted, target).statistic
    )


def test_intervals_are_percentiles_over_models_that_are_drawn_with_all_their_states() -> None:
    predicted, target = (v.numpy() for v in values())
    samples = [resampled(counts) for counts in RESAMPLING.counts[1:]]
    for score, statistic in (
        (score_order(*values(), RESAMPLING).tau, lambda s: scipy.stats.kendalltau(predicted[s], target[s]).statistic),
        (Score.from_values(resample_r2(*values(), RESAMPLING)), lambda s: r2_of(predicted[s], target[s])),
    ):
        slow = [statistic(sample) for sample in samples if len({*target[sample].tolist()}) > 1]
        assert (score.low, score.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))
        assert score.low < score.value < score.high


def test_r2_within_an_epoch_is_the_mean_of_r2_in_each_of_the_last_five_in_which_the_target_varies() -> None:
    x, y = (v.numpy() for v in values())
    y[2], y[7] = 3.0, 3.0  # so epoch 7 does not vary, and epoch 9 has one state
    found = Score.from_values(resample_r2_within(torch.tensor(x), torch.tensor(y), EPOCHS, RESAMPLING))
    samples = [resampled(counts) for counts in RESAMPLING.counts]
    slow = [slow_within(x[s], y[s], EPOCHS.numpy()[s], [1, 2]) for s in samples]
    assert found.value == pytest.approx(slow[0])
    assert (found.low, found.high) == pytest.approx(percentiles(slow[1:]))


def test_epochs_before_the_last_five_do_not_count() -> None:
    draws = keyed_generator(0, "epochs")
    epochs, target = torch.arange(7).repeat(6), torch.randn(42, generator=draws).double()
    predicted = target + torch.randn(42, generator=draws)
    sample = Resampling.from_models([f"m{i // 7}" for i in range(42)], keyed_generator(0, "bootstrap"))
    found = float(resample_r2_within(predicted, target, epochs, sample)[0])
    predicted[epochs < 2] += 100
    assert float(resample_r2_within(predicted, target, epochs, sample)[0]) == found
    assert found == pytest.approx(slow_within(predicted.numpy(), target.numpy(), epochs.numpy(), [2, 3, 4, 5, 6]))


def test_knowing_the_epoch_alone_has_a_high_pooled_r2_and_none_within_an_epoch() -> None:
    draws = keyed_generator(1, "epochs")
    epochs = torch.arange(5).repeat(20)
    target = epochs + 0.1 * torch.randn(100, generator=draws).double()
    means = torch.tensor([float(target[epochs == e].mean()) for e in epochs.tolist()])
    sample = Resampling.from_models([f"m{i // 5}" for i in range(100)], keyed_generator(0, "bootstrap"))
    assert float(resample_r2(means, target, sample)[0]) > 0.98
    assert float(resample_r2_within(means, target, epochs, sample)[0]) == pytest.approx(0, abs=1e-9)


def test_samples_of_one_model_alone_do_not_widen_the_interval() -> None:
    """With 3 models, one sample in nine has no variance within an epoch but for rounding."""
    target = torch.tensor([0.1, 0.2, 0.3]) + torch.tensor(1 / 3)
    sample = Resampling.from_models(list("abc"), keyed_generator(0, "bootstrap"))
    found = resample_r2_within(torch.zeros(3), target, torch.ones(3), sample)
    alone = (sample.counts == 3).any(dim=1)
    assert alone.any() and found[alone].isnan().all() and found[~alone].isfinite().all()


def test_the_ceiling_is_the_best_of_all_orders_without_ties() -> None:
    sample = Resampling.from_models(list("abcdef"), keyed_generator(0, "bootstrap"))
    for target in ([0, 0, 1, 2, 2, 2], [3, 1, 2, 5, 4, 0], [0, 0, 0, 0, 1, 1]):
        tried = [scipy.stats.kendalltau(order, target).statistic for order in itertools.permutations(range(6))]
        found = score_order(torch.arange(6.0), torch.tensor(target), sample)
        assert found.ceiling == pytest.approx(max(tried))
        assert found.tied == 0


def test_tied_predictions_are_counted_among_the_pairs_that_differ() -> None:
    x, y = (v.tolist() for v in values())
    pairs = [(i, j) for i, j in itertools.combinations(range(len(x)), 2) if y[i] != y[j]]
    found = score_order(*values(), RESAMPLING).tied
    assert 0 < found < 1
    assert found == pytest.approx(sum(x[i] == x[j] for i, j in pairs) / len(pairs))


def test_stuck_models_are_left_out_of_a_second_tau() -> None:
    draws = keyed_generator(2, "scores")
    target, predicted = torch.randn(20, generator=draws), torch.randn(20, generator=draws)
    names = [f"m{i}" for i in range(20)]
    sample = Resampling.from_models(names, keyed_generator(0, "bootstrap"))
    assert math.isnan(score_order(predicted, target, sample).untied)
    target[:4], predicted[:4] = 0.1, -3.0
    found = score_order(predicted, target, sample)
    assert found.untied == pytest.approx(scipy.stats.kendalltau(predicted[4:], target[4:]).statistic)
    assert found.tau.value == pytest.approx(scipy.stats.kendalltau(predicted, target).statistic) != found.untied
    two = Resampling.from_models([*"aabb", *names[4:]], keyed_generator(0, "bootstrap"))
    assert math.isnan(score_order(predicted, target, two).untied), "two models are a coincidence"


def test_shares_are_of_states_and_their_intervals_of_models() -> None:
    hits = torch.tensor([1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0]).bool()
    found = Score.from_values(resample_hits(hits, RESAMPLING))
    slow = [float(hits[resampled(c)].double().mean()) for c in RESAMPLING.counts[1:]]
    assert found.value == pytest.approx(7 / 12)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))


def test_what_is_not_defined_is_not_a_number() -> None:
    sample = Resampling.from_models(list("abcd"), keyed_generator(0, "bootstrap"))
    constant = score_order(torch.ones(4), torch.arange(4.0), sample)
    assert math.isnan(constant.tau.value) and math.isnan(constant.tau.low) and constant.tied == 1
    assert float(resample_r2(torch.ones(4), torch.arange(4.0), sample)[0]) == pytest.approx(
        r2_of(np.ones(4), np.arange(4))
    )
    same = resample_r2_within(torch.ones(4), torch.ones(4), torch.arange(4), sample)
    assert same.isnan().all()


def test_a_block_of_rows_more_changes_nothing() -> None:
    draws = keyed_generator(1, "scores")
    x, y = torch.randn(2, 1300, generator=draws)
    found = score_order(x, y, Resampling.from_models([str(i % 7) for i in range(1300)], draws))
    assert found.tau.value == pytest.approx(scipy.stats.kendalltau(x.numpy(), y.numpy()).statistic)
