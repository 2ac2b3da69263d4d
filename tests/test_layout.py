"""The layout of a weight vector: every way there and back is exact to the bit."""

import json

import pytest
import torch
from torch import Tensor, nn

from modelzoo_datasets.architectures import architecture_names, get_architecture, initialise
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.layout import Layout
from modelzoo_datasets.seeds import generator

every_architecture = pytest.mark.parametrize("name", architecture_names())
with_and_without_dropout = pytest.mark.parametrize("dropout", [0.0, 0.3])


def drawn(name: str, dropout: float = 0.0) -> nn.Module:
    module = get_architecture(name).module("tanh", dropout)
    initialise(module, "normal", generator(1, "init"))
    return module


def population(layout: Layout, n: int = 3) -> Tensor:
    return torch.randn(n, layout.size, generator=generator(2, "weights"))


@every_architecture
@with_and_without_dropout
def test_packing_is_parameters_to_vector(name: str, dropout: float) -> None:
    module = drawn(name, dropout)
    packed = Layout.of(module).pack(module.state_dict())
    expected = nn.utils.parameters_to_vector(module.parameters()).detach()
    assert packed.dtype == torch.float32
    assert torch.equal(packed, expected)


@every_architecture
@with_and_without_dropout
def test_unpacking_inverts_packing(name: str, dropout: float) -> None:
    state = drawn(name, dropout).state_dict()
    layout = Layout.of(drawn(name, dropout))
    back = layout.unpack(layout.pack(state))
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@every_architecture
def test_packing_inverts_unpacking_of_a_population(name: str) -> None:
    layout = get_architecture(name).layout
    weights = population(layout)
    stacked = layout.unpack(weights)
    for n, vector in enumerate(weights):
        assert torch.equal(layout.pack({key: t[n] for key, t in stacked.items()}), vector)


@every_architecture
def test_tokens_there_and_back_are_the_same_bits(name: str) -> None:
    layout = get_architecture(name).layout
    weights = population(layout)
    tokens = layout.to_tokens(weights)
    assert [t.shape for t in tokens] == [(3, la.units, la.width) for la in layout.layers]
    assert torch.equal(layout.from_tokens(tokens), weights)


def test_a_token_is_the_incoming_weights_of_a_unit_and_its_bias() -> None:
    layout = get_architecture("cnn-s").layout
    vector = population(layout, 1)[0]
    state = layout.unpack(vector)
    names = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]
    for name, tokens in zip(names, layout.to_tokens(vector[None]), strict=True):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        for unit, token in enumerate(tokens[0]):
            assert token.tolist() == [*weight[unit].flatten().tolist(), bias[unit].item()]


def test_tokens_of_layers_without_bias_come_back_too() -> None:
    layout = Layout.of(nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2)))
    weights = population(layout)
    assert [la.width for la in layout.layers] == [3, 5]
    assert torch.equal(layout.from_tokens(layout.to_tokens(weights)), weights)


def test_the_layers_of_cnn_s_are_those_of_the_paper() -> None:
    layout = get_architecture("cnn-s").layout
    assert [(la.units, la.width) for la in layout.layers] == [
        (8, 26),
        (6, 201),
        (4, 25),
        (20, 37),
        (10, 21),
    ]
    assert layout.size == 2464 == sum(la.units * la.width for la in layout.layers)


@every_architecture
def test_every_number_belongs_to_the_layer_that_its_token_is_of(name: str) -> None:
    layout = get_architecture(name).layout
    index = layout.layer_of_weight()
    for i, tokens in enumerate(layout.to_tokens(index.unsqueeze(0))):
        assert (tokens == i).all()


@every_architecture
@with_and_without_dropout
def test_a_layout_survives_json(name: str, dropout: float) -> None:
    layout = Layout.of(drawn(name, dropout))
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_buffers_come_after_all_parameters() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    module(torch.randn(4, 1, 5, 5, generator=generator(0, "x")))
    layout = Layout.of(module)
    expected = torch.cat(
        [
            nn.utils.parameters_to_vector(module.parameters()).detach(),
            *(buffer.flatten().float() for buffer in module.buffers()),
        ]
    )
    assert torch.equal(layout.pack(module.state_dict()), expected)
    assert [slot.buffer for slot in layout.slots] == [False] * 4 + [True] * 3
    assert Layout.from_json(layout.to_json()) == layout


def test_dropout_changes_names_but_not_shapes() -> None:
    plain, dropped = (Layout.of(drawn("cnn-s", p)) for p in (0.0, 0.2))
    assert plain != dropped
    assert [slot.shape for slot in plain.slots] == [slot.shape for slot in dropped.slots]


def test_a_missing_tensor_is_named() -> None:
    layout = Layout.of(nn.Linear(3, 4))
    with pytest.raises(FormatError) as caught:
        layout.pack({"weight": torch.zeros(4, 3)})
    assert str(caught.value) == "bias: expected shape (4,), got None"


def test_a_tensor_of_another_shape_is_named() -> None:
    layout = Layout.of(nn.Linear(3, 4))
    with pytest.raises(FormatError) as caught:
        layout.pack({"weight": torch.zeros(3, 4), "bias": torch.zeros(4)})
    assert str(caught.value) == "weight: expected shape (4, 3), got (3, 4)"


def test_tensors_too_many_are_named() -> None:
    layout = Layout.of(nn.Linear(3, 4, bias=False))
    with pytest.raises(FormatError) as caught:
        layout.pack({"weight": torch.zeros(4, 3), "z": torch.zeros(1), "a": torch.zeros(1)})
    assert str(caught.value) == "unexpected tensors a, z"


@pytest.mark.parametrize("shape", [(15,), (2, 17)])
def test_a_vector_of_another_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError) as caught:
        Layout.of(nn.Linear(3, 4)).unpack(torch.zeros(shape))
    assert str(caught.value) == f"expected 16 weights per model, got {shape[-1]}"


def test_a_bias_that_belongs_to_no_layer_is_refused() -> None:
    layout = Layout.of(nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(5)))
    with pytest.raises(FormatError) as caught:
        _ = layout.layers
    assert str(caught.value) == "1.weight is no bias of 0.weight"
