"""Samplers: what they keep of the training embeddings, what they are independent over, and how new they are."""

import sys

import pytest
import torch
from torch import Tensor

from hyperrep.model.samplers import (
    SAMPLERS,
    compute_principal_axes,
    draw_embeddings,
    gan,
    interpolation,
    kde,
    kde_principal,
    kde_shared,
    neighbour,
    normal,
    select_best_states,
    uniform,
)
from hyperrep.sampler_names import SAMPLER_INFO, SamplerEntry
from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.seeds import keyed_generator

N, D = 400, 6
DRAWN = 20_000


def embeddings() -> Tensor:
    """(N, D) that all follow one number: every pair of dimensions is strongly correlated."""
    draws = keyed_generator(0, "embeddings")
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
    sample = kde(z, DRAWN, 0.002, keyed_generator(0, "kde"))
    for dimension in range(D):
        drawn, given = sample[:, dimension].sort().values, z[:, dimension].sort().values
        below = torch.searchsorted(drawn, given) / DRAWN  # the two distribution functions, everywhere alike
        assert float((below - torch.arange(N) / N).abs().max()) < 0.02


def test_kde_draws_every_dimension_on_its_own() -> None:
    sample = kde(embeddings(), DRAWN, 0.002, keyed_generator(0, "kde"))
    assert float(correlation(sample).max()) < 4 / DRAWN**0.5


def test_kde_along_principal_axes_keeps_the_covariance() -> None:
    z = embeddings()
    sample = kde_principal(z, DRAWN, 0.002, keyed_generator(0, "principal"))
    spread = z.std(dim=0)
    apart = (sample.mT.cov() - z.mT.cov()) / (spread * spread.unsqueeze(1))
    assert float(apart.abs().max()) < 0.05
    assert float(((sample.mean(0) - z.mean(0)) / spread).abs().max()) < 0.03
    assert float(correlation(sample).min()) > 0.85


def test_the_bandwidth_is_the_deviation_of_the_kernels() -> None:
    z = torch.zeros(3, D)  # all donors are equal: what is left is the kernel
    for sampler in (kde, kde_principal, kde_shared):
        sample = sampler(z, DRAWN, 0.3, keyed_generator(0, "kernel"))
        assert abs(float(sample[:, 0].std()) / 0.3 - 1) < 0.03


def test_a_shared_sample_is_a_training_row_plus_one_number() -> None:
    z = embeddings()
    sample = kde_shared(z, 100, 0.002, keyed_generator(0, "shared"))
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

    new = distance(kde(z, 200, 0.002, keyed_generator(0, "kde"))).median()
    copied = distance(kde_shared(z, 200, 0.002, keyed_generator(0, "shared"))).median()
    assert float(new) > 0.3 > 0.02 > float(copied)


def test_normal_keeps_mean_and_covariance_and_is_normal_in_every_direction() -> None:
    z = embeddings()
    sample = normal(z, DRAWN, 0.002, keyed_generator(0, "normal"))
    spread = z.std(dim=0)
    assert float(((sample.mean(dim=0) - z.mean(dim=0)) / spread).abs().max()) < 4 / DRAWN**0.5
    wanted = z.mT.cov(correction=0)
    assert float((sample.mT.cov() - wanted).abs().max()) < 0.05 * float(wanted.abs().max())
    along = (sample - sample.mean(dim=0)) @ torch.randn(D, generator=keyed_generator(0, "direction"))
    kurtosis = along.double().pow(4).mean() / along.double().square().mean() ** 2
    assert float(kurtosis) == pytest.approx(3, abs=0.15)  # that of the embeddings themselves is another


def test_interpolations_lie_between_two_different_embeddings() -> None:
    z = torch.eye(8)  # what is between two of these has two numbers that are not 0, and they sum to 1
    sample = interpolation(z, 3000, 0.002, keyed_generator(0, "interpolation"))
    torch.testing.assert_close(sample.sum(dim=1), torch.ones(3000))
    assert ((sample > 1e-6).sum(dim=1) == 2).float().mean() > 0.999
    ends = sample.amax(dim=1)
    assert 0.5 <= float(ends.min()) < 0.51
    assert float(ends.max()) > 0.99
    pairs = {tuple(sorted(row.topk(2).indices.tolist())) for row in sample}
    assert len(pairs) == 8 * 7 // 2


def test_uniform_fills_the_cube_whatever_the_embeddings_are() -> None:
    sample = uniform(embeddings(), DRAWN, 0.002, keyed_generator(0, "uniform"))
    assert float(sample.min()) >= -1 and float(sample.max()) <= 1
    for dimension in range(D):
        expected = torch.linspace(-1, 1, DRAWN)
        assert float((sample[:, dimension].sort().values - expected).abs().max()) < 0.04
    assert float(correlation(sample).max()) < 4 / DRAWN**0.5


def test_the_gan_learns_where_the_embeddings_lie_and_copies_none() -> None:
    z = embeddings()
    sample = gan(z, 2000, 0.002, keyed_generator(0, "gan"))
    spread = z.std(dim=0)
    assert float(((sample.mean(0) - z.mean(0)) / spread).abs().max()) < 0.3
    assert float((sample.std(dim=0) / spread - 1).abs().max()) < 0.4
    assert float(correlation(sample).min()) > 0.8
    nearest = torch.cdist(sample, z, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values
    assert 0 < float(nearest.median()) < 0.5 * float(uniform_distance(z))
    assert torch.equal(gan(z, 2000, 0.002, keyed_generator(0, "gan")), sample)


def uniform_distance(z: Tensor) -> Tensor:
    """How far independent draws of each dimension lie from the nearest of the embeddings, in the median."""
    return torch.cdist(kde(z, 500, 0.0, keyed_generator(1, "apart")), z).min(dim=1).values.median()


def test_a_gan_of_embeddings_that_are_all_one_draws_it() -> None:
    z = torch.ones(4, D)
    assert torch.equal(gan(z, 3, 0.002, keyed_generator(0, "gan")), z[:3])


@pytest.mark.slow  # umap compiles itself in every process, which takes a minute
def test_neighbours_are_mapped_back_from_all_over_the_map_and_repeat() -> None:
    """Two clusters on a line: between them and around them, not anywhere else."""
    line = torch.linspace(-1, 1, D)
    draws = keyed_generator(0, "clusters")
    z = torch.cat([side * 3 * line + 0.1 * torch.randn(12, D, generator=draws) for side in (-1, 1)])
    sample = neighbour(z, 30, 0.002, keyed_generator(0, "neighbour"))
    assert sample.shape == (30, D) and sample.dtype == z.dtype and sample.isfinite().all()
    along = sample @ line / line.square().sum()
    off = sample - along.unsqueeze(1) * line
    assert float(along.abs().max()) < 4 and float(along.min()) < -2 and float(along.max()) > 2
    assert float(off.abs().max()) < 1
    assert len({tuple(row) for row in sample.tolist()}) == 30
    assert torch.equal(neighbour(z, 30, 0.002, keyed_generator(0, "neighbour")), sample)


def test_neighbours_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    with pytest.raises(ModelZooError) as caught:
        draw_embeddings("neighbour", embeddings(), 3, 0.002, keyed_generator(0, "neighbour"))
    told = "draws of the sampler neighbour need umap, which is not installed: pip install 'modelzoo-datasets[umap]'"
    assert str(caught.value) == told


def test_too_few_states_are_told() -> None:
    with pytest.raises(ModelZooError) as caught:
        draw_embeddings("neighbour", embeddings()[:4], 3, 0.002, keyed_generator(0, "neighbour"))
    assert str(caught.value) == (
        "sampler neighbour needs at least 5 training states, got 4; draw from a larger share of the states "
        "(top_fraction), or train on more models"
    )


def test_an_entry_of_a_recipe_may_say_how_large_a_share_is_drawn_from_and_kept() -> None:
    assert SamplerEntry.parse("kde", 0.3) == SamplerEntry("kde", 0.3)
    assert SamplerEntry.parse("kde-shared@100/20", 0.3) == SamplerEntry("kde-shared", 1.0, 0.2)
    for percent in ("", "0", "101", "3.5", "x"):
        for entry, what in ((f"kde@{percent}", "training states behind @"), (f"kde/{percent}", "draws behind /")):
            with pytest.raises(ModelZooError) as caught:
                SamplerEntry.parse(entry, 0.3)
            assert str(caught.value) == f"'{entry}': expected a percentage of the {what}, from 1 to 100"


def test_every_sampler_is_found_by_its_name_and_says_what_it_promises() -> None:
    known = ["uniform", "kde", "kde-shared", "kde-principal", "normal", "interpolation", "neighbour", "gan"]
    assert [*SAMPLERS] == [*SAMPLER_INFO][: len(SAMPLERS)] == known
    assert all(SAMPLER_INFO[name].name == name and SAMPLER_INFO[name].description for name in SAMPLERS)


@pytest.mark.parametrize("name", sorted({*SAMPLERS} - {"neighbour", "gan"}))  # they take seconds: see their own tests
def test_samplers_repeat_with_their_generator_and_leave_embeddings_alone(name: str) -> None:
    z = embeddings()
    before = z.clone()
    draws = keyed_generator(0, name)
    first, second = (draw_embeddings(name, z, 9, 0.002, draws) for _ in range(2))
    assert first.shape == (9, D)
    assert not torch.isclose(first, second, atol=0).all(dim=1).any()
    assert torch.equal(draw_embeddings(name, z, 9, 0.002, keyed_generator(0, name)), first)
    assert torch.equal(z, before)


def test_principal_axes_are_orthogonal_and_sorted_and_uncorrelate_the_embeddings() -> None:
    z = embeddings()
    mean, axes = compute_principal_axes(z)
    torch.testing.assert_close(axes.mT @ axes, torch.eye(D), rtol=0, atol=1e-5)
    torch.testing.assert_close(mean, z.mean(dim=0))
    covariance = ((z - mean) @ axes).double().mT.cov()
    variances = covariance.diagonal()
    assert torch.equal(variances, variances.sort(descending=True).values)
    assert float((covariance - covariance.diag().diag()).abs().max()) < 1e-5
    torch.testing.assert_close(variances.sum(), z.double().var(dim=0).sum())


def test_principal_axes_are_complete_where_there_are_fewer_rows_than_dimensions() -> None:
    z = embeddings()[:3]
    _, axes = compute_principal_axes(z)
    torch.testing.assert_close(axes.mT @ axes, torch.eye(D), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("quality", "kept"), [(1.0, 11), (0.5, 6), (0.3, 4), (0.1, 2), (0.01, 1)])
def test_the_best_states_are_at_or_above_the_quantile(quality: float, kept: int) -> None:
    order = torch.randperm(11, generator=keyed_generator(0, "order"))
    accuracy = torch.linspace(0, 1, 11)[order]
    chosen = select_best_states(accuracy, quality)
    threshold = 1 - quality
    expected = [i for i, value in enumerate(accuracy.tolist()) if value >= threshold - 1e-6]
    assert chosen.tolist() == expected
    assert len(chosen) == kept


def test_ties_at_the_quantile_are_all_kept() -> None:
    assert select_best_states(torch.tensor([0.5, 0.9, 0.5, 0.5]), 0.9).tolist() == [0, 1, 2, 3]


def test_states_without_an_accuracy_are_left_out_and_without_any_all_are_drawn_from(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nan = float("nan")
    assert select_best_states(torch.tensor([nan, 0.9, 0.1, nan, 0.8]), 0.5).tolist() == [1, 4]
    assert select_best_states(torch.tensor([nan, 0.9]), 1).tolist() == [0, 1]
    assert not caplog.records
    assert select_best_states(torch.tensor([nan, nan]), 0.3).tolist() == [0, 1]
    told = [record.getMessage() for record in caplog.records]
    assert told == ["no accuracy of the 2 training states is known: drawing from all of them"]


def test_a_share_that_is_too_small_for_the_sampler_is_filled_up_with_the_next_best(
    caplog: pytest.LogCaptureFixture,
) -> None:
    accuracy = torch.tensor([0.1, float("nan"), 0.9, 0.8, 0.5])
    assert select_best_states(accuracy, 0.3).tolist() == [2]
    assert not caplog.records
    assert select_best_states(accuracy, 0.3, min_states=3).tolist() == [2, 3, 4]
    assert select_best_states(accuracy, 0.3, min_states=9).tolist() == [0, 1, 2, 3, 4]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"the best 30 % of the 5 training states are too few for the sampler: drawing from the best {n}" for n in (3, 5)
    ]
