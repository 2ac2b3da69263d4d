"""Populations are what they are called, and as new as it is said of them."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from hyperrep import HyperRepresentation
from hyperrep.evaluation.baselines import SamplingContext, draw_weights
from hyperrep.evaluation.metrics import Evaluator
from hyperrep.evaluation.population import Population
from hyperrep.evaluation.populations import draw_samples, surround_samples
from hyperrep.evaluation.training_states import measure_novelty
from hyperrep.model.samplers import select_best_states
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.symmetry import permute_units, sample_permutations


def list_nulls(sampler: str, *, averages: bool) -> list[str]:
    """Names of the nulls at the distances of a sampler."""
    kinds = ["noise", "PCA Gaussian", *(["average"] if averages else [])]
    return [f"{kind}{end} like {sampler}" for kind in kinds for end in ("", " + REPAIR")] + [
        f"retrieval like {sampler}"
    ]


# Of the barely trained representation of these tests: no average is as far from training states as its samples.
SAMPLED = [name for s in ("kde@50", "kde-shared@50") for name in (s, *list_nulls(s, averages=False))]
WHOLE = ["kde@100", "kde-shared@100"]
MOVED = ["move 0.3@50", *list_nulls("move 0.3@50", averages=True)]
MEMBERS = {"zoo members": 3, "training members": 14}
FIXED = {**MEMBERS, "reconstructed unseen": 3, "reconstructed training": 14}
CURVES = ("average of pairs", "mixture 0.1", "average of all", "noise 0.2", "PCA Gaussian")


@pytest.fixture(scope="module")
def best(rep: HyperRepresentation, learned: dict[str, Zoo]) -> Tensor:
    """The aligned training states that are drawn from."""
    return rep.align(learned["train"].weights)[select_best_states(rep.accuracy, 0.5)]


def distances(weights: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """(n, m): root mean square of the differences in layer standard deviations, one pair at a time."""
    rows = [[((a - b) / scale).double().square().mean().sqrt() for b in others] for a in weights]
    return torch.tensor(rows)


def test_the_populations_have_their_names_and_sizes(populated: dict[str, Population]) -> None:
    curves = [name + end for name in CURVES for end in ("", " + REPAIR")]
    curves.remove("average of all + REPAIR")
    reconstructed = ["reconstructed unseen", "reconstructed training"]
    assert list(populated) == [*MEMBERS, *curves, *SAMPLED, *WHOLE, *MOVED, *reconstructed]
    for name, population in populated.items():
        assert population.weights.shape == (FIXED.get(name, 1 if name == "average of all" else 2), 2464)
        assert population.weights.isfinite().all()
        assert population.description
        assert population.is_sample == (name in ("kde@50", "kde-shared@50", "move 0.3@50", *WHOLE))
        is_finetuned = name in (*FIXED, "kde@50", "kde-shared@50", "average of all") or name.startswith("average of")
        is_finetuned |= name.startswith(("noise + REPAIR like kde", "average + REPAIR like kde"))
        assert population.num_finetuned == 2 * is_finetuned, name


def test_the_row_of_all_states_has_no_nulls_and_is_not_fine_tuned(populated: dict[str, Population]) -> None:
    whole = populated["kde@100"]
    assert whole.description.endswith("; from all of the training states")
    assert populated["kde@50"].description.endswith("; from the best 50% of the training states by validation accuracy")
    assert (whole.num_finetuned, whole.has_nulls, whole.is_sample) == (0, False, True)


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


@pytest.mark.parametrize("sampler", ["kde@50", "kde-shared@50", "move 0.3@50"])
def test_nulls_are_as_far_from_a_good_training_state_as_their_sample_is_from_all(
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
    nulls = [p for p in populated.values() if p.matched_to == sampler and not p.name.startswith("retrieval")]
    assert len(nulls) == (6 if sampler.startswith("move") else 4)
    for made in nulls:
        wanted = expected[list(made.matched_index)]
        moved = distances(made.weights, best, rep.scale)
        error = float(((moved - wanted.unsqueeze(1)).abs().min(dim=1).values / wanted).max())
        assert error < (0.05 if "REPAIR" in made.name else 1e-4)
    retrieved = populated[f"retrieval like {sampler}"]
    assert torch.equal(retrieved.weights, aligned[versions.amin(dim=0).argmin(dim=1)])


def test_populations_repeat_and_follow_the_seed_of_the_protocol(
    rep: HyperRepresentation, learned: dict[str, Zoo], populated: dict[str, Population], bench: Evaluator
) -> None:
    for seed in (0, 1):
        asked = dataclasses.replace(bench, recipe=dataclasses.replace(bench.recipe, seed=seed))
        samples = draw_samples(SamplingContext(rep=rep, training=bench.states), asked)
        for again in surround_samples(samples, {s: learned[s] for s in ("train", "test")}, asked):
            if again.name not in populated:  # averages reach other samples
                continue
            before = populated[again.name].weights
            same = before.shape == again.weights.shape and torch.equal(again.weights, before)
            drawn = again.name not in {*FIXED, "average of all"}
            if again.name.startswith("retrieval"):  # other samples can have the same neighbors
                continue
            assert same is (seed == 0 or not drawn), again.name


def test_samplers_may_be_drawn_from_another_share(
    rep: HyperRepresentation, learned: dict[str, Zoo], bench: Evaluator
) -> None:
    recipe = dataclasses.replace(
        bench.recipe, samplers=("kde-shared@100", "reconstruction", "fresh"), num_samples=60, moves=()
    )
    asked = dataclasses.replace(bench, recipe=recipe)
    found = draw_samples(SamplingContext(rep=rep, training=bench.states), asked)
    by_name = {population.name: population for population in found}
    assert list(by_name) == ["kde-shared@100", "reconstruction@50", "fresh", "reconstruction@100"]
    nearest = distances(rep.encode(by_name["kde-shared@100"].weights[:40]), rep.embeddings, torch.ones(rep.latent_dim))
    drawn_from = {*nearest.argmin(dim=1).tolist()} - {*select_best_states(rep.accuracy, 0.5).tolist()}
    assert drawn_from, "none of 40 samples is of the worse half"
    assert not by_name["fresh"].has_nulls and not by_name["reconstruction@50"].has_nulls


def test_dropping_draws_keeps_the_best_by_validation_accuracy_in_their_order(
    rep: HyperRepresentation, bench: Evaluator
) -> None:
    recipe = dataclasses.replace(bench.recipe, samplers=("kde-shared@50/25",), num_samples=3, moves=())
    asked = dataclasses.replace(bench, recipe=recipe)
    selected = draw_samples(SamplingContext(rep=rep, training=bench.states), asked)[0]
    assert (selected.name, len(selected.weights)) == ("kde-shared@50/25", 3)
    assert selected.description.endswith(", and the best 25% of the draws stay by validation accuracy")
    context = SamplingContext(rep=rep, training=bench.states, top_fraction=0.5, bandwidth=recipe.bandwidth)
    draws = draw_weights("kde-shared", 12, context, keyed_generator(0, "samples", selected.name))
    accuracy = bench.measure_accuracy(draws, "validation").tolist()
    best = sorted(sorted(range(12), key=lambda i: (-accuracy[i], i))[:3])
    assert torch.equal(selected.weights, draws[best])


def test_training_states_and_their_permuted_copies_are_no_new_models(
    rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    aligned = rep.align(learned["train"].weights)
    distance, nearest = measure_novelty(rep.alignment, aligned, aligned)
    assert distance.tolist() == [0] * len(aligned) and nearest.tolist() == list(range(len(aligned)))
    symmetry = rep.architecture.symmetry
    # Near the reference, where weight matching cannot miss.
    near = rep.reference + 0.2 * (aligned - rep.reference)
    copies = permute_units(near, symmetry, sample_permutations(symmetry, len(near), keyed_generator(0, "copies")))
    assert float(distances(copies[:3], near, rep.scale).min()) > 0.1
    distance, nearest = measure_novelty(rep.alignment, copies, near)
    assert distance.tolist() == [0] * len(near) and nearest.tolist() == list(range(len(near)))


def test_novelty_is_the_distance_to_the_nearest_training_state(
    rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    aligned = rep.align(learned["train"].weights)
    moved = aligned[:4] + 0.001 * rep.scale
    assert measure_novelty(rep.alignment, moved, aligned)[0].tolist() == pytest.approx([0.001] * 4, rel=1e-2)
