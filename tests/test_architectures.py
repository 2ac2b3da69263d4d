"""Architectures: the published modules, initialised without touching any global generator."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modelzoo_datasets.architectures import (
    architecture_names,
    get_architecture,
    initialise,
    module_from_vector,
)
from modelzoo_datasets.architectures.modules import SeededDropout, seed_dropout
from modelzoo_datasets.architectures.registry import register
from modelzoo_datasets.errors import RecipeError
from modelzoo_datasets.recipes import ACTIVATIONS, INITS
from modelzoo_datasets.seeds import generator

ACTIVATION_OF = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}

every_architecture = pytest.mark.parametrize("name", architecture_names())


def global_randomness() -> tuple[bytes, bytes, object]:
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 (reads what must not change)
    return torch.get_rng_state().numpy().tobytes(), repr(state).encode(), random.getstate()


@pytest.mark.parametrize(("dropout", "numbers"), [(0.0, (0, 3, 6, 9, 11)), (0.2, (0, 4, 8, 11, 14))])
def test_cnn_s_has_2464_parameters_under_the_published_keys(dropout: float, numbers: tuple[int, ...]) -> None:
    module = get_architecture("cnn-s").module("tanh", dropout)
    assert sum(p.numel() for p in module.parameters()) == 2464
    expected = [f"module_list.{n}.{kind}" for n in numbers for kind in ("weight", "bias")]
    assert list(module.state_dict()) == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_layers_of_cnn_s_come_as_convolution_pool_activation_dropout(activation: str) -> None:
    active = ACTIVATION_OF[activation]
    layers = [type(m) for m in get_architecture("cnn-s").module(activation, 0.5).module_list]
    assert layers == [
        *(nn.Conv2d, nn.MaxPool2d, active, SeededDropout),
        *(nn.Conv2d, nn.MaxPool2d, active, SeededDropout),
        *(nn.Conv2d, active, nn.Flatten),
        *(nn.Linear, active, SeededDropout),
        nn.Linear,
    ]
    without = [type(m) for m in get_architecture("cnn-s").module(activation).module_list]
    assert without == [layer for layer in layers if layer is not SeededDropout]


@every_architecture
def test_an_architecture_maps_its_input_shape_to_its_classes(name: str) -> None:
    architecture = get_architecture(name)
    module = architecture.module("relu")
    initialise(module, "kaiming_normal", generator(0, "init"))
    logits = module(torch.zeros(3, *architecture.input_shape))
    assert logits.shape == (3, architecture.classes)
    assert logits.isfinite().all()


@every_architecture
@pytest.mark.parametrize("init", INITS)
def test_weights_are_drawn_by_the_initialisation_and_biases_are_a_hundredth(name: str, init: str) -> None:
    module = get_architecture(name).module("tanh", 0.1)
    initialise(module, init, generator(3, "init"))
    draws = generator(3, "init")
    fill = getattr(nn.init, f"{init}_")
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert torch.equal(layer.weight, fill(torch.empty_like(layer.weight), generator=draws))
            assert layer.bias is not None
            assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.01))


@every_architecture
def test_initial_weights_depend_on_the_seed_but_not_on_activation_or_dropout(name: str) -> None:
    def weights(seed: int, activation: str = "tanh", dropout: float = 0.0) -> Tensor:
        module = get_architecture(name).module(activation, dropout)
        initialise(module, "normal", generator(seed, "init"))
        return nn.utils.parameters_to_vector(module.parameters()).detach()

    assert torch.equal(weights(1), weights(1, "gelu", 0.3))
    assert not torch.equal(weights(1), weights(2))


@every_architecture
def test_building_and_initialising_touch_no_global_generator(name: str) -> None:
    before = global_randomness()
    module = get_architecture(name).module("tanh", 0.2)
    initialise(module, "normal", generator(1, "init"))
    seed_dropout(module, generator(1, "dropout"))
    module.train()(torch.zeros(2, *get_architecture(name).input_shape))
    assert global_randomness() == before


def test_a_seeded_dropout_zeroes_its_share_and_scales_the_rest() -> None:
    p, n = 0.3, 100_000
    layer = SeededDropout(p)
    layer.generator = generator(0, "dropout", 1)
    y = layer.train()(torch.ones(n))
    assert set(y.unique().tolist()) == {0.0, (torch.ones(()) / (1 - p)).item()}
    zeroed = (y == 0).double().mean().item()
    assert abs(zeroed - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_a_seeded_dropout_repeats_its_masks_and_never_within_a_stream() -> None:
    layer, x = SeededDropout(0.5).train(), torch.ones(1000)

    def two_masks() -> list[Tensor]:
        layer.generator = generator(0, "dropout", 1)
        return [layer(x), layer(x)]

    (first, second), (first_again, second_again) = two_masks(), two_masks()
    assert torch.equal(first, first_again) and torch.equal(second, second_again)
    assert not torch.equal(first, second)


def test_the_gradient_of_a_seeded_dropout_passes_where_the_value_did() -> None:
    layer = SeededDropout(0.5).train()
    layer.generator = generator(0, "dropout")
    x = torch.ones(1000, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad, y)  # x is one, so both are mask / (1 - p)


def test_a_seeded_dropout_is_plain_dropout_in_eval_mode_and_without_a_generator() -> None:
    x = torch.randn(1000, generator=generator(0, "x"))
    seeded, plain = SeededDropout(0.4), nn.Dropout(0.4)
    before = torch.get_rng_state()
    try:
        ours = seeded.train()(x)
        torch.set_rng_state(before)
        assert torch.equal(ours, plain.train()(x))
    finally:
        torch.set_rng_state(before)
    seeded.generator = generator(0, "dropout")
    assert torch.equal(seeded.eval()(x), plain.eval()(x)) and torch.equal(seeded(x), x)


@every_architecture
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_module_from_a_vector_has_its_weights_and_shares_no_memory(name: str, dropout: float) -> None:
    architecture = get_architecture(name)
    vector = torch.randn(architecture.layout.size, generator=generator(0, "w"))
    before = vector.clone()
    module = module_from_vector(architecture, vector, activation="relu", dropout=dropout)
    assert not module.training
    assert torch.equal(nn.utils.parameters_to_vector(module.parameters()), vector)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(vector, before)


def test_an_unknown_architecture_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError) as caught:
        get_architecture("cnn-z")
    assert str(caught.value) == "unknown architecture 'cnn-z'; did you mean 'cnn-s'?"


def test_an_unknown_architecture_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(RecipeError) as caught:
        get_architecture("transformer")
    message = str(caught.value)
    assert message.startswith("unknown architecture 'transformer'; known: ")
    assert set(message.partition("known: ")[2].split(", ")) == set(architecture_names())


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="^architecture 'cnn-s' is registered twice$"):
        register(get_architecture("cnn-s"))
