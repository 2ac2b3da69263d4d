"""REPAIR: its statistics are the target's, its folded networks are the corrected ones, and what it refuses."""

from collections.abc import Callable

import pytest
import torch
from helpers.networks import random_states
from torch import Tensor, nn

import modelzoo_datasets.architectures.registry as registry
from modelzoo_datasets.analysis import UnitStatistics, find_repair_obstacle, measure_units, repair
from modelzoo_datasets.architectures import Architecture, build_module, get_architecture, register_architecture
from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.errors import ArgumentError
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights import permute_units, sample_permutations

TANH = NetworkSpec("tanh")
UNITS = {"cnn-s": 48, "cnn-m": 93, "small-cnn": 58}


def images(name: str, n: int = 40) -> Tensor:
    return torch.randn(n, *get_architecture(name).input_shape, generator=keyed_generator(0, "images"))


def assert_same_statistics(one: UnitStatistics, other: UnitStatistics, tolerance: float = 1e-5) -> None:
    assert ((one.mean - other.mean).abs() <= tolerance * (1 + other.mean.abs() + other.std)).all()
    torch.testing.assert_close(one.std, other.std, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", UNITS)
def test_statistics_are_those_of_each_layer_by_hand(name: str, activation: str) -> None:
    weights, inputs = random_states(name, 1), images(name)
    units = measure_units(name, weights, NetworkSpec(activation), inputs)
    module = build_module(get_architecture(name), weights[0], activation=activation)
    means, stds, x = [], [], inputs
    for layer in module.module_list:
        x = layer(x).detach()
        if isinstance(layer, nn.Conv2d | nn.Linear):
            values = x.transpose(0, 1).flatten(1).double()
            means += values.mean(dim=1).tolist()
            stds += values.std(dim=1, correction=0).tolist()
    assert units.mean.shape == units.std.shape == (1, UNITS[name])
    torch.testing.assert_close(units.mean[0].double(), torch.tensor(means, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(units.std[0].double(), torch.tensor(stds, dtype=torch.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", UNITS)
def test_a_network_has_the_statistics_of_its_target_after_repair(name: str) -> None:
    weights, inputs = random_states(name, 4), images(name)
    target = measure_units(name, weights[[1, 2, 3, 0]], TANH, inputs)
    before = weights.clone()
    result = repair(name, weights, target, TANH, inputs)
    assert torch.equal(weights, before) and not torch.equal(result, weights)
    assert_same_statistics(measure_units(name, result, TANH, inputs), target)


def test_the_own_statistics_change_no_bit() -> None:
    weights, inputs = random_states("cnn-s", 3), images("cnn-s")
    assert torch.equal(repair("cnn-s", weights, measure_units("cnn-s", weights, TANH, inputs), TANH, inputs), weights)


def test_the_folded_network_computes_what_the_corrected_layers_compute() -> None:
    """The definition by the letter: after each layer its output is standardized, and scaled to the target."""
    weights, inputs = random_states("cnn-s", 2), images("cnn-s")
    target = measure_units("cnn-s", weights[1:], TANH, inputs)
    folded = build_module(
        get_architecture("cnn-s"), repair("cnn-s", weights[:1], target, TANH, inputs)[0], activation="tanh"
    )
    x, start = inputs, 0
    for layer in build_module(get_architecture("cnn-s"), weights[0], activation="tanh").module_list:
        x = layer(x).detach()
        if isinstance(layer, nn.Conv2d | nn.Linear):
            units, shape = slice(start, start + x.shape[1]), (1, -1, *[1] * (x.ndim - 2))
            rest = [i for i in range(x.ndim) if i != 1]
            x = (x - x.mean(rest, keepdim=True)) / x.std(rest, correction=0, keepdim=True)
            x = x * target.std[0, units].reshape(shape) + target.mean[0, units].reshape(shape)
            start = units.stop
    torch.testing.assert_close(folded(inputs).detach(), x, rtol=1e-4, atol=1e-4)


def test_repair_commutes_with_the_order_of_units_and_of_models() -> None:
    architecture, weights, inputs = get_architecture("cnn-s"), random_states("cnn-s", 4), images("cnn-s")
    orders = sample_permutations(architecture.symmetry, 4, seed=1)
    networks = [TANH, NetworkSpec("relu"), TANH, NetworkSpec("relu")]
    donors = weights + 0.2 * torch.randn(weights.shape, generator=keyed_generator(1, "noise"))

    def run(moved: Tensor, sources: Tensor, specs: list[NetworkSpec]) -> Tensor:
        return repair("cnn-s", moved, measure_units("cnn-s", sources, specs, inputs), specs, inputs)

    expected = run(weights, donors, networks)
    moved, sources = (permute_units(part, architecture.symmetry, orders) for part in (weights, donors))
    permuted = permute_units(expected, architecture.symmetry, orders)
    torch.testing.assert_close(run(moved, sources, networks), permuted, rtol=1e-3, atol=1e-4)
    rows = torch.tensor([2, 3, 1])
    assert torch.equal(run(weights[rows], donors[rows], [networks[i] for i in rows]), expected[rows])


def test_targets_between_two_parents() -> None:
    weights, inputs = random_states("cnn-s", 4), images("cnn-s", 10)
    units = measure_units("cnn-s", weights, TANH, inputs)
    first, second = units[torch.tensor([0, 1])], units[2:]
    mixed = first.lerp(second, torch.tensor([0.0, 0.25]))
    assert torch.equal(mixed.mean[0], units.mean[0]) and torch.equal(mixed.std[0], units.std[0])
    torch.testing.assert_close(mixed.mean[1], 0.75 * units.mean[1] + 0.25 * units.mean[3])
    torch.testing.assert_close(mixed.std[1], 0.75 * units.std[1] + 0.25 * units.std[3])
    assert torch.equal(first.lerp(second, 1.0).std, second.std)


@pytest.mark.parametrize("bias", [0.0, 0.1, 1000.1, -3e8])
def test_a_dead_unit_stays_as_it_is_and_all_others_reach_the_target(bias: float) -> None:
    weights, inputs = random_states("cnn-s", 2), images("cnn-s")
    layout, target = get_architecture("cnn-s").layout, measure_units("cnn-s", weights[1:], TANH, inputs)
    first = layout.layers[0]
    dead = weights[:1].clone()
    assert first.bias is not None
    first.weight.select(dead)[0, : first.inputs] = 0
    first.bias.select(dead)[0, 0] = bias
    result = repair("cnn-s", dead, target, TANH, inputs)
    assert result.isfinite().all()
    assert torch.equal(first.weight.select(result)[0, : first.inputs], torch.zeros(first.inputs))
    assert first.bias.select(result)[0, 0] == torch.tensor(bias)
    units = measure_units("cnn-s", result, TANH, inputs)
    assert_same_statistics(
        UnitStatistics(units.mean[:, 1:], units.std[:, 1:]), UnitStatistics(target.mean[:, 1:], target.std[:, 1:])
    )


def test_a_unit_that_is_dead_in_the_target_becomes_constant() -> None:
    weights, inputs = random_states("cnn-s", 1), images("cnn-s")
    target = measure_units("cnn-s", weights, TANH, inputs)
    target.std[0, 3], target.mean[0, 3] = 0, 0.5
    units = measure_units("cnn-s", repair("cnn-s", weights, target, TANH, inputs), TANH, inputs)
    assert units.std[0, 3] == 0 and units.mean[0, 3] == 0.5


def test_values_that_are_not_finite_change_nothing() -> None:
    weights, inputs = random_states("cnn-s", 2), images("cnn-s")
    target = measure_units("cnn-s", weights, TANH, inputs)
    target.mean[0], target.std[1] = float("nan"), float("inf")
    assert torch.equal(repair("cnn-s", weights, target, TANH, inputs), weights)
    exploded = weights * 1e38
    own = measure_units("cnn-s", exploded, TANH, inputs)
    assert not own.std[:, :8].isfinite().any()
    assert repair("cnn-s", exploded, measure_units("cnn-s", weights, TANH, inputs), TANH, inputs).isfinite().all()


class Repeated(nn.Module):
    """A network with a layer that runs twice, and one that never runs."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.layer, self.last = times, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for _ in range(self.times):
            x = self.layer(x)
        logits: Tensor = self.last(x)
        return logits


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (lambda: Repeated(2), r"layer \(Linear\) runs 2 times per image, not once"),
        (lambda: Repeated(0), r"layer \(Linear\) runs 0 times per image, not once"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)), r"1 \(Linear\) has no bias, .*"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.PReLU()), r"2 \(PReLU\) has weights, but only .*"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)),
            r"1 \(BatchNorm2d\) normalizes, which undoes corrections of the layer before it",
        ),
    ],
)
def test_networks_that_cannot_be_repaired_are_refused_with_the_reason(
    module: Callable[[], nn.Module], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    register_architecture(Architecture("odd", (1, 2, 2), 2, lambda activation, dropout: module()))
    weights, inputs = torch.zeros(1, get_architecture("odd").layout.size), torch.zeros(3, 1, 2, 2)
    expected = rf"^networks of odd cannot be repaired: {reason}$"
    with pytest.raises(ArgumentError, match=expected):
        measure_units("odd", weights, TANH, inputs)
    with pytest.raises(ArgumentError, match=expected):
        repair("odd", weights, UnitStatistics(torch.zeros(1, 2), torch.ones(1, 2)), TANH, inputs)


def test_which_architectures_can_be_repaired() -> None:
    assert [find_repair_obstacle(name, NetworkSpec("relu", 0.2)) for name in UNITS] == [None] * 3
    assert "bn1 (BatchNorm2d) normalizes" in str(find_repair_obstacle("resnet18", NetworkSpec("relu")))


def test_targets_and_networks_of_other_models_are_refused() -> None:
    weights, inputs = random_states("cnn-s", 2), images("cnn-s", 4)
    units = measure_units("cnn-s", weights, TANH, inputs)
    with pytest.raises(ArgumentError, match=r"^expected a target of shape \(2, 48\), got \(1, 48\) and \(1, 48\); "):
        repair("cnn-s", weights, units[:1], TANH, inputs)
    with pytest.raises(ArgumentError, match="^expected one network per model, got 1 for 2 models$"):
        repair("cnn-s", weights, units, [TANH], inputs)
