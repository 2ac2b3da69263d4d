"""Baselines: models made from training weights, each held against a slow reading of what it is called."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyperrep import HyperRepresentation
from hyperrep.evaluation.baselines import (
    BASELINES,
    SamplingContext,
    add_noise,
    draw_weights,
    initialize_models,
)
from hyperrep.evaluation.training_states import TrainingStates, draw_model_pairs
from hyperrep.model.samplers import SAMPLERS, select_best_states
from hyperrep.sampler_names import SAMPLER_INFO
from modelzoo_datasets.engines import Job
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FormatError, ModelZooError
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.seeds import keyed_generator


@pytest.fixture(scope="module")
def source(rep: HyperRepresentation, learned: dict[str, Zoo]) -> SamplingContext:
    """The best half of the training states."""
    training = TrainingStates.from_representation(rep, learned["train"])
    return SamplingContext(rep=rep, training=training, top_fraction=0.5, bandwidth=0.01, sigma=0.3)


@pytest.fixture(scope="module")
def best(source: SamplingContext) -> Tensor:
    """Their aligned weights."""
    rep, zoo = source.rep, source.states.zoo
    accuracy = torch.tensor(zoo.table["val_acc"].tolist())
    return rep.align(zoo.weights)[select_best_states(accuracy, 0.5)]


def distances(weights: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """(n, m): root mean square of the differences in layer standard deviations, one pair at a time."""
    rows = [[((a - b) / scale).double().square().mean().sqrt() for b in others] for a in weights]
    return torch.tensor(rows)


def test_every_baseline_is_found_by_its_name_and_says_what_it_promises() -> None:
    known = ["reconstruction", "move", "noise", "average", "kde-weights", "fresh"]
    assert [*BASELINES] == [*SAMPLER_INFO][len(SAMPLERS) :] == known
    assert all(SAMPLER_INFO[name].description for name in BASELINES)
    assert not {*BASELINES} & {*SAMPLERS}


@pytest.mark.parametrize("name", [*BASELINES, "kde", "kde-shared"])
def test_draws_repeat_with_their_generator_and_change_nothing(source: SamplingContext, name: str) -> None:
    before = source.states.zoo.weights.clone()
    first = draw_weights(name, 4, source, keyed_generator(0, name))
    assert first.shape == (4, 2464) and first.dtype == torch.float32 and first.isfinite().all()
    assert torch.equal(draw_weights(name, 4, source, keyed_generator(0, name)), first)
    assert not torch.equal(draw_weights(name, 4, source, keyed_generator(1, name)), first)
    assert torch.equal(source.states.zoo.weights, before)


def test_reconstructions_are_decoded_embeddings_of_the_best(source: SamplingContext, best: Tensor) -> None:
    decoded = source.rep.decode(source.rep.encode(best))
    for model in draw_weights("reconstruction", 6, source, keyed_generator(0, "reconstruction")):
        assert float((decoded - model).abs().amax(dim=1).min()) < 1e-5


def test_noise_is_at_the_distance_asked_for_from_one_of_the_best(source: SamplingContext, best: Tensor) -> None:
    moved = distances(draw_weights("noise", 5, source, keyed_generator(0, "noise")), best, source.rep.scale)
    assert moved.min(dim=1).values.tolist() == pytest.approx([0.3] * 5, rel=1e-4)


def test_moves_are_training_states_and_the_step_that_decoding_makes(source: SamplingContext, best: Tensor) -> None:
    """Given the donor, the step is that of decoded embeddings; without a share, nothing moves."""
    still = draw_weights("move", 6, dataclasses.replace(source, share=0.0), keyed_generator(0, "move"))
    donors = (still.unsqueeze(1) - best).abs().amax(dim=2).argmin(dim=1)
    assert torch.equal(still, best[donors])
    moved = draw_weights("move", 6, dataclasses.replace(source, share=0.25), keyed_generator(0, "move"))
    whole = draw_weights("move", 6, dataclasses.replace(source, share=1.0), keyed_generator(0, "move"))
    z = source.rep.encode(best)[donors]
    draws = keyed_generator(0, "move")
    torch.randint(len(best), (6,), generator=draws)  # the donors
    drawn = SAMPLERS["normal"](source.rep.encode(best), 6, 0.0, draws)
    assert_close(whole - best[donors], source.rep.decode(drawn) - source.rep.decode(z), atol=1e-4, rtol=0)
    halfway = source.rep.decode(0.75 * z + 0.25 * drawn) - source.rep.decode(z)
    assert_close(moved - best[donors], halfway, atol=1e-4, rtol=0)


def test_averages_are_means_of_two_of_the_best(source: SamplingContext, best: Tensor) -> None:
    means = torch.stack([(a + b) / 2 for a, b in itertools.combinations(best, 2)])
    for model in draw_weights("average", 8, source, keyed_generator(0, "average")):
        assert float((means - model).abs().amax(dim=1).min()) < 1e-6


def test_the_density_per_weight_draws_every_weight_on_its_own(source: SamplingContext, best: Tensor) -> None:
    narrow = dataclasses.replace(source, bandwidth=1e-9)
    drawn = draw_weights("kde-weights", 200, narrow, keyed_generator(0, "kde-weights"))
    donor = (drawn.unsqueeze(1) - best).abs().argmin(dim=1)  # (200, P): which state each weight is of
    share = torch.stack([(donor == i).double().mean() for i in range(len(best))])
    assert float((drawn - best.gather(0, donor)).abs().max()) < 1e-6
    assert float((share - 1 / len(best)).abs().max()) < 0.02
    agree = (donor[:, :-1] == donor[:, 1:]).double().mean()
    assert float(agree) < 3 / len(best)
    wider = dataclasses.replace(source, bandwidth=5.0)
    wide = draw_weights("kde-weights", 200, wider, keyed_generator(0, "kde-weights"))
    kernel = ((wide - best.gather(0, donor)) / source.rep.scale).std()
    assert float(kernel) == pytest.approx(5, rel=0.02)


def test_fresh_models_are_those_that_an_engine_begins_with(
    engine: TorchEngine, few_images: Images, learned: dict[str, Zoo]
) -> None:
    training = dataclasses.replace(learned["train"].hyperparameters(0), epochs=1)
    jobs = [Job(training=training, seed=seed) for seed in (3, 4)]
    began = [s.weights[0] for s in engine.train("cnn-s", few_images, jobs, metrics_on=()) if int(s.epochs[0]) == 0]
    assert torch.equal(initialize_models("cnn-s", "tanh", training.init, [3, 4]), torch.stack(began))


def test_pairs_are_of_different_models_and_none_comes_twice_before_all_have_come() -> None:
    models = ["a", "a", "b", "c", "c", "c"]
    states = torch.tensor([0, 1, 2, 4])
    expected = {(i, j) for i, j in itertools.product(states.tolist(), repeat=2) if models[i] != models[j]}
    first, second = draw_model_pairs(states, models, len(expected), keyed_generator(0, "pairs"))
    assert {*zip(first.tolist(), second.tolist(), strict=True)} == expected
    first, second = draw_model_pairs(states, models, 25, keyed_generator(0, "pairs"))
    assert len(first) == len(second) == 25
    assert {*zip(first.tolist(), second.tolist(), strict=True)} == expected
    first, second = draw_model_pairs(states, models, 25, keyed_generator(0, "pairs"), repeat=False)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == sorted((i, j) for i, j in expected if i < j)


def test_averages_of_one_model_are_refused() -> None:
    with pytest.raises(ModelZooError) as caught:
        draw_model_pairs(torch.tensor([0, 1]), ["a", "a", "b"], 1, keyed_generator(0, "pairs"))
    assert str(caught.value) == (
        "averages need states of two models, but the 2 states to draw from are of one; draw from a larger share of the "
        "states (top_fraction)"
    )


def test_what_cannot_be_drawn_is_told_in_one_line(source: SamplingContext, learned: dict[str, Zoo]) -> None:
    alone = SamplingContext(rep=source.rep)
    for name, n, given, message in (
        ("kde_principal", 1, source, "unknown sampler 'kde_principal'; did you mean 'kde-principal'?"),
        ("kde", 0, source, "n must be at least 1 and top_fraction in (0, 1]; got n 0, top_fraction 0.5"),
        (
            "noise",
            1,
            alone,
            "sampler noise draws from training weights, which a hyper-representation does not carry; name the "
            "dataset that it was learned from",
        ),
    ):
        with pytest.raises(ModelZooError) as caught:
            draw_weights(name, n, given, keyed_generator(0, name))
        assert str(caught.value) == message
    assert draw_weights("reconstruction", 1, alone, keyed_generator(0, "alone")).shape == (1, 2464)
    with pytest.raises(FormatError) as foreign:
        TrainingStates.from_representation(source.rep, learned["test"])
    assert str(foreign.value) == (
        "this hyper-representation learned from 28 states, but the dataset has 6; name the dataset and the recipe "
        "that it learned with"
    )
    other = dataclasses.replace(learned["train"], architecture=dataclasses.replace(source.rep.architecture, name="mlp"))
    with pytest.raises(FormatError) as foreign:
        TrainingStates.from_representation(source.rep, other)
    assert str(foreign.value) == "this hyper-representation is of cnn-s, the zoo holds models of mlp"


def test_noise_moves_a_model_by_exactly_the_distance_asked_for() -> None:
    draws = keyed_generator(0, "noise")
    weights, scale = torch.randn(5, 300, generator=draws), 0.1 + torch.rand(300, generator=draws)
    distance = torch.tensor([0.0, 0.01, 0.5, 2.0, 100.0])
    before = weights.clone()
    moved = add_noise(weights, scale, distance, draws)
    for i in range(5):
        steps = [(a - b) / s for a, b, s in zip(*(v.tolist() for v in (moved[i], weights[i], scale)), strict=True)]
        found = (sum(step**2 for step in steps) / 300) ** 0.5
        assert found == pytest.approx(float(distance[i]), rel=1e-4, abs=1e-7)
    assert torch.equal(weights, before)


def test_noise_goes_another_way_for_every_model() -> None:
    weights = torch.zeros(50, 1000)
    moved = add_noise(weights, torch.ones(1000), torch.ones(50), keyed_generator(0, "noise"))
    similar = torch.nn.functional.cosine_similarity(moved[0:1], moved[1:])
    assert float(similar.abs().max()) < 0.15
