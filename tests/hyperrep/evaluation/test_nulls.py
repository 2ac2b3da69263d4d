"""Nulls are what they are called: straight ways from training states, walked to a distance, with and without REPAIR."""

import dataclasses
import logging

import pytest
import torch
from torch import Tensor

from hyperrep.evaluation.metrics import Evaluator
from hyperrep.evaluation.nulls import (
    Repairer,
    draw_matched_ways,
    make_averages,
    make_gaussian,
    make_noise,
    match_distance,
)
from hyperrep.evaluation.training_states import TrainingStates
from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.seeds import keyed_generator


@pytest.fixture(scope="module")
def states(bench: Evaluator) -> TrainingStates:
    """The training states."""
    return bench.states


@pytest.fixture(scope="module")
def repairer(bench: Evaluator) -> Repairer:
    """REPAIR for their networks."""
    assert bench.repairer is not None
    return bench.repairer


def distance_to(states: TrainingStates, weights: Tensor, others: Tensor) -> list[float]:
    """Root mean square of the difference in layer standard deviations, one model at a time."""
    pairs = zip(weights.double(), others.double(), strict=True)
    return [float((((a - b) / states.alignment.scale) ** 2).mean().sqrt()) for a, b in pairs]


def test_states_of_a_zoo_are_aligned_to_each_other_without_a_hyper_representation(learned: dict[str, Zoo]) -> None:
    alone = TrainingStates.from_zoo(learned["train"])
    assert alone.alignment.signs, "all activations are tanh"
    assert torch.equal(alone.weights, alone.alignment.align(learned["train"].weights))
    spread, before = (float(w.std(dim=0).square().mean()) for w in (alone.weights, learned["train"].weights))
    assert spread < 0.98 * before
    assert alone.accuracy.tolist() == learned["train"].table["val_acc"].tolist()
    distance, nearest = alone.measure_novelty(learned["train"].weights)
    assert float(distance.max()) == 0 and nearest.tolist() == list(range(28))
    relu = learned["train"].table.assign(activation="relu")
    assert not TrainingStates.from_zoo(dataclasses.replace(learned["train"], table=relu)).alignment.signs


def test_repaired_noise_has_the_statistics_of_its_donor_and_the_distance_asked_for(
    states: TrainingStates, repairer: Repairer
) -> None:
    way = make_noise(states, torch.tensor([0, 5, 9]), keyed_generator(0, "noise"))
    wanted = torch.tensor([0.1, 0.4, 0.8])
    plain, is_matched = match_distance(way, wanted, states, None)
    assert is_matched.all()
    assert distance_to(states, plain, way.start) == pytest.approx(wanted.tolist(), rel=1e-4)
    repaired, is_matched = match_distance(way, wanted, states, repairer)
    assert is_matched.all()
    assert distance_to(states, repaired, way.start) == pytest.approx(wanted.tolist(), rel=0.05)
    donors, found, raw = (repairer.measure(weights) for weights in (way.start, repaired, plain))
    torch.testing.assert_close(found.std, donors.std, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.mean, donors.mean, rtol=1e-3, atol=1e-3)
    assert float((raw.std - donors.std).abs().max()) > 0.01


def test_repaired_averages_have_statistics_between_those_of_their_two_parents(
    states: TrainingStates, repairer: Repairer
) -> None:
    first, second = torch.tensor([0, 3]), torch.tensor([7, 11])
    way = make_averages(states, first, second)
    shares = torch.tensor([0.25, 0.5])
    repaired = way.repair(shares, repairer)
    a, b = (repairer.measure(states.weights[index]) for index in (first, second))
    expected = a.std + shares.unsqueeze(1) * (b.std - a.std)
    torch.testing.assert_close(repairer.measure(repaired).std, expected, rtol=1e-3, atol=1e-4)
    for i, share in enumerate(shares.tolist()):
        mixed = (1 - share) * states.weights[first[i]] + share * states.weights[second[i]]
        torch.testing.assert_close(way.walk(shares)[i], mixed)


def test_averages_end_at_the_middle_and_what_they_do_not_reach_is_left_out(states: TrainingStates) -> None:
    way = make_averages(states, torch.tensor([0, 0]), torch.tensor([7, 7]))
    far = distance_to(states, way.start, way.start + way.step)[0]
    _, is_matched = match_distance(way, torch.tensor([0.49 * far, 0.51 * far]), states, None)
    assert is_matched.tolist() == [True, False]


def test_draws_of_the_gaussian_have_the_mean_and_the_spread_of_the_best_states_along_their_axes(
    states: TrainingStates,
) -> None:
    best = torch.arange(0, 28, 2)  # 14 states: 13 axes hold all of their covariance
    way = make_gaussian(states, best, 4000, keyed_generator(0, "Gaussian"))
    draws = ((way.start + way.step) / states.alignment.scale).double()
    data = (states.weights[best] / states.alignment.scale).double()
    axes = torch.linalg.svd(data - data.mean(dim=0), full_matrices=False).Vh[:13]
    spread = ((draws - data.mean(dim=0)) @ axes.mT).std(dim=0)
    torch.testing.assert_close(spread, ((data - data.mean(dim=0)) @ axes.mT).std(dim=0), rtol=0.05, atol=0)
    off = (draws - data.mean(dim=0)) - (draws - data.mean(dim=0)) @ axes.mT @ axes
    assert float(off.abs().max()) < 1e-4, "draws lie in the affine hull"
    nearest = torch.cdist(draws[:50], data).argmin(dim=1)
    assert torch.equal(way.start[:50], states.weights[best][nearest])


def test_every_pair_of_states_serves_one_sample_and_is_far_enough_apart(states: TrainingStates) -> None:
    best, wanted = torch.arange(28), torch.tensor([0.1, 0.3, 50.0, 0.2])
    ways = draw_matched_ways(states, best, wanted, 0, "some")
    way, index = ways["average"]
    assert index.tolist() == [0, 1, 3], "no pair is 100 apart"
    assert len({tuple(row.tolist()) for row in torch.cat([way.start, way.step], dim=1)}) == 3
    for length, i in zip(distance_to(states, way.start, way.start + way.step), index.tolist(), strict=True):
        assert length >= 2 * wanted[i]
    one_model = torch.tensor([i for i, name in enumerate(states.models) if name == states.models[0]])
    assert set(draw_matched_ways(states, one_model, wanted, 0, "some")) == {"noise", "PCA Gaussian"}


def test_networks_without_repair_have_nulls_without_it_and_a_line(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert Repairer.from_images("resnet18", NetworkSpec("relu"), images) is None
    assert "nulls are without REPAIR: " in caplog.text
