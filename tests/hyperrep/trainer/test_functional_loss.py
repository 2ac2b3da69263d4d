"""What decoded networks are asked: the divergence is a loop over images, mixtures are what they are said to be."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from helpers.tiny_learning import learned, recipe
from torch import Tensor

from hyperrep.model import compute_layer_statistics
from hyperrep.trainer.functional_loss import MIXTURES, Predictor, draw_normal_mixtures, mix_as_ensemble, mix_logits
from hyperrep.trainer.initialize import create_representation
from hyperrep.trainer.loop import train_epochs
from hyperrep.trainer.losses import LOSSES, EpochGenerators, Learner, compute_losses, sum_losses
from modelzoo_datasets.engines import NetworkSpec, get_engine, make_batched_network
from modelzoo_datasets.errors import ModelZooError, RecipeError
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.seeds import keyed_generator


@pytest.fixture(scope="module")
def states(tiny_dataset: Path) -> Zoo:
    """28 training states."""
    return load_zoo(tiny_dataset, "seed", split="train", epochs=(1, 2))


@pytest.fixture(scope="module")
def unseen(tiny_dataset: Path) -> Zoo:
    """Six validation states."""
    return load_zoo(tiny_dataset, "seed", split="validation", epochs=(1, 2))


@pytest.fixture(scope="module")
def queries(images: Images) -> Predictor:
    """The 4,200 training images of the tiny zoo, and its networks by the kernel."""
    return Predictor(
        make_batched_network(get_engine("native", 1), "cnn-s", NetworkSpec("tanh")), images.inputs("train")
    )


def test_the_divergence_is_a_loop_over_models_and_images(states: Zoo, queries: Predictor) -> None:
    asked = queries.sample_images(5, keyed_generator(0, "asked"))
    wanted = queries.predict(states.weights[:3], asked)
    found = queries.compute_divergence(states.weights[3:6], asked, wanted)
    total = 0.0
    for i in range(3):
        said = states.model(3 + i)(asked).detach().softmax(dim=1)
        for b in range(5):
            total += sum(float(p) * math.log(float(p) / float(q)) for p, q in zip(wanted[i, b], said[b], strict=True))
    assert float(found) == pytest.approx(total / 15, rel=1e-4)


def test_a_network_does_not_diverge_from_itself(states: Zoo, queries: Predictor) -> None:
    asked = queries.sample_images(8, keyed_generator(0, "asked"))
    said = queries.predict(states.weights[:4], asked)
    assert float(queries.compute_divergence(states.weights[:4], asked, said)) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(said.sum(dim=-1), torch.ones(4, 8))


def test_any_image_is_asked_about_and_equal_draws_ask_the_same(queries: Predictor) -> None:
    few = dataclasses.replace(queries, inputs=queries.inputs[:3])
    drawn = few.sample_images(60, keyed_generator(0, "asked"))
    assert len(drawn.unique(dim=0)) == 3
    assert torch.equal(drawn, few.sample_images(60, keyed_generator(0, "asked")))
    assert not torch.equal(drawn, few.sample_images(60, keyed_generator(1, "asked")))


def test_gaussian_mixtures_have_mean_and_covariance_of_the_embeddings() -> None:
    draws = keyed_generator(0, "mixtures")
    z = torch.randn(40, 3, generator=draws) @ torch.tensor([[2.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.2]]) + 5
    found = torch.cat([draw_normal_mixtures(z, draws)[0] for _ in range(500)])
    torch.testing.assert_close(found.mean(dim=0), z.mean(dim=0), atol=0.06, rtol=0)
    covariance = z.mT.cov(correction=0)
    torch.testing.assert_close(found.mT.cov(), covariance, atol=0.05 * float(covariance.max()), rtol=0)


def test_a_mixture_is_the_mean_and_its_shares_of_every_deviation() -> None:
    z = torch.randn(6, 4, generator=keyed_generator(0, "z"))
    found, shares = draw_normal_mixtures(z, keyed_generator(0, "mixtures"))
    for i in range(6):
        wanted = z.mean(dim=0) + sum(shares[i, j] * (z[j] - z.mean(dim=0)) for j in range(6))
        torch.testing.assert_close(found[i], wanted)


def test_what_a_mixture_shall_say_is_a_distribution_and_for_one_model_alone_what_it_says() -> None:
    answers = torch.rand(4, 3, 5, generator=keyed_generator(0, "answers")).softmax(dim=-1)
    shares = torch.randn(4, 4, generator=keyed_generator(0, "shares"))
    for told in MIXTURES.values():
        torch.testing.assert_close(told(answers, shares).sum(dim=-1), torch.ones(4, 3))
    torch.testing.assert_close(mix_as_ensemble(answers, shares)[2], answers.mean(dim=0))
    # The share of a deviation is 1 for the model itself, so its own answers must come out; 0 gives the average model.
    torch.testing.assert_close(mix_logits(answers, torch.eye(4)), answers)
    average = answers.log().mean(dim=0).softmax(dim=-1)
    torch.testing.assert_close(mix_logits(answers, torch.zeros(4, 4))[0], average)


def test_every_loss_is_measured_and_weighted_as_the_recipe_says(states: Zoo, queries: Predictor) -> None:
    chosen = recipe(
        model={"pooled_dim": 72},
        functional_weight=2.0,
        mixed_functional_weight=3.0,
        statistics_weight=0.5,
        contrastive_weight=0.25,
        permute="none",
    )
    rep = create_representation(chosen, states)
    learner, how = Learner(rep, chosen, states.weights), chosen.learning
    aligned = rep.align(states.weights[:7])
    found = dict(
        zip(
            LOSSES,
            compute_losses(learner, aligned, how, queries, EpochGenerators.from_epoch(0, 1)).detach(),
            strict=True,
        )
    )
    asked = queries.sample_images(how.num_queries, EpochGenerators.from_epoch(0, 1).functional)
    decoded = rep._denormalize(rep._decode_normalized(rep._encode_normalized(rep._normalize(aligned)))).detach()
    wanted = queries.compute_divergence(decoded, asked, queries.predict(aligned, asked))
    torch.testing.assert_close(found["functional"], wanted)
    assert all(float(value) > 0 for value in found.values())
    total = sum_losses(torch.stack(list(found.values())), learner.loss_factors)
    parts = [0.75, 0.25, 2.0, 3.0, 0.5]
    assert float(total) == pytest.approx(sum(p * float(v) for p, v in zip(parts, found.values(), strict=True)))
    nothing = dataclasses.replace(
        how, functional_weight=0.0, mixed_functional_weight=0.0, contrastive_weight=0.0, reconstruct="first"
    )
    assert compute_losses(learner, aligned, nothing, None, EpochGenerators.from_epoch(0, 1))[1:4].tolist() == [0, 0, 0]


def test_learning_behaviour_lowers_it(states: Zoo, unseen: Zoo, queries: Predictor, tmp_path: Path) -> None:
    """Decoded training models say more of what the originals say, on images that were never asked about."""
    told = {}
    few = dataclasses.replace(queries, inputs=queries.inputs[:2000])
    asked = queries.inputs[2000:2200]
    for name, factor in (("with", 3.0), ("without", 0.0)):
        chosen = recipe(
            epochs=30,
            functional_weight=factor,
            contrastive_weight=0.0,
            reconstruct="first",
            permute="none",
            num_queries=32,
        )
        rep = create_representation(chosen, states)
        history = list(train_epochs(rep, states.weights, unseen.weights, chosen, tmp_path / name, few))
        aligned = rep.align(states.weights)
        with torch.no_grad():
            wanted = queries.predict(aligned, asked)
            told[name] = float(queries.compute_divergence(rep.decode(rep.encode(aligned)), asked, wanted))
        assert (history[-1].functional > 0) is (factor > 0)
    assert told["with"] < 0.9 * told["without"]


@pytest.mark.parametrize("mixed", [0.0, 1.0])
def test_image_gradients_are_counted_as_training_computes_them(
    states: Zoo, unseen: Zoo, queries: Predictor, tmp_path: Path, mixed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(epochs=2, batch_size=9, functional_weight=1.0, mixed_functional_weight=mixed, num_queries=5)
    compute, counts = Predictor.compute_divergence, list[int]()

    def count(self: Predictor, weights: Tensor, images: Tensor, target: Tensor) -> Tensor:
        counts.append(len(weights) * len(images))
        return compute(self, weights, images, target)

    monkeypatch.setattr(Predictor, "compute_divergence", count)
    rep = create_representation(chosen, states)
    list(train_epochs(rep, states.weights, unseen.weights, chosen, tmp_path, queries))
    assert chosen.learning.count_image_gradients(len(states)) == sum(counts) > 0


def test_a_recipe_that_asks_needs_images(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    told = "recipe tiny has a functional loss, which needs training images and an engine"
    with pytest.raises(ModelZooError, match=f"^{re.escape(told)}$"):
        learned(recipe(functional_weight=1.0), states, unseen, tmp_path)


def test_the_pooled_part_must_have_room_for_the_statistics(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    told = (
        "recipe tiny: [learning] statistics_weight needs [model] pooled_dim of at least 70, "
        "the number of statistics of cnn-s, got 69"
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(told)}$"):
        learned(recipe(model={"pooled_dim": 69}, statistics_weight=1.0), states, unseen, tmp_path)


def test_the_pooled_part_learns_the_statistics(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    chosen = recipe(
        model={"pooled_dim": 70},
        statistics_weight=1.0,
        contrastive_weight=0.0,
        reconstruct="first",
        permute="none",
        epochs=40,
    )
    rep, history = learned(chosen, states, unseen, tmp_path)
    assert history[-1].statistics < 0.5 * history[0].statistics
    found = compute_layer_statistics(states.weights, rep.layout).float()
    wanted = (found - found.mean(dim=0)) / found.std(dim=0).clamp_min(1e-6)
    z = rep.encode(states.weights)[:, -70:]
    assert float((z - wanted).square().mean()) == pytest.approx(history[-1].statistics, rel=0.2)
