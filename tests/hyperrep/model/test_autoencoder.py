"""The auto-encoder: tokens, the linear path it starts from, alignment inside `encode`, saving, sampling, errors."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyperrep import HyperRepresentation, RepresentationConfig
from modelzoo_datasets.architectures import build_module, cnn_s
from modelzoo_datasets.errors import ArgumentError, FormatError, ModelZooError
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.symmetry import permute_units, sample_permutations

LAYOUT = cnn_s.layout
STATES = 12


def representation(bottleneck: str = "tokens", latent: float = 0.4) -> HyperRepresentation:
    """A small one that has seen states near one random reference."""
    config = RepresentationConfig(
        architecture="cnn-s",
        activation="tanh",
        dropout=0.0,
        width=16,
        blocks=1,
        heads=2,
        feedforward=32,
        bottleneck=bottleneck,
        latent=latent,
        num_states=STATES,
    )
    rep = HyperRepresentation(config)
    rep.init_parameters(keyed_generator(0, "initial"))
    weights = models()
    rep.reference.copy_(reference())
    rep.mean.copy_(weights.mean(dim=0))
    rep.scale.copy_(0.5 + torch.rand(LAYOUT.size, generator=keyed_generator(0, "scale")))
    if rep.linear_path is not None:
        rep.linear_path.fit(LAYOUT.to_tokens(rep._normalize(weights)))
    rep.embeddings.copy_(rep.encode(weights))
    rep.accuracy.copy_(torch.linspace(0.1, 0.9, STATES))
    return rep.eval()


def reference() -> Tensor:
    """Weights (P,) of a network."""
    return torch.randn(LAYOUT.size, generator=keyed_generator(0, "reference"))


def models() -> Tensor:
    """Weights (STATES, P) near the reference, so that the best alignment is the identity."""
    noise = torch.randn(STATES, LAYOUT.size, generator=keyed_generator(0, "models"))
    return reference() + 0.05 * noise


def slow_tokens(vector: Tensor) -> list[Tensor]:
    """Per layer (units, width): one row per output channel or neuron, its weights and then its bias."""
    state = {slot.name: vector[slot.start : slot.stop].view(slot.shape) for slot in LAYOUT.slots}
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    layers = []
    for name in names:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        layers.append(torch.stack([torch.cat([weight[u].flatten(), bias[u : u + 1]]) for u in range(len(bias))]))
    return layers


def test_a_token_is_the_incoming_weights_of_one_unit_and_its_bias() -> None:
    weights = models()
    for layer, rows in enumerate(LAYOUT.to_tokens(weights)):
        for model, vector in enumerate(weights):
            assert torch.equal(rows[model], slow_tokens(vector)[layer])


def test_weights_made_of_tokens_are_the_weights_to_the_bit() -> None:
    weights = models()
    assert torch.equal(LAYOUT.from_tokens(LAYOUT.to_tokens(weights)), weights)


@pytest.mark.parametrize(("bottleneck", "latent"), [("tokens", 0.4), ("dense", 30), ("tokens", 1e-6)])
def test_weights_become_latent_vectors_and_latent_vectors_weights(bottleneck: str, latent: float) -> None:
    rep = representation(bottleneck, latent)
    per_token = [max(1, round(latent * len(rows[0]))) for rows in slow_tokens(reference())]
    units = [len(rows) for rows in slow_tokens(reference())]
    tokens = sum(part * unit for part, unit in zip(per_token, units, strict=True))
    expected = latent if bottleneck == "dense" else tokens
    assert rep.latent_dim == expected
    z = rep.encode(models())
    assert z.shape == rep.encode(models()).shape == rep.embeddings.shape == (STATES, expected)
    assert rep(models()).shape == rep.decode(z).shape == (STATES, LAYOUT.size)


def test_the_start_is_the_best_linear_reconstruction_of_each_layers_tokens() -> None:
    rep, weights = representation(), models()
    normal = (weights - weights.mean(dim=0)) / rep.scale
    expected = torch.empty_like(normal)
    for number, layer in enumerate(LAYOUT.layers):
        rows = torch.cat([slow_tokens(vector)[number] for vector in normal]).double()
        kept = max(1, round(0.4 * rows.shape[1]))
        _, _, axes = torch.linalg.svd(rows, full_matrices=False)
        projected = (rows @ axes[:kept].T @ axes[:kept]).float().view(STATES, layer.units, -1)
        assert layer.bias is not None
        expected[:, layer.weight.start : layer.weight.stop] = projected[:, :, :-1].flatten(1)
        expected[:, layer.bias.start : layer.bias.stop] = projected[:, :, -1]
    expected = expected * rep.scale + weights.mean(dim=0)
    torch.testing.assert_close(rep.decode(rep.encode(weights)), expected, rtol=1e-4, atol=1e-5)
    assert (expected - weights).abs().max() > 0.05  # so that it is not the identity


def test_a_dense_bottleneck_has_no_linear_path_and_starts_from_random_maps() -> None:
    rep = representation("dense", 30)
    assert rep.linear_path is None
    drawn = torch.cat([tensor.flatten() for tensor in rep.debedders.state_dict().values() if tensor.ndim > 1])
    assert abs(float(drawn.std()) - 16**-0.5) < 0.02  # N(0, 1 / fan_in) of width 16
    assert float(rep.encode(models()).std(dim=0).min()) > 0


@pytest.mark.parametrize("bottleneck", ["tokens", "dense"])
def test_initial_parameters_depend_on_the_generator_alone(bottleneck: str) -> None:
    rep = representation(bottleneck, 10 if bottleneck == "dense" else 0.4)
    before = {name: parameter.clone() for name, parameter in rep.named_parameters()}
    torch.rand(7)  # the global generator has no say
    rep.init_parameters(keyed_generator(0, "initial"))
    drawn = {n: p for n, p in rep.named_parameters() if not n.startswith("linear_path")}
    assert all(torch.equal(p, before[n]) for n, p in drawn.items())
    rep.init_parameters(keyed_generator(1, "initial"))
    assert not torch.equal(rep.encoder_positions, before["encoder_positions"])


def test_normalising_is_undone_by_denormalising() -> None:
    rep, weights = representation(), models()
    assert not torch.allclose(rep._normalize(weights), weights, atol=0.1)
    torch.testing.assert_close(rep._denormalize(rep._normalize(weights)), weights)


def test_a_permuted_copy_of_a_model_embeds_to_the_same_vector() -> None:
    rep, weights = representation(), models()
    draws = keyed_generator(0, "copies")
    copies = permute_units(weights, cnn_s.symmetry, sample_permutations(cnn_s.symmetry, STATES, draws))
    assert not torch.equal(copies, weights)
    assert torch.equal(rep.align(copies), weights)
    assert torch.equal(rep.encode(copies), rep.encode(weights))
    rep.config = dataclasses.replace(rep.config, aligned=False)
    assert torch.equal(rep.align(copies), copies)
    assert not torch.allclose(rep.encode(copies), rep.encode(weights), atol=0.1)


def test_alignment_moves_units_but_not_functions() -> None:
    rep = representation()
    weights = torch.randn(4, LAYOUT.size, generator=keyed_generator(0, "far")) * 0.3
    moved = rep.align(weights)
    inputs = torch.randn(5, 1, 28, 28, generator=keyed_generator(0, "inputs"))
    for before, after in zip(weights, moved, strict=True):
        assert not torch.equal(before, after)
        runs = [build_module(cnn_s, w, activation="tanh")(inputs) for w in (before, after)]
        torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-4)


def test_signs_are_aligned_only_where_the_recipe_says_so() -> None:
    rep, weights = representation(), models()
    group = next(group for group in cnn_s.symmetry if group.signed)
    negated = weights.clone()
    for place in group.axes:
        place.view(negated)[:, :, 0] *= -1
    assert not torch.equal(rep.align(negated), weights)
    rep.config = dataclasses.replace(rep.config, signs=True)
    assert torch.equal(rep.align(negated), weights)


def test_decoded_weights_run_as_a_network() -> None:
    rep = representation()
    inputs = torch.randn(5, 1, 28, 28, generator=keyed_generator(0, "inputs"))
    for vector in rep.decode(rep.encode(models()[:2])):
        logits = build_module(cnn_s, vector, activation="tanh")(inputs)
        assert logits.shape == (5, 10)
        assert logits.isfinite().all()


def test_embedding_and_decoding_write_into_nothing_they_are_given() -> None:
    rep = representation()
    draws = keyed_generator(0, "copies")
    orders = sample_permutations(cnn_s.symmetry, STATES, draws)
    weights = permute_units(models(), cnn_s.symmetry, orders)
    before = weights.clone()
    z = rep.encode(weights)
    z_before = z.clone()
    rep.decode(z)
    assert torch.equal(weights, before)
    assert torch.equal(z, z_before)


def test_a_seed_is_as_good_as_a_generator() -> None:
    rep = representation()
    expected = rep.sample(3, sampler="normal", top_fraction=0.3, generator=keyed_generator(5, "samples", "normal"))
    assert rep.sample(3, seed=5).equal(expected)
    assert rep.sample(3).equal(rep.sample(3, seed=0)) and not rep.sample(3).equal(expected)
    with pytest.raises(ArgumentError) as caught:
        rep.sample(3, seed=5, generator=keyed_generator(5, "samples"))
    assert str(caught.value) == "pass generator or seed, not both; got a generator and seed 5"
    first, second, third = (representation() for _ in range(3))
    first.init_parameters(keyed_generator(4, "auto-encoder"))
    second.init_parameters(seed=4)
    third.init_parameters(seed=5)
    states = [one.encoder_positions for one in (first, second, third)]
    assert states[0].equal(states[1]) and not states[0].equal(states[2])


def test_embeddings_and_samples_can_be_learned_from() -> None:
    rep = representation()
    z, samples = rep.encode(models()), rep.sample(2, generator=keyed_generator(0, "s"))
    for given in (z, samples, rep.decode(z)):
        assert not given.requires_grad
        reader = torch.nn.Linear(given.shape[1], 1)
        reader(given).square().sum().backward()
        weight = reader.weight.grad
        assert weight is not None
        torch.testing.assert_close(weight[0], (2 * reader(given).detach() * given).sum(dim=0))


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", ["kde", "normal", "gan"])
def test_samples_are_drawn_alike_on_a_gpu(sampler: str) -> None:
    here, there = representation(), representation().to("cuda")
    drawn = [rep.sample(5, sampler=sampler, generator=keyed_generator(0, "s")).cpu() for rep in (here, there)]
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-4, rtol=1e-4)


def test_batches_are_embedded_as_single_models_are_and_the_mode_is_kept() -> None:
    rep, weights = representation(), models()
    many = weights.repeat(25, 1)  # 300 rows: more than one inner batch
    together = rep.train().encode(many)
    assert rep.training
    one_by_one = torch.cat([rep.encode(vector.unsqueeze(0)) for vector in weights])
    torch.testing.assert_close(together, one_by_one.repeat(25, 1))


@pytest.mark.parametrize(("bottleneck", "latent"), [("tokens", 0.4), ("dense", 30)])
def test_a_saved_representation_is_loaded_to_the_bit(bottleneck: str, latent: float, tmp_path: Path) -> None:
    rep = representation(bottleneck, latent)
    rep.save_pretrained(tmp_path / "saved")
    back = HyperRepresentation.from_pretrained(tmp_path / "saved", strict=True).eval()
    state, found = rep.state_dict(), back.state_dict()
    buffers = {"mean", "scale", "reference", "embeddings", "accuracy"}
    assert buffers < set(state) == set(found)
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert torch.equal(back.encode(models()), rep.encode(models()))
    assert torch.equal(back.decode(rep.embeddings), rep.decode(rep.embeddings))


@pytest.mark.parametrize("sampler", ["uniform", "kde", "kde-principal", "kde-shared", "normal", "interpolation"])
def test_equal_generators_give_equal_samples_and_others_give_others(sampler: str) -> None:
    rep = representation()
    a, b, c = (rep.sample(5, sampler=sampler, generator=keyed_generator(s, "s")) for s in (0, 0, 1))
    assert a.shape == (5, LAYOUT.size)
    assert torch.equal(a, b)
    assert not torch.isclose(a, c).all(dim=1).any()
    assert len(a.unique(dim=0)) == 5


def test_samples_of_the_best_states_are_drawn_from_those_alone() -> None:
    rep = representation()
    draws = keyed_generator(0, "samples")
    best = rep.sample(40, sampler="kde-shared", top_fraction=0.25, bandwidth=0.0, generator=draws)
    decoded = rep.decode(rep.embeddings)
    donors = torch.cdist(best, decoded).argmin(dim=1)
    torch.testing.assert_close(best, decoded[donors])
    assert set(donors.tolist()) == {9, 10, 11}  # accuracy grows with the index


def test_weights_of_another_width_are_refused() -> None:
    told = "this hyper-representation is of cnn-s: expected (N, 2464), 2464 weights per model, got (3, 2463)"
    with pytest.raises(FormatError, match=f"^{re.escape(told)}$"):
        representation().encode(torch.zeros(3, LAYOUT.size - 1))


def test_a_single_vector_is_refused_as_a_population() -> None:
    told = "expected (N, 2464), 2464 weights per model, got (2464,)"
    with pytest.raises(FormatError, match=re.escape(told)):
        representation().encode(torch.zeros(LAYOUT.size))


def test_latent_vectors_of_another_length_are_refused() -> None:
    rep = representation("dense", 30)
    told = "this hyper-representation is of cnn-s: expected (N, 30), 30 latent dimensions, got (2, 29)"
    with pytest.raises(FormatError, match=f"^{re.escape(told)}$"):
        rep.decode(torch.zeros(2, 29))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_models_that_are_not_finite_are_counted_and_refused(broken: float) -> None:
    weights = models()
    weights[1, 5] = weights[4, 7] = weights[4, 8] = broken
    with pytest.raises(
        FormatError,
        match=r"^expected finite weights per model, got NaN or infinity in 2 of 12 rows; leave these rows out$",
    ):
        representation().encode(weights)


def test_an_unknown_sampler_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelZooError, match=r"^unknown sampler 'kd'; did you mean 'kde'\?$"):
        representation().sample(1, sampler="kd", generator=keyed_generator(0, "s"))


@pytest.mark.parametrize(("n", "quality"), [(0, 0.5), (3, 0.0), (3, 1.5), (-1, 1.0)])
def test_numbers_out_of_range_are_refused_by_the_sampler(n: int, quality: float) -> None:
    told = f"expected n >= 1 and 0 < top_fraction <= 1, got n {n}, top_fraction {quality}"
    with pytest.raises(ModelZooError, match=f"^{re.escape(told)}$"):
        representation().sample(n, top_fraction=quality, generator=keyed_generator(0, "s"))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_network_has_the_weights_of_its_row_with_and_without_dropout(dropout: float) -> None:
    sizes: dict[str, Any] = {"width": 16, "blocks": 1, "heads": 2, "feedforward": 32, "bottleneck": "dense"}
    config = RepresentationConfig(
        architecture="cnn-s", activation="tanh", dropout=dropout, num_states=1, latent=8, **sizes
    )
    weights = torch.randn(2, 2464, generator=torch.Generator().manual_seed(0))
    network = HyperRepresentation(config).model(weights[1])
    assert torch.equal(nn.utils.parameters_to_vector(network.parameters()), weights[1])
    assert not network.training
