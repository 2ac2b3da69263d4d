"""Samplers: what they keep of the training embeddings, what they are independent over, and how new they are."""

import pytest
import torch
from torch import Tensor

from hyperrep.samplers import (
    SAMPLERS,
    best_states,
    kde,
    kde_principal,
    kde_shared,
    principal_axes,
    with_noise,
)
from modelzoo_datasets.seeds import generator

N, D = 400, 6
DRAWN = 20_000


def embeddings() -> Tensor:
    """(N, D) that all follow one number: every pair of dimensions is strongly correlated."""
    draws = generator(0, "embeddings")
    common = torch.rand(N, 1, generator=draws) ** 2  # skewed, so that marginals are not normal
    slopes = torch.tensor([1.0, -2.0, 3.0, 1.0, -1.0, 2.0])
    return common * slopes + 0.05 * torch.randn(N, D, generator=draws) + torch.arange(D)


def correlation(z: Tensor) -> Tensor:
    """Absolute correlations between different dimensions."""
    matrix = z.double().mT.corrcoef().abs()
    return matrix[~torch.eye(D, dtype=torch.bool)]


def test_the_embeddings_of_these_tests_are_correlated() -> None:
    assert float(correlation(embeddings()).min()) > 0.9


def test_kde_keeps_the_marginal_of_every_dimension() -> None:
    z = embeddings()
    sample = kde(z, DRAWN, 0.002, generator(0, "kde"))
    for dimension in range(D):
        drawn, given = sample[:, dimension].sort().values, z[:, dimension].sort().values
        below = torch.searchsorted(drawn, given) / DRAWN  # the two distribution functions, everywhere alike
        assert float((below - torch.arange(N) / N).abs().max()) < 0.02


def test_kde_draws_every_dimension_on_its_own() -> None:
    sample = kde(embeddings(), DRAWN, 0.002, generator(0, "kde"))
    assert float(correlation(sample).max()) < 4 / DRAWN**0.5


def test_kde_along_principal_axes_keeps_the_covariance() -> None:
    z = embeddings()
    sample = kde_principal(z, DRAWN, 0.002, generator(0, "principal"))
    spread = z.std(dim=0)
    apart = (sample.mT.cov() - z.mT.cov()) / (spread * spread.unsqueeze(1))
    assert float(apart.abs().max()) < 0.05
    assert float(((sample.mean(0) - z.mean(0)) / spread).abs().max()) < 0.03
    assert float(correlation(sample).min()) > 0.85


def test_the_bandwidth_is_the_deviation_of_the_kernels() -> None:
    z = torch.zeros(3, D)  # all donors are equal: what is left is the kernel
    for sampler in (kde, kde_principal, kde_shared):
        sample = sampler(z, DRAWN, 0.3, generator(0, "kernel"))
        assert abs(float(sample[:, 0].std()) / 0.3 - 1) < 0.03


def test_a_shared_sample_is_a_training_row_plus_one_number() -> None:
    z = embeddings()
    sample = kde_shared(z, 100, 0.002, generator(0, "shared"))
    shifts = []
    for row in sample:
        apart = row - z
        donor = int(apart.std(dim=1).argmin())
        assert float(apart[donor].std()) < 1e-6
        shifts.append(float(apart[donor].mean()))
    assert 0 < max(abs(shift) for shift in shifts) < 0.01
    assert len(set(shifts)) > 90  # the number is drawn for each sample


def test_samples_of_kde_lie_far_from_all_training_rows_where_shared_ones_do_not() -> None:
    z = embeddings()

    def distance(sample: Tensor) -> Tensor:
        return torch.cdist(sample, z).min(dim=1).values

    new = distance(kde(z, 200, 0.002, generator(0, "kde"))).median()
    copied = distance(kde_shared(z, 200, 0.002, generator(0, "shared"))).median()
    assert float(new) > 0.3 > 0.02 > float(copied)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_samplers_repeat_with_their_generator_and_leave_embeddings_alone(name: str) -> None:
    z = embeddings()
    before = z.clone()
    draws = generator(0, name)
    first, second = (SAMPLERS[name](z, 9, 0.002, draws) for _ in range(2))
    assert first.shape == (9, D)
    assert not torch.isclose(first, second, atol=0).all(dim=1).any()
    assert torch.equal(SAMPLERS[name](z, 9, 0.002, generator(0, name)), first)
    assert torch.equal(z, before)


def test_principal_axes_are_orthogonal_and_sorted_and_uncorrelate_the_embeddings() -> None:
    z = embeddings()
    mean, axes = principal_axes(z)
    torch.testing.assert_close(axes.mT @ axes, torch.eye(D), rtol=0, atol=1e-5)
    torch.testing.assert_close(mean, z.mean(dim=0))
    covariance = ((z - mean) @ axes).double().mT.cov()
    variances = covariance.diagonal()
    assert torch.equal(variances, variances.sort(descending=True).values)
    assert float((covariance - covariance.diag().diag()).abs().max()) < 1e-5
    torch.testing.assert_close(variances.sum(), z.double().var(dim=0).sum())


def test_principal_axes_are_complete_where_there_are_fewer_rows_than_dimensions() -> None:
    z = embeddings()[:3]
    _, axes = principal_axes(z)
    torch.testing.assert_close(axes.mT @ axes, torch.eye(D), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("quality", "kept"), [(1.0, 11), (0.5, 6), (0.3, 4), (0.1, 2), (0.01, 1)])
def test_the_best_states_are_at_or_above_the_quantile(quality: float, kept: int) -> None:
    order = torch.randperm(11, generator=generator(0, "order"))
    accuracy = torch.linspace(0, 1, 11)[order]
    chosen = best_states(accuracy, quality)
    threshold = 1 - quality
    expected = [i for i, value in enumerate(accuracy.tolist()) if value >= threshold - 1e-6]
    assert chosen.tolist() == expected
    assert len(chosen) == kept


def test_ties_at_the_quantile_are_all_kept() -> None:
    assert best_states(torch.tensor([0.5, 0.9, 0.5, 0.5]), 0.9).tolist() == [0, 1, 2, 3]


def test_noise_moves_a_model_by_exactly_the_distance_asked_for() -> None:
    draws = generator(0, "noise")
    weights, scale = torch.randn(5, 300, generator=draws), 0.1 + torch.rand(300, generator=draws)
    distance = torch.tensor([0.0, 0.01, 0.5, 2.0, 100.0])
    before = weights.clone()
    moved = with_noise(weights, scale, distance, draws)
    for i in range(5):
        steps = [(a - b) / s for a, b, s in zip(*(v.tolist() for v in (moved[i], weights[i], scale)), strict=True)]
        found = (sum(step**2 for step in steps) / 300) ** 0.5
        assert found == pytest.approx(float(distance[i]), rel=1e-4, abs=1e-7)
    assert torch.equal(weights, before)


def test_noise_goes_another_way_for_every_model() -> None:
    weights = torch.zeros(50, 1000)
    moved = with_noise(weights, torch.ones(1000), torch.ones(50), generator(0, "noise"))
    similar = torch.nn.functional.cosine_similarity(moved[0:1], moved[1:])
    assert float(similar.abs().max()) < 0.15
