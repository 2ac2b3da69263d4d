"""The layout of a weight vector: every way there and back is exact to the bit."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.networks import ALL, KINDS, random_states
from torch import Tensor, nn

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.layout import Layout

every_architecture = pytest.mark.parametrize("name", KINDS)
with_and_without_dropout = pytest.mark.parametrize(
    ("name", "dropout"), [*((name, 0.0) for name in KINDS), ("cnn-s", 0.3), ("cnn-m", 0.3)]
)


STATES = dict.fromkeys(KINDS, 3) | {"resnet18": 1}


def drawn(name: str, dropout: float = 0.0) -> nn.Module:
    module = get_architecture(name).module("tanh", dropout)
    initialize_weights(module, "uniform", keyed_generator(1, "init"))
    return module


def population(layout: Layout, n: int = 3) -> Tensor:
    return torch.randn(n, layout.size, generator=keyed_generator(2, "weights"))


def normalised() -> nn.Sequential:
    """Two layers that are normalised and one between them that is not, every tensor random, after three batches."""
    module = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3, bias=False)),
        *(nn.Flatten(), nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3)),
    )
    draws = keyed_generator(0, "normalised")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws))
    for _ in range(3):
        module(torch.randn(4, 1, 5, 5, generator=draws))
    return module


@with_and_without_dropout
def test_packing_is_parameters_to_vector_then_buffers(name: str, dropout: float) -> None:
    module = drawn(name, dropout)
    packed = Layout.from_module(module).pack(module.state_dict())
    parameters = nn.utils.parameters_to_vector(module.parameters()).detach()
    assert packed.dtype == torch.float32
    assert torch.equal(packed, torch.cat([parameters, *(b.flatten().float() for b in module.buffers())]))


@with_and_without_dropout
def test_unpacking_inverts_packing(name: str, dropout: float) -> None:
    module = drawn(name, dropout)
    state, layout = module.state_dict(), Layout.from_module(module)
    back = layout.unpack(layout.pack(state))
    assert set(back) == set(state)
    assert all(back[key].dtype == state[key].dtype for key in state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@every_architecture
def test_packing_inverts_unpacking_of_a_population(name: str) -> None:
    layout, weights = get_architecture(name).layout, random_states(name, STATES[name])
    stacked = layout.unpack(weights)
    for n, vector in enumerate(weights):
        assert torch.equal(layout.pack({key: t[n] for key, t in stacked.items()}), vector)


def test_unpacked_tensors_of_the_vectors_dtype_are_views() -> None:
    layout = Layout.from_module(normalised())
    vector = population(layout, 1)[0]
    for key, tensor in layout.unpack(vector).items():
        same = tensor.untyped_storage().data_ptr() == vector.untyped_storage().data_ptr()
        assert same == (not key.endswith("num_batches_tracked"))


@every_architecture
def test_tokens_there_and_back_are_the_same_bits_but_for_counters(name: str) -> None:
    layout, weights = get_architecture(name).layout, random_states(name, STATES[name])
    tokens = layout.to_tokens(weights)
    assert [t.shape for t in tokens] == [(STATES[name], la.units, la.width) for la in layout.layers]
    back = layout.from_tokens(tokens)
    counters = torch.zeros(layout.size, dtype=torch.bool)
    for slot in layout.slots:
        counters[slot.start : slot.stop] = slot.name.endswith("num_batches_tracked")
    assert torch.equal(back[:, ~counters], weights[:, ~counters])
    assert (back[:, counters] == 0).all() and (weights[:, counters] > 0).all()
    assert sum(la.units * la.width for la in layout.layers) == layout.size - counters.sum()


@pytest.mark.parametrize("name", ["cnn-s", "cnn-s-rgb", "cnn-m", "res-cnn"])
def test_a_token_is_the_incoming_weights_of_a_unit_and_its_bias(name: str) -> None:
    layout = get_architecture(name).layout
    vector = population(layout, 1)[0]
    state = layout.unpack(vector)
    names = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]
    for name, tokens in zip(names, layout.to_tokens(vector[None]), strict=True):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        for unit, token in enumerate(tokens[0]):
            assert token.tolist() == [*weight[unit].flatten().tolist(), bias[unit].item()]


def test_a_token_of_a_normalised_unit_ends_with_its_scale_shift_mean_and_variance() -> None:
    module = normalised()
    conv, norm, plain, _, linear, last = module
    layout = Layout.from_module(module)
    tokens = layout.to_tokens(layout.pack(module.state_dict())[None])
    assert [la.width for la in layout.layers] == [9 + 1 + 4, 27, 2 + 4]

    def columns(*parts: Tensor) -> Tensor:
        return torch.cat([part.detach().flatten(1) if part.ndim > 1 else part[:, None] for part in parts], dim=1)

    def statistics(layer: nn.Module) -> tuple[Tensor, ...]:
        return layer.weight, layer.bias, layer.running_mean, layer.running_var

    assert torch.equal(tokens[0][0], columns(conv.weight, conv.bias, *statistics(norm)))
    assert torch.equal(tokens[1][0], columns(plain.weight))
    assert torch.equal(tokens[2][0], columns(linear.weight, *statistics(last)))


def test_every_layer_of_a_resnet_has_the_normalisation_that_its_name_says() -> None:
    layers = get_architecture("resnet18").layout.layers_by_name
    assert len(layers) == 21
    for name, layer in layers.items():
        stem, _, last = name.rpartition(".")
        norm = {"conv1": "bn1", "conv2": "bn2", "0": "1", "fc": None}[last]
        path = f"{stem}.{norm}".removeprefix(".")
        kinds = ("weight", "bias", "running_mean", "running_var") if norm else ()
        assert [slot.name for slot in layer.norm] == [f"{path}.{kind}" for kind in kinds]
        assert (layer.bias is not None) == (name == "fc")


def test_tokens_of_layers_without_bias_come_back_too() -> None:
    layout = Layout.from_module(nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2)))
    weights = population(layout)
    assert [la.width for la in layout.layers] == [3, 5]
    assert torch.equal(layout.from_tokens(layout.to_tokens(weights)), weights)


def test_several_weights_and_biases_of_one_module_are_paired_by_name() -> None:
    recurrent = Layout.from_module(nn.GRU(3, 2))  # two weights, then two biases, in one module
    assert [(la.weight.name, la.bias and la.bias.name, la.norm) for la in recurrent.layers] == [
        ("weight_ih_l0", "bias_ih_l0", ()),
        ("weight_hh_l0", "bias_hh_l0", ()),
    ]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("cnn-s", [(8, 26), (6, 201), (4, 25), (20, 37), (10, 21)]),
        ("cnn-s-rgb", [(8, 76), (6, 201), (4, 25), (20, 37), (10, 21)]),
        ("cnn-m", [(16, 28), (32, 145), (15, 289), (20, 61), (10, 21)]),
    ],
)
def test_the_tokens_of_the_cnns_are_those_of_the_paper(name: str, layers: list[tuple[int, int]]) -> None:
    layout = get_architecture(name).layout
    assert [(la.units, la.width) for la in layout.layers] == layers
    assert layout.size == sum(units * width for units, width in layers)


@every_architecture
def test_every_number_belongs_to_the_layer_that_its_token_is_of(name: str) -> None:
    layout = get_architecture(name).layout
    index = layout.layer_of_weight()
    for i, tokens in enumerate(layout.to_tokens(index.unsqueeze(0))):
        assert (tokens == i).all()
    outside = sum(slot.size for slot in layout.slots if slot.name.endswith("num_batches_tracked"))
    assert (index == -1).sum() == outside


@pytest.mark.parametrize("name", ALL)
def test_a_layout_survives_json(name: str) -> None:
    layout = get_architecture(name).layout
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_json_says_a_dtype_only_where_it_is_not_float32() -> None:
    values = Layout.from_module(normalised()).to_json()
    assert {v["name"]: v["dtype"] for v in values if "dtype" in v} == {
        "1.num_batches_tracked": "int64",
        "5.num_batches_tracked": "int64",
    }
    assert values[0] == {"name": "0.weight", "shape": [3, 1, 3, 3], "start": 0, "buffer": False}


@pytest.mark.parametrize("dtype", ["int65", "Tensor", 3])
def test_a_dtype_that_torch_does_not_have_is_refused(dtype: object) -> None:
    values = Layout.from_module(nn.Linear(3, 4)).to_json()
    values[1]["dtype"] = dtype
    with pytest.raises(FormatError) as caught:
        Layout.from_json(values)
    assert str(caught.value) == f"bias: expected a dtype of torch such as 'int64', got {dtype!r}"


CHANGES: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "exchanged starts": (
        lambda v: (v[0].update(start=v[2]["start"]), v[2].update(start=0)),
        "0.weight: expected start 0, where the tensor before it ends, got 16",
    ),
    "negative start": (
        lambda v: v[1].update(start=-4),
        "0.bias: expected start 12, where the tensor before it ends, got -4",
    ),
    "overlap": (lambda v: v[1].update(start=8), "0.bias: expected start 12, where the tensor before it ends, got 8"),
    "gap": (lambda v: v[1].update(start=13), "0.bias: expected start 12, where the tensor before it ends, got 13"),
    "fraction": (lambda v: v[1].update(start=12.0), "0.bias: expected start 12"),
    "no start": (lambda v: v[1].pop("start"), "0.bias: expected start 12"),
    "negative size": (lambda v: v[0].update(shape=[-4, -3]), "0.weight: expected a shape of whole numbers"),
    "true size": (lambda v: v[1].update(shape=[True]), "0.bias: expected a shape of whole numbers, got [True]"),
    "no shape": (lambda v: v[0].pop("shape"), "0.weight: expected a shape of whole numbers, got None"),
    "one name twice": (lambda v: v[1].update(name="0.weight"), "expected a tensor of each name, got two of one name"),
    "a buffer of text": (lambda v: v[1].update(buffer="no"), "0.bias: expected buffer true or false, got 'no'"),
    "no name": (lambda v: v[1].pop("name"), "expected a tensor with a name"),
    "empty": (lambda v: v.clear(), "expected a list of tensors, got []"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_layout_whose_tensors_do_not_follow_each_other_is_refused(case: str) -> None:
    values = Layout.from_module(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))).to_json()
    change, message = CHANGES[case]
    change(values)
    with pytest.raises(FormatError) as caught:
        Layout.from_json(values)
    assert str(caught.value).startswith(message)


def test_buffers_come_after_all_parameters() -> None:
    layout = Layout.from_module(normalised())
    assert [slot.buffer for slot in layout.slots] == [False] * 8 + [True] * 6
    assert [slot.start for slot in layout.slots[1:]] == [slot.stop for slot in layout.slots[:-1]]


def test_buffers_that_are_not_in_the_state_dict_are_not_in_the_layout() -> None:
    module = nn.Linear(3, 4)
    module.register_buffer("kept", torch.zeros(2, 2))
    module.register_buffer("left_out", torch.zeros(2, 2), persistent=False)
    layout = Layout.from_module(module)
    assert [slot.name for slot in layout.slots] == ["weight", "bias", "kept"]
    assert set(layout.unpack(layout.pack(module.state_dict()))) == set(module.state_dict())


def test_a_state_keeps_its_dtypes_through_a_vector_and_counts_are_exact() -> None:
    module = normalised()
    module[1].num_batches_tracked.fill_(2**24)
    state, layout = module.state_dict(), Layout.from_module(module)
    back = layout.unpack(layout.pack(state))
    assert {k: t.dtype for k, t in back.items()} == {k: t.dtype for k, t in state.items()}
    assert back["1.num_batches_tracked"].dtype == torch.int64
    assert (back["1.num_batches_tracked"].item(), back["5.num_batches_tracked"].item()) == (2**24, 3)


def test_a_count_that_float32_cannot_hold_is_refused() -> None:
    module = normalised()
    module[5].num_batches_tracked.fill_(2**24 + 1)
    with pytest.raises(FormatError) as caught:
        Layout.from_module(module).pack(module.state_dict())
    assert str(caught.value) == (
        "5.num_batches_tracked: expected integers up to 2^24, which float32 holds exactly, got larger"
    )


def test_a_decoded_count_is_rounded() -> None:
    layout = Layout.from_module(normalised())
    vector = torch.full((layout.size,), 6.7)
    assert layout.unpack(vector)["1.num_batches_tracked"].item() == 7


def test_dropout_changes_names_but_not_shapes() -> None:
    plain, dropped = (Layout.from_module(drawn("cnn-s", p)) for p in (0.0, 0.2))
    assert plain != dropped
    assert [slot.shape for slot in plain.slots] == [slot.shape for slot in dropped.slots]


def test_a_missing_tensor_is_named() -> None:
    layout = Layout.from_module(nn.Linear(3, 4))
    with pytest.raises(FormatError) as caught:
        layout.pack({"weight": torch.zeros(4, 3)})
    assert str(caught.value) == "bias: expected shape (4,), got None"


def test_a_tensor_of_another_shape_is_named() -> None:
    layout = Layout.from_module(nn.Linear(3, 4))
    with pytest.raises(FormatError) as caught:
        layout.pack({"weight": torch.zeros(3, 4), "bias": torch.zeros(4)})
    assert str(caught.value) == "weight: expected shape (4, 3), got (3, 4)"


def test_tensors_too_many_are_named() -> None:
    layout = Layout.from_module(nn.Linear(3, 4, bias=False))
    with pytest.raises(FormatError) as caught:
        layout.pack({"weight": torch.zeros(4, 3), "z": torch.zeros(1), "a": torch.zeros(1)})
    assert str(caught.value) == "unexpected tensors a, z"


@pytest.mark.parametrize("shape", [(15,), (2, 17)])
def test_a_vector_of_another_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError) as caught:
        Layout.from_module(nn.Linear(3, 4)).unpack(torch.zeros(shape))
    assert str(caught.value) == f"expected 16 weights per model, got {shape[-1]}"


class Scaled(nn.Linear):
    """A layer with a trained number of its own."""

    def __init__(self) -> None:
        super().__init__(3, 4)
        self.scale = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(5)),
            "1.weight of shape (5,) does not fit the 4 units of 0.weight",
        ),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU()),
            "1.weight of shape (1,) does not fit the 4 units of 0.weight",
        ),
        (Scaled, "scale of shape () does not fit the 4 units of weight"),
        (
            lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4)),
            "0.weight belongs to no layer: no layer precedes the parameters of its module",
        ),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False)),
            "1.running_mean belongs to no layer: no layer precedes the parameters of its module",
        ),
    ],
)
def test_tensors_that_tokens_would_lose_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    layout = Layout.from_module(build())
    with pytest.raises(FormatError) as caught:
        _ = layout.layers
    assert str(caught.value) == message
