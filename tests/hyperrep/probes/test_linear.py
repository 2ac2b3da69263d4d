"""Linear probes against normal equations and numpy loops."""

import numpy as np
import pytest
import torch
from helpers.tiny_learning import ridge_r2
from torch import Tensor

from hyperrep.model import compute_layer_statistics
from hyperrep.probes.linear import PENALTIES, compute_r2
from modelzoo_datasets.architectures import cnn_s
from modelzoo_datasets.seeds import keyed_generator

SIZES = {"train": 60, "validation": 25, "test": 30}


def problem(features: int, noise: float, scale: float = 1.0) -> tuple[dict[str, Tensor], ...]:
    """Features and targets per split: a linear map, an offset, noise."""
    draws = keyed_generator(0, "problem", features)
    slope = torch.randn(features, generator=draws)
    x = {s: scale * torch.randn(n, features, generator=draws) for s, n in SIZES.items()}
    y = {s: part @ slope + 0.5 + noise * torch.randn(len(part), generator=draws) for s, part in x.items()}
    return x, y


def slow_ridge(x: dict[str, Tensor], y: dict[str, Tensor]) -> tuple[float, float]:
    """Every penalty by its normal equations; R² on test of the best on validation, and that penalty."""

    def score(split: str, w: Tensor) -> float:
        ones = torch.ones(len(x[split]), 1, dtype=torch.float64)
        predicted = torch.cat([x[split].double(), ones], dim=1) @ w
        target = y[split].double()
        total = sum((t - float(target.mean())) ** 2 for t in target.tolist())
        error = sum((p - t) ** 2 for p, t in zip(predicted.tolist(), target.tolist(), strict=True))
        return 1 - float(error / total)

    found = []
    for penalty in PENALTIES:
        ones = torch.ones(len(x["train"]), 1, dtype=torch.float64)
        design = torch.cat([x["train"].double(), ones], dim=1)
        gram = design.T @ design + penalty * torch.eye(design.shape[1], dtype=torch.float64)
        w = torch.linalg.solve(gram, design.T @ y["train"].double())
        found.append((score("validation", w), penalty, score("test", w)))
    _, penalty, test = max(found, key=lambda row: row[0])
    return test, penalty


@pytest.mark.parametrize(("features", "noise"), [(5, 0.1), (5, 5.0), (40, 3.0), (40, 40.0), (200, 1.0)])
def test_ridge_is_the_normal_equations_with_the_penalty_that_validates_best(features: int, noise: float) -> None:
    x, y = problem(features, noise)
    assert ridge_r2(x, y) == pytest.approx(slow_ridge(x, y)[0], abs=1e-6)


def test_these_problems_choose_penalties_from_all_over_the_path() -> None:
    chosen = {slow_ridge(*problem(f, n))[1] for f, n in [(5, 0.1), (40, 3.0), (40, 40.0)]}
    assert len(chosen) == 3


def test_the_published_path_has_seventeen_penalties_over_eight_orders() -> None:
    assert len(PENALTIES) == 17
    assert list(PENALTIES) == sorted(PENALTIES, reverse=True)
    assert (PENALTIES[0], PENALTIES[-1]) == (1e3, 1e-5)


def test_a_linear_target_is_read_off_perfectly() -> None:
    assert ridge_r2(*problem(5, 0.0)) == pytest.approx(1, abs=1e-6)


def test_features_without_information_predict_no_better_than_the_mean() -> None:
    _, y = problem(5, 1.0)
    x = {s: torch.zeros(n, 5) for s, n in SIZES.items()}
    assert -0.2 < ridge_r2(x, y) <= 0


def test_r2_is_0_for_the_mean_1_for_the_target_and_negative_for_worse() -> None:
    target = torch.tensor([1.0, 2.0, 4.0, 9.0])
    assert compute_r2(target.mean().expand(4), target) == pytest.approx(0, abs=1e-6)
    assert compute_r2(target, target) == 1
    assert compute_r2(-target, target) < 0


def test_layer_statistics_are_numpys_of_every_weight_and_bias() -> None:
    layout = cnn_s.layout
    weights = torch.randn(4, layout.size, generator=keyed_generator(0, "weights")) ** 3
    found = compute_layer_statistics(weights, layout)
    assert found.shape == (4, 14 * len(layout.layers))
    assert found.dtype == torch.float64
    for model in range(4):
        expected: list[float] = []
        for slot in layout.slots:
            values = weights[model, slot.start : slot.stop].double().numpy()
            expected += [float(np.mean(values)), float(np.var(values))]
            expected += [float(np.percentile(values, level)) for level in (1, 25, 50, 75, 99)]
        np.testing.assert_allclose(found[model].numpy(), expected, rtol=1e-9, atol=1e-12)
