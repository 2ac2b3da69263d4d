"""Populations are what they are called, and as new as it is said of them."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from hyperrep import HyperRepresentation
from hyperrep.evaluation.baselines import SamplingContext
from hyperrep.evaluation.populations import Population, make_populations, measure_novelty
from hyperrep.model.samplers import select_best_states
from hyperrep.recipe import HyperRecipe
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.symmetry import permute_units, sample_permutations

# Of the barely trained representation of these tests: no average is as far from training states as samples of kde.
SAMPLED = ["kde", "noise like kde", "kde-shared", "noise like kde-shared", "average like kde-shared"]
MOVED = ["move 0.3", "noise like move 0.3", "average like move 0.3"]
FIXED = {"zoo members": 3, "training members": 14, "reconstructed unseen": 3, "reconstructed training": 14}


@pytest.fixture(scope="module")
def best(rep: HyperRepresentation, learned: dict[str, Zoo]) -> Tensor:
    """The aligned training states that are drawn from."""
    return rep.align(learned["train"].weights)[select_best_states(rep.accuracy, 0.5)]


def distances(weights: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """(n, m): root mean square of the differences in layer standard deviations, one pair at a time."""
    rows = [[((a - b) / scale).double().square().mean().sqrt() for b in others] for a in weights]
    return torch.tensor(rows)


def test_the_populations_have_their_names_and_sizes(populated: dict[str, Population]) -> None:
    curves = ["average of pairs", "mixture 0.1", "average of all", "noise 0.2"]
    assert list(populated) == [*FIXED, *curves, *SAMPLED, *MOVED]
    for name, population in populated.items():
        assert population.weights.shape == (FIXED.get(name, 1 if name == "average of all" else 2), 2464)
        assert population.weights.isfinite().all()
        assert population.description
        assert population.is_sample == (name in ("kde", "kde-shared", "move 0.3"))
        assert population.num_finetuned == (0 if name in ("mixture 0.1", "noise 0.2", *MOVED) else 2)


def test_zoo_members_and_reconstructions_are_those_of_the_last_epoch(
    rep: HyperRepresentation, learned: dict[str, Zoo], populated: dict[str, Population]
) -> None:
    last = {s: rep.align(part.select(part.table["epoch"] == 2).weights) for s, part in learned.items()}
    for name, split in (("zoo members", "test"), ("training members", "train")):
        assert torch.equal(populated[name].weights, last[split])
    for name, split in (("unseen", "test"), ("training", "train")):
        found = populated[f"reconstructed {name}"].weights
        torch.testing.assert_close(found, rep.decode(rep.encode(last[split])))


def test_averages_and_mixtures_are_between_training_states(
    rep: HyperRepresentation, learned: dict[str, Zoo], populated: dict[str, Population], best: Tensor
) -> None:
    for name, share in (("average of pairs", 0.5), ("mixture 0.1", 0.1)):
        between = torch.stack([a + share * (b - a) for a, b in itertools.permutations(best, 2)])
        for model in populated[name].weights:
            assert float((model - between).abs().amax(dim=1).min()) < 1e-6
    mean = torch.stack(list(rep.align(learned["train"].weights).double())).sum(dim=0) / 28
    torch.testing.assert_close(populated["average of all"].weights[0], mean.float())


@pytest.mark.parametrize("sampler", ["kde", "kde-shared"])
def test_noise_and_averages_are_exactly_as_far_from_a_good_training_state_as_their_sample_is_from_all(
    rep: HyperRepresentation,
    learned: dict[str, Zoo],
    populated: dict[str, Population],
    best: Tensor,
    sampler: str,
) -> None:
    aligned = rep.align(learned["train"].weights)
    sampled = populated[sampler].weights
    versions = torch.stack([distances(w, aligned, rep.scale) for w in (sampled, rep.align(sampled))])
    expected = versions.amin(dim=(0, 2))
    assert float(expected.min()) > 0.01
    for kind in ("noise", "average"):
        if (made := populated.get(f"{kind} like {sampler}")) is None:
            assert f"{kind} like {sampler}" not in SAMPLED
            continue
        wanted = expected[list(made.matched_index)]
        moved = distances(made.weights, best, rep.scale)
        assert float(((moved - wanted.unsqueeze(1)).abs().min(dim=1).values / wanted).max()) < 1e-4
        assert made.matched_to == sampler


def test_populations_repeat_and_follow_the_seed_of_the_protocol(
    rep: HyperRepresentation, learned: dict[str, Zoo], populated: dict[str, Population], protocol: HyperRecipe
) -> None:
    for seed in (0, 1):
        asked = dataclasses.replace(protocol.evaluation, seed=seed)
        source = SamplingContext(rep=rep, zoo=learned["train"])
        for again in make_populations(source, {s: learned[s] for s in ("train", "test")}, asked):
            before = populated[again.name].weights
            same = before.shape == again.weights.shape and torch.equal(again.weights, before)
            drawn = again.name not in {*FIXED, "average of all"}
            assert same is (seed == 0 or not drawn), again.name


def test_samplers_may_be_drawn_from_another_share(
    rep: HyperRepresentation, learned: dict[str, Zoo], protocol: HyperRecipe
) -> None:
    asked = dataclasses.replace(
        protocol.evaluation, samplers=("kde-shared@100", "reconstruction", "fresh"), num_samples=60
    )
    found = make_populations(
        SamplingContext(rep=rep, zoo=learned["train"]), {s: learned[s] for s in ("train", "test")}, asked
    )
    by_name = {population.name: population for population in found}
    assert by_name["kde-shared@100"].description.endswith("; from all of the training states")
    assert (
        by_name["reconstruction"].description
        == "training states, encoded and decoded; from best 50% of the training states"
    )
    nearest = distances(rep.encode(by_name["kde-shared@100"].weights[:40]), rep.embeddings, torch.ones(rep.latent_dim))
    chosen = {*nearest.argmin(dim=1).tolist()} - {*select_best_states(rep.accuracy, 0.5).tolist()}
    assert chosen, "none of 40 samples is of the worse half"
    assert "noise like fresh" not in by_name


def test_training_states_and_their_permuted_copies_are_no_new_models(
    rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    aligned = rep.align(learned["train"].weights)
    distance, nearest = measure_novelty(rep, aligned, aligned)
    assert distance.tolist() == [0] * len(aligned) and nearest.tolist() == list(range(len(aligned)))
    symmetry = rep.architecture.symmetry
    # Near the reference, where weight matching cannot miss.
    near = rep.reference + 0.2 * (aligned - rep.reference)
    copies = permute_units(near, symmetry, sample_permutations(symmetry, len(near), keyed_generator(0, "copies")))
    assert float(distances(copies[:3], near, rep.scale).min()) > 0.1
    distance, nearest = measure_novelty(rep, copies, near)
    assert distance.tolist() == [0] * len(near) and nearest.tolist() == list(range(len(near)))


def test_novelty_is_the_distance_to_the_nearest_training_state(
    rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    aligned = rep.align(learned["train"].weights)
    moved = aligned[:4] + 0.001 * rep.scale
    assert measure_novelty(rep, moved, aligned)[0].tolist() == pytest.approx([0.001] * 4, rel=1e-2)
