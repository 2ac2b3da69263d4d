"""What compares populations: tests against scipy, error overlaps against sets, ensembles against loops."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from modelzoo_datasets.analysis import compare_means, ensemble_curve, find_error_overlap
from modelzoo_datasets.errors import ArgumentError
from modelzoo_datasets.seeds import keyed_generator


def groups() -> tuple[list[float], list[float]]:
    draws = keyed_generator(0, "groups")
    one, other = torch.randn(9, generator=draws), 0.4 + 2 * torch.randn(9, generator=draws)
    return one.tolist(), other.tolist()


@pytest.mark.parametrize("paired", [False, True])
def test_the_tests_are_scipys(paired: bool) -> None:
    one, other = groups()
    found = compare_means(one, other if paired else other[:5], paired=paired)
    slow = stats.ttest_rel(one, other) if paired else stats.ttest_ind(one, other[:5], equal_var=False)
    interval = slow.confidence_interval(0.95)
    assert found.p == pytest.approx(slow.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx(np.mean(one) - np.mean(other if paired else other[:5]))
    assert (found.test, found.n, found.m) == (("paired", 9, 9) if paired else ("Welch", 9, 5))


def test_the_word_follows_the_interval() -> None:
    one, other = groups()
    assert compare_means(one, one).word == "level with"
    assert compare_means([v + 10 for v in one], other).word == "above"
    assert compare_means([v - 10 for v in one], other).word == "below"


def test_groups_that_do_not_vary_or_are_too_small_need_no_statistics() -> None:
    equal = compare_means([0.5, 0.5], [0.5, 0.5])
    assert (equal.low, equal.high, equal.p, equal.word) == (0, 0, 1, "level with")
    shifted = compare_means([0.7, 0.6], [0.5, 0.4], paired=True)
    assert shifted.low == pytest.approx(0.2) and shifted.p == pytest.approx(0, abs=1e-12)
    alone = compare_means([0.7], [0.5, 0.4])
    assert alone.difference == pytest.approx(0.25)
    assert math.isnan(alone.low) and math.isnan(alone.p) and alone.word == "level with"


def test_groups_that_cannot_be_compared_are_refused() -> None:
    for one, other, paired, told in (
        ([], [1.0], False, "expected groups of finite values, got 0 and 1 values"),
        ([1.0, 2.0], [1.0], True, "expected paired groups of equal size, got 2 and 1 values"),
    ):
        with pytest.raises(ArgumentError) as caught:
            compare_means(one, other, paired=paired)
        assert str(caught.value) == told


def test_error_similarity_is_the_overlap_of_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = keyed_generator(0, "errors")
    wrong, others = torch.rand(5, 40, generator=draws) < 0.3, torch.rand(7, 40, generator=draws) < 0.3
    wrong[0], others[2] = False, False  # without errors
    sets = [[{*row.nonzero().flatten().tolist()} for row in part] for part in (wrong, others)]
    slow = [[len(a & b) / len(a | b) if a | b else 1.0 for b in sets[1]] for a in sets[0]]
    for numbers in (2**25, 80):  # all at once, and two at a time
        monkeypatch.setattr("modelzoo_datasets.analysis.similarity._MAX_ERRORS", numbers)
        values, index = find_error_overlap(wrong, others)
        assert values.tolist() == pytest.approx([max(row) for row in slow])
        assert index.tolist() == [row.index(max(row)) for row in slow]
    assert values[0] == 1 and index[0] == 2
    with pytest.raises(ArgumentError) as caught:
        find_error_overlap(wrong, others[:, :3])
    assert str(caught.value) == "expected errors on the same images, got (5, 40) and (7, 3)"


def test_a_copy_errs_exactly_where_its_original_does() -> None:
    wrong = torch.rand(6, 100, generator=keyed_generator(0, "copies")) < 0.2
    values, index = find_error_overlap(wrong, wrong)
    assert values.tolist() == [1.0] * 6 and index.tolist() == [0, 1, 2, 3, 4, 5]


def test_ensembles_are_means_of_logits_of_the_first_models_of_an_order() -> None:
    draws = keyed_generator(0, "ensembles")
    logits, labels = torch.randn(6, 50, 3, generator=draws), torch.randint(3, (50,), generator=draws)
    accuracy, right = ensemble_curve(logits, labels, 4, 5, keyed_generator(0, "orders"))
    assert accuracy.shape == (5, 4)
    again, expected = keyed_generator(0, "orders"), torch.zeros(50, dtype=torch.int64)
    for row in range(5):
        order = torch.randperm(6, generator=again)[:4].tolist()
        for size in range(1, 5):
            mean = sum(logits[i].double() for i in order[:size]) / size
            hits = mean.argmax(dim=1) == labels
            assert accuracy[row, size - 1] == pytest.approx(float(hits.double().mean()))
        expected += hits
    assert torch.equal(right, expected)
    seeded = ensemble_curve(logits, labels, 4, 5, seed=0)
    assert seeded[0].equal(ensemble_curve(logits, labels, 4, 5, keyed_generator(0, "ensembles"))[0])
    assert ensemble_curve(logits[:2], labels, 30, 3, keyed_generator(0, "orders"))[0].shape == (3, 2)
    with pytest.raises(ArgumentError) as caught:
        ensemble_curve(logits[:0], labels, 4, 5, keyed_generator(0, "orders"))
    assert str(caught.value) == "an ensemble needs models with finite logits, got 0 models"
