"""Weights as other codes take them: against plain loops, and back to the bit."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.networks import KINDS, random_states
from torch.func import functional_call

from modelzoo_datasets import load_zoo
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.weights.layout import Layout


def zoo_of(name: str, n: int = 3) -> Zoo:
    """Random states of an architecture."""
    architecture, table = get_architecture(name), pd.DataFrame({"activation": ["tanh"] * n, "dropout": [0.0] * n})
    weights = random_states(name, n)
    return Zoo(weights=weights, table=table, layout=architecture.layout, architecture=architecture, images="none")


@pytest.mark.parametrize("name", ["cnn-s", "cnn-m", "resnet18"])
def test_all_models_at_once_compute_what_each_of_them_computes(name: str) -> None:
    zoo = zoo_of(name)
    x = torch.randn(4, *zoo.architecture.input_shape, generator=torch.Generator().manual_seed(0)).double()
    module = zoo.architecture.module("tanh").double().eval()
    # In float64: random states have logits of 1e4, whose float32 rounding depends on the order of sums.
    parameters = {key: t.double() if t.is_floating_point() else t for key, t in zoo.parameters().items()}
    with torch.no_grad():
        found = torch.vmap(functional_call, (None, 0, None))(module, parameters, (x,))
        expected = torch.stack([zoo.model(i).double()(x) for i in range(len(zoo))])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not torch.equal(expected[0], expected[1])


def test_models_of_a_dataset_with_dropout_run_at_once_too(tiny_dataset: Path) -> None:
    """Their own modules name the layers behind a dropout layer differently; the layout names them all alike."""
    zoo = load_zoo(tiny_dataset, "hyp", filters=[("activation", "==", "relu")])
    assert set(zoo.table["dropout"]) == {0.0, 0.2}
    x = torch.rand(5, *zoo.architecture.input_shape, generator=torch.Generator().manual_seed(0))
    module = zoo.architecture.module("relu").eval()
    with torch.no_grad():
        found = torch.vmap(functional_call, (None, 0, None))(module, zoo.parameters(), (x,))
        for i in range(len(zoo)):
            torch.testing.assert_close(found[i], zoo.model(i)(x))


@pytest.mark.parametrize("name", KINDS)
def test_parameters_are_views_and_give_the_rows_back(name: str) -> None:
    zoo = zoo_of(name)
    found = zoo.parameters()
    module = zoo.architecture.module("tanh")
    assert {key: (3, *tensor.shape) for key, tensor in module.state_dict().items()} == {
        key: tuple(tensor.shape) for key, tensor in found.items()
    }
    for i in range(3):
        assert torch.equal(zoo.layout.pack({key: tensor[i] for key, tensor in found.items()}), zoo.weights[i])
    floats = [tensor for tensor in found.values() if tensor.dtype is torch.float32]
    assert {tensor.untyped_storage().data_ptr() for tensor in floats} == {zoo.weights.untyped_storage().data_ptr()}


@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_the_neurons_one_by_one(name: str) -> None:
    zoo = zoo_of(name, 2)
    tokens, parts = zoo.tokens(), zoo.parameters()
    row = 0
    for number, layer in enumerate(zoo.layout.layers):
        for unit in range(0, layer.units, 1 if layer.units < 20 else layer.units - 1):  # of wide ones first and last
            numbers = [
                parts[layer.weight.name][1, unit].flatten(),
                *(parts[s.name][1, unit : unit + 1] for s in layer.slots[1:]),
            ]
            expected = torch.cat([part.float() for part in numbers])
            assert torch.equal(tokens.values[1, row + unit, : len(expected)], expected)
            assert not tokens.values[1, row + unit, len(expected) :].any()
            assert tokens.mask[row + unit].tolist() == [i < len(expected) for i in range(tokens.values.shape[2])]
            assert tokens.positions[row + unit].tolist() == [row + unit, number, unit]
        row += layer.units
    assert tokens.values.shape[1] == len(tokens.mask) == len(tokens.positions) == row
    assert int(tokens.mask.sum()) + tokens.scalars.shape[1] == zoo.layout.size


@pytest.mark.parametrize("name", KINDS)
def test_tokens_and_layers_give_the_rows_back_to_the_bit(name: str) -> None:
    zoo = zoo_of(name)
    assert torch.equal(zoo.tokens().to_weights(), zoo.weights)
    assert torch.equal(zoo.layers().to_weights(), zoo.weights)
    tokens = zoo.tokens()
    noisy = torch.where(tokens.mask, tokens.values, torch.inf)
    assert torch.equal(replace(tokens, values=noisy).to_weights(), zoo.weights), "padding is not looked at"
    assert (tokens.scalars.shape[1] > 0) == (name == "resnet18"), "its counts of batches are of no neuron"


def test_layers_are_lists_in_the_order_of_the_network() -> None:
    zoo = zoo_of("cnn-s")
    layers, module = zoo.layers(), zoo.model(2)
    modules = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers.weights) == len(layers.biases) == len(modules) and not layers.others
    for weight, bias, expected in zip(layers.weights, layers.biases, modules, strict=True):
        assert torch.equal(weight[2], expected.weight)
        assert bias is not None and torch.equal(bias[2], expected.bias)
        assert weight.untyped_storage().data_ptr() == zoo.weights.untyped_storage().data_ptr()
    resnet = zoo_of("resnet18", 1).layers()
    assert [bias is None for bias in resnet.biases] == [True] * 20 + [False]
    assert sum(name.endswith("running_var") for name in resnet.others) == 20


def test_a_layer_of_another_shape_is_named() -> None:
    layers = zoo_of("cnn-s").layers()
    bent = replace(layers, weights=[layers.weights[0][:, :, :, :4], *layers.weights[1:]])
    with pytest.raises(FormatError) as caught:
        bent.to_weights()
    assert str(caught.value) == ("module_list.0.weight: expected shape (3, 8, 1, 5, 5), got (3, 8, 1, 4, 5)")
    unknown = Layout.from_module(torch.nn.LayerNorm(3))
    with pytest.raises(FormatError, match="^weight belongs to no layer"):
        type(layers).from_weights(unknown, torch.zeros(2, 6))
