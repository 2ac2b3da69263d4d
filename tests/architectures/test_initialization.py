"""How networks begin, and dropout: drawn from the generator given, no global one is touched."""

import random

import numpy as np
import pytest
import torch
from helpers.networks import KINDS, SMALL
from torch import Tensor, nn

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.architectures.modules import SeededDropout, seed_dropout
from modelzoo_datasets.errors import RecipeError
from modelzoo_datasets.recipes import INITS
from modelzoo_datasets.seeds import keyed_generator

every_architecture = pytest.mark.parametrize("name", KINDS)


def global_randomness() -> tuple[bytes, bytes, object]:
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 (reads what must not change)
    return torch.get_rng_state().numpy().tobytes(), repr(state).encode(), random.getstate()


def begun(name: str, init: str, seed: int, activation: str = "tanh", dropout: float = 0.0) -> nn.Module:
    module = get_architecture(name).module(activation, dropout)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(77)  # what memory may hold
    initialize_weights(module, init, keyed_generator(seed, "init"))
    return module


@pytest.mark.parametrize(
    ("name", "init"),
    [*((n, i) for n in SMALL for i in INITS), ("resnet18", "kaiming_uniform"), ("resnet18", "uniform")],
)
def test_weights_are_drawn_by_the_initialisation_and_biases_are_a_hundredth(name: str, init: str) -> None:
    module = begun(name, init, 3)
    draws = keyed_generator(3, "init")
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            drawn = "kaiming_uniform" if path.startswith("res") and name == "res-cnn" else init
            fill = getattr(nn.init, f"{drawn}_")
            assert torch.equal(layer.weight, fill(torch.empty_like(layer.weight), generator=draws))
            if layer.bias is not None:
                assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.01))


def test_batchnorm_begins_as_torch_has_it() -> None:
    module, layers = begun("resnet18", "uniform", 1), 0
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layers += 1
            fresh = nn.BatchNorm2d(layer.num_features).state_dict()
            assert list(layer.state_dict()) == list(fresh)
            assert all(torch.equal(layer.state_dict()[key], tensor) for key, tensor in fresh.items())
    assert layers == 20


@pytest.mark.parametrize(
    ("init", "low", "high", "mean", "deviation"),  # bounds, mean and deviation for a fan-in of 1
    [
        ("uniform", 0, 1, 0.5, 12**-0.5),
        ("normal", -torch.inf, torch.inf, 0, 1),
        ("kaiming_uniform", -(6**0.5), 6**0.5, 0, 2**0.5),  # variance 2 / fan-in, bound sqrt(3) deviations
        ("kaiming_normal", -torch.inf, torch.inf, 0, 2**0.5),
    ],
)
def test_first_weights_are_distributed_as_published(
    init: str, low: float, high: float, mean: float, deviation: float
) -> None:
    network, fan_in = nn.Sequential(nn.Linear(100, 400, bias=False)), 100
    initialize_weights(network, init, keyed_generator(0, "init"))
    weights = network[0].weight.detach().double().flatten() * (fan_in**0.5 if init.startswith("kaiming") else 1)
    n = len(weights)
    assert weights.min() >= low and weights.max() <= high + 1e-6
    if high < torch.inf:  # the bounds are reached
        assert weights.min() < low + 0.01 * (high - low) and weights.max() > high - 0.01 * (high - low)
    assert abs(weights.mean() - mean) < 5 * deviation / n**0.5
    assert abs(weights.std() / deviation - 1) < 5 / (2 * n) ** 0.5


@every_architecture
def test_initial_weights_depend_on_the_seed_but_not_on_activation_or_dropout(name: str) -> None:
    dropout = 0.3 if get_architecture(name).takes_dropout else 0.0

    def weights(module: nn.Module) -> Tensor:
        return nn.utils.parameters_to_vector(module.parameters()).detach()

    first = weights(begun(name, "normal", 1))
    assert torch.equal(first, weights(begun(name, "normal", 1, "gelu", dropout)))
    assert not torch.equal(first, weights(begun(name, "normal", 2)))


def test_the_small_cnn_inside_res_cnn_begins_as_the_small_cnn_of_the_same_seed() -> None:
    small, changed = (begun(name, "uniform", 4).state_dict() for name in ("cnn-s", "res-cnn"))
    assert set(small) < set(changed)
    assert all(torch.equal(changed[key], tensor) for key, tensor in small.items())


@every_architecture
def test_building_and_initialising_touch_no_global_generator(name: str) -> None:
    dropout = 0.2 if get_architecture(name).takes_dropout else 0.0
    before = global_randomness()
    module = begun(name, "normal", 1, "tanh", dropout)
    seed_dropout(module, keyed_generator(1, "dropout"))
    module.train()(torch.zeros(2, *get_architecture(name).input_shape))
    assert global_randomness() == before


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.Embedding(3, 4)), "1.weight"),
        (nn.ConvTranspose2d(1, 2, 3), "weight"),
    ],
)
def test_parameters_whose_beginning_no_init_says_are_refused(module: nn.Module, named: str) -> None:
    with pytest.raises(RecipeError) as caught:
        initialize_weights(module, "normal", keyed_generator(0, "init"))
    assert str(caught.value) == (
        f"{named} belongs to no linear, 2-d convolution or normalization layer, so no init defines its initial value"
    )


def test_a_seeded_dropout_zeroes_its_share_and_scales_the_rest() -> None:
    p, n = 0.3, 100_000
    layer = SeededDropout(p)
    layer.generator = keyed_generator(0, "dropout", 1)
    y = layer.train()(torch.ones(n))
    assert set(y.unique().tolist()) == {0.0, (torch.ones(()) / (1 - p)).item()}
    zeroed = (y == 0).double().mean().item()
    assert abs(zeroed - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_a_seeded_dropout_repeats_its_masks_and_never_within_a_stream() -> None:
    layer, x = SeededDropout(0.5).train(), torch.ones(1000)

    def two_masks() -> list[Tensor]:
        layer.generator = keyed_generator(0, "dropout", 1)
        return [layer(x), layer(x)]

    (first, second), (first_again, second_again) = two_masks(), two_masks()
    assert torch.equal(first, first_again) and torch.equal(second, second_again)
    assert not torch.equal(first, second)


def test_the_gradient_of_a_seeded_dropout_passes_where_the_value_did() -> None:
    layer = SeededDropout(0.5).train()
    layer.generator = keyed_generator(0, "dropout")
    x = torch.ones(1000, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad, y)  # x is one, so both are mask / (1 - p)


def test_a_seeded_dropout_is_plain_dropout_in_eval_mode_and_without_a_generator() -> None:
    x = torch.randn(1000, generator=keyed_generator(0, "x"))
    seeded, plain = SeededDropout(0.4), nn.Dropout(0.4)
    before = torch.get_rng_state()
    try:
        ours = seeded.train()(x)
        torch.set_rng_state(before)
        assert torch.equal(ours, plain.train()(x))
    finally:
        torch.set_rng_state(before)
    seeded.generator = keyed_generator(0, "dropout")
    assert torch.equal(seeded.eval()(x), plain.eval()(x)) and torch.equal(seeded(x), x)


def test_a_seeded_dropout_of_nothing_draws_nothing() -> None:
    layer, x = SeededDropout(0.0).train(), torch.randn(100, generator=keyed_generator(0, "x"))
    layer.generator = keyed_generator(0, "dropout")
    before = global_randomness(), layer.generator.get_state()
    assert torch.equal(layer(x), x)
    assert global_randomness() == before[0] and torch.equal(layer.generator.get_state(), before[1])
