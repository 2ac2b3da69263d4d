"""Parts of the latent vector: s(W) is in it as it is, and tokens are as small in it as one says."""

from pathlib import Path

import pytest
import torch
from helpers.tiny_learning import learned, recipe, ridge_r2
from torch import Tensor
from torch.testing import assert_close

from hyperrep import HyperRepresentation
from hyperrep.model import compute_layer_statistics
from hyperrep.trainer.initialize import create_representation
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.symmetry import permute_units, sample_permutations

WITH = {"statistics": True}


@pytest.fixture(scope="module")
def zoo(tiny_dataset: Path) -> dict[str, Zoo]:
    """The states of every split."""
    splits = ("train", "validation", "test")
    return {split: load_zoo(tiny_dataset, "seed", split=split, epochs=(1, 2)) for split in splits}


@pytest.fixture(scope="module")
def rep(zoo: dict[str, Zoo]) -> HyperRepresentation:
    """With s(W) in its latent vector."""
    return create_representation(recipe(model=WITH), zoo["train"])


def standardised(weights: Tensor, states: Tensor, rep: HyperRepresentation) -> Tensor:
    """s(W) in standard deviations of the training states."""
    known = compute_layer_statistics(states, rep.layout)
    return (compute_layer_statistics(weights, rep.layout) - known.mean(dim=0)) / known.std(dim=0)


def test_the_last_numbers_of_z_are_the_statistics_of_the_layers(rep: HyperRepresentation, zoo: dict[str, Zoo]) -> None:
    z = rep.encode(zoo["test"].weights)
    assert rep.latent_dim == z.shape[1] == rep.bottleneck.latent_dim + 70
    expected = standardised(zoo["test"].weights, zoo["train"].weights, rep).float()
    assert_close(z[:, -70:], expected, atol=1e-3, rtol=1e-3)  # weights went through normalising and back


def test_they_do_not_depend_on_the_order_of_units(rep: HyperRepresentation, zoo: dict[str, Zoo]) -> None:
    weights = zoo["test"].weights
    orders = sample_permutations(rep.architecture.symmetry, len(weights), keyed_generator(0, "orders"))
    found = rep._encode_normalized(rep._normalize(permute_units(weights, rep.architecture.symmetry, orders)))
    assert_close(found[:, -70:], rep._encode_normalized(rep._normalize(weights))[:, -70:], atol=1e-3, rtol=1e-3)


def test_the_decoder_learns_to_use_them(zoo: dict[str, Zoo], tmp_path: Path) -> None:
    chosen = recipe(model=WITH, contrastive_weight=0.0, reconstruct="first", permute="none")
    rep, _ = learned(chosen, zoo["train"], zoo["validation"], tmp_path)
    z = rep.embeddings[:1].repeat(2, 1)
    z[1, -70:] += 1
    decoded = rep.decode(z)
    assert not torch.allclose(decoded[0], decoded[1], atol=1e-4)


def test_a_saved_one_has_the_same_statistics(rep: HyperRepresentation, zoo: dict[str, Zoo], tmp_path: Path) -> None:
    rep.save_pretrained(tmp_path)
    back = HyperRepresentation.from_pretrained(tmp_path, strict=True)
    assert torch.equal(back.encode(zoo["test"].weights), rep.encode(zoo["test"].weights))


def test_a_unit_changes_how_z_is_written_and_nothing_else(zoo: dict[str, Zoo]) -> None:
    small, plain = (create_representation(recipe(model={**WITH, "token_scale": u}), zoo["train"]) for u in (0.01, 1.0))
    tokens = plain.bottleneck.latent_dim
    one, other = (rep.encode(zoo["test"].weights) for rep in (small, plain))
    assert_close(one[:, :tokens], 0.01 * other[:, :tokens])
    assert torch.equal(one[:, tokens:], other[:, tokens:])
    assert_close(small.decode(one), plain.decode(other), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["uniform", "kde", "normal"])
def test_samples_do_not_depend_on_the_unit(sampler: str, zoo: dict[str, Zoo]) -> None:
    drawn = []
    for unit in (0.01, 1.0):
        rep = create_representation(recipe(model={**WITH, "token_scale": unit}), zoo["train"])
        rep.embeddings.copy_(rep.encode(zoo["train"].weights))
        drawn.append(rep.sample(3, sampler=sampler, bandwidth=0.1, generator=keyed_generator(0, "samples")))
    assert_close(*drawn, atol=1e-4, rtol=1e-3)


def test_where_tokens_are_small_a_probe_reads_statistics_first(zoo: dict[str, Zoo]) -> None:
    """A target that is one of the statistics, among many numbers that say nothing of it."""
    found = {}
    for unit in (1e-4, 1.0):
        rep = create_representation(recipe(model={**WITH, "token_scale": unit}), zoo["train"])
        z = {split: rep.encode(part.weights) for split, part in zoo.items()}
        found[unit] = ridge_r2(z, {split: embedded[:, -1].clone() for split, embedded in z.items()})
    assert found[1e-4] > found[1.0] and found[1e-4] > 0.9
