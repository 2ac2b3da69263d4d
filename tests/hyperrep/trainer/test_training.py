"""Learning: what is fitted to the training states, what the losses measure, and killed runs that go on."""

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_learning import learned, recipe
from torch import Tensor

from hyperrep import HyperRepresentation
from hyperrep.recipe import CHOICES
from hyperrep.trainer.checkpoints import EpochMetrics
from hyperrep.trainer.initialize import create_representation
from hyperrep.trainer.loop import _CHECKPOINT_EVERY, measure_reconstruction, train_epochs
from modelzoo_datasets.errors import FormatError, ModelZooError
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights import Alignment, compute_layer_scales
from modelzoo_datasets.weights.symmetry import permute_units, sample_permutations


@pytest.fixture(scope="module")
def states(tiny_dataset: Path) -> Zoo:
    """28 training states: 14 models after epochs 1 and 2."""
    return load_zoo(tiny_dataset, "seed", split="train", epochs=(1, 2))


@pytest.fixture(scope="module")
def unseen(tiny_dataset: Path) -> Zoo:
    """Six validation states."""
    return load_zoo(tiny_dataset, "seed", split="validation", epochs=(1, 2))


def layer_slices(rep: HyperRepresentation) -> list[slice]:
    """Where each layer's weights and biases lie; they are neighbours in this layout."""
    return [slice(layer.weight.start, layer.bias.stop) for layer in rep.layout.layers if layer.bias]


def test_every_epoch_is_told_and_the_error_falls(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    chosen = recipe(epochs=9)
    rep, history = learned(chosen, states, unseen, tmp_path)
    assert [row.epoch for row in history] == list(range(1, 10))
    assert all(math.isfinite(value) for row in history for value in dataclasses.astuple(row))
    assert history[-1].reconstruction < history[0].reconstruction
    assert history[-1].contrastive < history[0].contrastive
    assert history[-1].validation_r2 == measure_reconstruction(rep, rep.align(unseen.weights)).total


def test_learning_ends_with_the_embeddings_of_the_training_states(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    rep, _ = learned(recipe(), states, unseen, tmp_path)
    assert torch.equal(rep.embeddings, rep.encode(states.weights))
    assert rep.embeddings.std(dim=0).gt(0).any()
    np.testing.assert_array_equal(rep.accuracy.numpy(), states.table["val_acc"].to_numpy(np.float32))


def test_equal_recipes_give_equal_bits_and_another_seed_gives_others(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    before = states.weights.clone()
    found = [learned(recipe(seed=seed), states, unseen, tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))]
    (a, history), (b, again), (c, _) = found
    assert history == again
    assert all(torch.equal(a.state_dict()[name], tensor) for name, tensor in b.state_dict().items())
    assert not torch.equal(a.encoder_positions, c.encoder_positions)
    assert torch.equal(states.weights, before)


def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_bits(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    chosen = recipe(epochs=_CHECKPOINT_EVERY + 2)
    whole, history = learned(chosen, states, unseen, tmp_path / "whole")
    killed = create_representation(chosen, states)
    steps = train_epochs(killed, states.weights, unseen.weights, chosen, tmp_path / "killed")
    assert list(itertools.islice(steps, _CHECKPOINT_EVERY + 1)) == history[:-1]
    del steps
    resumed = create_representation(chosen, states)
    steps = train_epochs(resumed, states.weights, unseen.weights, chosen, tmp_path / "killed")
    assert list(itertools.islice(steps, _CHECKPOINT_EVERY)) == history[:-2]
    at_checkpoint = resumed.encoder_positions.clone()
    assert not torch.equal(at_checkpoint, create_representation(chosen, states).encoder_positions)
    assert list(steps) == history[-2:]
    assert not torch.equal(at_checkpoint, resumed.encoder_positions)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_metrics_that_got_ahead_of_their_checkpoint_are_forgotten(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    chosen = recipe(epochs=_CHECKPOINT_EVERY + 1)
    _, history = learned(chosen, states, unseen, tmp_path)
    path = tmp_path / "checkpoint.json"
    rows = json.loads(path.read_text())
    assert len(rows) == _CHECKPOINT_EVERY
    ahead = {"epoch": 11, "reconstruction": 7.0, "contrast": 7.0, "behaviour": 7.0}
    ahead |= {"mixed": 7.0, "statistics": 7.0, "validation_r2": 7.0}
    path.write_text(json.dumps([*rows, ahead]))
    assert learned(chosen, states, unseen, tmp_path)[1] == history


def test_fewer_states_than_a_batch_are_refused(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    told = (
        "expected at least one batch of 29 training states, got 28; take more epochs or models, or a smaller batch_size"
    )
    with pytest.raises(ModelZooError, match=f"^{re.escape(told)}$"):
        learned(recipe(batch_size=29), states, unseen, tmp_path)


def measured(states: Zoo, unseen: Zoo, folder: Path, **learning: Any) -> tuple[HyperRepresentation, EpochMetrics]:
    """One epoch of one batch with learning rate 0: what the losses say of the untrained hyper-representation."""
    chosen = recipe(epochs=1, batch_size=len(states), lr=0.0, **learning)
    rep, history = learned(chosen, states, unseen, folder)
    return rep, history[0]


@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize("layer_weights", [(), (1, 1, 2, 1, 3)])
def test_the_error_that_is_told_is_a_loop_over_layers(
    states: Zoo, unseen: Zoo, tmp_path: Path, layerwise: bool, layer_weights: tuple[int, ...]
) -> None:
    how: dict[str, Any] = {"layerwise": layerwise, "layer_weights": layer_weights}
    rep, told = measured(states, unseen, tmp_path, permute="none", **how)
    aligned = rep.align(states.weights)
    errors = (rep.decode(rep.encode(aligned)) - aligned).double()
    total = 0.0
    for number, place in enumerate(layer_slices(rep)):
        deviation = states.weights[:, place].double().std() if layerwise else 1.0
        factor = layer_weights[number] if layer_weights else 1
        total += factor * float((errors[:, place] / deviation).square().sum())
    assert told.reconstruction == pytest.approx(total / errors.numel(), rel=1e-4)


def test_which_views_are_permuted_and_decoded_is_the_recipes_choice(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    error = {}
    for permuted, decoded in itertools.product(CHOICES["permute"], CHOICES["reconstruct"]):
        folder = tmp_path / f"{permuted}-{decoded}"
        _, told = measured(states, unseen, folder, permute=permuted, reconstruct=decoded)
        error[permuted, decoded] = told.reconstruction
    plain = error["none", "first"]
    # The start is fitted to aligned states, so it reconstructs permuted ones worse.
    assert error["none", "both"] == pytest.approx(plain, rel=1e-4)
    assert error["second", "first"] == pytest.approx(plain, rel=1e-4)
    assert error["both", "first"] > 1.05 * plain
    assert error["both", "both"] == pytest.approx(error["both", "first"], rel=0.1)
    half_way = (plain + error["both", "both"]) / 2
    assert error["second", "both"] == pytest.approx(half_way, rel=0.05)


def test_without_augmentation_both_views_are_the_same_and_permuting_one_parts_them(
    states: Zoo, unseen: Zoo, tmp_path: Path
) -> None:
    contrast = {
        name: measured(states, unseen, tmp_path / name, permute=name)[1].contrastive for name in CHOICES["permute"]
    }
    assert contrast["none"] < contrast["second"]
    assert contrast["none"] < contrast["both"]


@pytest.mark.parametrize(("name", "value"), [("noise_std", 0.5), ("erase_prob", 1.0), ("mixup", 1.0)])
def test_every_augmentation_changes_what_is_learned_from(
    states: Zoo, unseen: Zoo, tmp_path: Path, name: str, value: float
) -> None:
    _, plain = measured(states, unseen, tmp_path / "plain", permute="none")
    _, augmented = measured(states, unseen, tmp_path / name, permute="none", **{name: value})
    assert augmented.reconstruction != pytest.approx(plain.reconstruction, rel=0.01)


@pytest.mark.parametrize("bottleneck", ["tokens", "dense"])
@pytest.mark.parametrize(("align", "center"), [(True, True), (False, False)])
def test_all_kinds_of_representations_learn(
    states: Zoo, unseen: Zoo, tmp_path: Path, bottleneck: str, align: bool, center: bool
) -> None:
    latent = 12 if bottleneck == "dense" else 0.2
    model = {"bottleneck": bottleneck, "latent": latent, "center": center}
    chosen = recipe(data={"align": align}, model=model, permute="none", lr=3e-3, epochs=6)
    rep, history = learned(chosen, states, unseen, tmp_path)
    assert history[-1].reconstruction < history[0].reconstruction
    shifted = rep._normalize(rep.mean.unsqueeze(0))
    assert bool((shifted == 0).all()) is center
    assert bool(rep.reference.any()) is align


def test_scales_are_numpys_deviation_of_every_layer(states: Zoo) -> None:
    rep = create_representation(recipe(), states)
    weights = states.weights.clone()
    constant = layer_slices(rep)[2]
    weights[:, constant] = 0.25
    found = compute_layer_scales(weights, rep.layout)
    for number, place in enumerate(layer_slices(rep)):
        deviation = float(np.std(weights[:, place].double().numpy(), ddof=1))
        expected = torch.full((place.stop - place.start,), 1e-4 if number == 2 else deviation)
        torch.testing.assert_close(found[place], expected, rtol=1e-4, atol=0)


def test_a_new_representation_is_fitted_to_aligned_training_states(states: Zoo) -> None:
    rep = create_representation(recipe(), states)
    assert torch.equal(rep.mean, rep.align(states.weights).mean(dim=0))
    assert torch.equal(rep.scale, compute_layer_scales(states.weights, rep.layout))
    assert not torch.allclose(rep.mean, states.weights.mean(dim=0), atol=1e-3)


def spread(weights: Tensor, scale: Tensor) -> float:
    """Mean squared distance of models from their mean."""
    return float(((weights - weights.mean(dim=0)) / scale).square().mean())


def test_alignment_brings_the_training_states_closer_to_each_other(states: Zoo) -> None:
    rep = create_representation(recipe(), states)
    before = states.weights.clone()
    aligned = Alignment.fit(states.weights, rep.layout, rep.symmetry).align(states.weights)
    assert spread(aligned, rep.scale) < 0.98 * spread(states.weights, rep.scale)
    sorted_before, sorted_after = (w.sort(dim=1).values for w in (states.weights, aligned))
    assert torch.equal(sorted_before, sorted_after)  # permuted, nothing else
    assert torch.equal(states.weights, before)


def test_permuted_copies_of_one_model_become_that_model(states: Zoo) -> None:
    rep = create_representation(recipe(), states)
    model = states.weights[:1].repeat(9, 1)
    symmetry = rep.architecture.symmetry
    orders = sample_permutations(symmetry, 9, keyed_generator(0, "copies"))
    copies = permute_units(model, symmetry, orders)
    assert len(copies.unique(dim=0)) == 9
    alignment = Alignment.fit(copies, rep.layout, rep.symmetry)
    aligned = alignment.align(copies)
    assert len(aligned.unique(dim=0)) == 1
    torch.testing.assert_close(alignment.reference, aligned[0])


def test_r2_of_reconstruction_is_a_loop_over_layers(states: Zoo, unseen: Zoo, tmp_path: Path) -> None:
    rep, _ = learned(recipe(), states, unseen, tmp_path)
    aligned = rep.align(unseen.weights)
    decoded = rep.decode(rep.encode(aligned))
    found = measure_reconstruction(rep, aligned)
    errors, baselines = [], []
    for place in layer_slices(rep):
        deviation = states.weights[:, place].double().std()
        errors.append(float(((decoded - aligned)[:, place].double() / deviation).square().sum()))
        baselines.append(float(((aligned - rep.mean)[:, place].double() / deviation).square().sum()))
    parts = [1 - error / baseline for error, baseline in zip(errors, baselines, strict=True)]
    assert found.layers == pytest.approx(parts, abs=1e-4)
    assert found.total == pytest.approx(1 - sum(errors) / sum(baselines), abs=1e-4)


def test_predicting_the_training_mean_has_an_r2_of_0(states: Zoo) -> None:
    rep = create_representation(recipe(), states)
    assert rep.linear_path is not None
    for up in rep.linear_path.up:
        torch.nn.init.zeros_(up)
    found = measure_reconstruction(rep, rep.align(states.weights))
    assert (found.total, *found.layers) == pytest.approx([0] * 6, abs=1e-6)


def test_a_latent_vector_as_long_as_the_weights_reconstructs_them(states: Zoo) -> None:
    rep = create_representation(recipe(model={"latent": 1.0}), states)
    assert rep.latent_dim == rep.layout.size
    found = measure_reconstruction(rep, rep.align(states.weights))
    assert (found.total, *found.layers) == pytest.approx([1] * 6, abs=1e-5)


@pytest.mark.parametrize("align", [True, False])
def test_states_that_are_not_finite_are_counted_and_refused(states: Zoo, align: bool) -> None:
    weights = states.weights.clone()
    weights[3, 17] = float("nan")
    broken = dataclasses.replace(states, weights=weights)
    told = f"expected finite weights per model, got NaN or infinity in 1 of {len(states)} rows; leave these rows out"
    with pytest.raises(FormatError, match=f"^{told}$"):
        create_representation(recipe(data={"align": align}), broken)


@pytest.mark.parametrize(("activation", "named"), [("relu", "relu"), ("first relu", "relu, tanh")])
def test_signs_are_only_aligned_where_all_activations_are_odd(states: Zoo, activation: str, named: str) -> None:
    table = states.table.copy()
    rows = table.index if activation == "relu" else table.index[:1]
    table.loc[rows, "activation"] = "relu"
    told = f"recipe tiny: signs = true needs networks with tanh alone, the zoo has {named}"
    with pytest.raises(FormatError, match=f"^{re.escape(told)}$"):
        create_representation(recipe(data={"signs": True}), dataclasses.replace(states, table=table))
    assert create_representation(recipe(data={"signs": True}), states).config.signs


def test_a_population_trained_in_several_ways_is_refused(tiny_dataset: Path) -> None:
    mixed = load_zoo(tiny_dataset, "hyp", epochs=(1,))
    with pytest.raises(FormatError) as caught:
        create_representation(recipe(), mixed)
    assert str(caught.value).endswith(
        "needs models that were trained alike; config seed has several values of activation"
    )


def test_r2_is_against_the_training_mean_whether_it_is_subtracted_or_not(states: Zoo) -> None:
    for center in (True, False):
        rep = create_representation(recipe(model={"center": center}), states)
        aligned = rep.align(states.weights)
        error = ((rep.decode(rep.encode(aligned)) - aligned) / rep.scale).square().sum()
        baseline = ((aligned - aligned.mean(dim=0)) / rep.scale).square().sum()
        assert measure_reconstruction(rep, aligned).total == pytest.approx(float(1 - error / baseline), rel=1e-3)
