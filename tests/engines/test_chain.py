"""Networks that are chains, their stages, and the reasons why other networks are not chains."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines.chain import get_chain, trace_chain
from modelzoo_datasets.errors import NotAChainError

SHAPE = (1, 12, 12)


def small(*layers: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 3))


@pytest.mark.parametrize("name", ["cnn-s", "cnn-s-rgb", "cnn-m", "cnn-more-layers"])
def test_stages_have_the_shapes_and_the_parameters_of_the_module(name: str) -> None:
    architecture = get_architecture(name)
    dropout = 0.25 if architecture.takes_dropout else 0.0
    module = architecture.module("gelu", dropout)
    stages = get_chain(name, "gelu", dropout)
    assert stages[0].input_shape == architecture.input_shape
    for stage, following in pairwise(stages):
        assert stage.output_shape == following.input_shape
    parameters = dict(module.named_parameters())
    held = [part for stage in stages for part in (stage.weight, stage.bias) if part is not None]
    assert held == list(parameters)
    for stage in stages:
        assert stage.weight is not None
        assert (
            parameters[stage.weight].numel() == stage.units * stage.input_shape[0] * stage.kernel[0] * stage.kernel[1]
        )
    assert [stage.activation for stage in stages] == ["gelu"] * (len(stages) - 1) + [None]
    assert {stage.dropout for stage in stages} == ({0.0, dropout} if architecture.takes_dropout else {0.0})


def test_stages_are_what_the_module_computes() -> None:
    module = small(nn.Conv2d(1, 5, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(5, 7, 2), nn.ReLU(), features=7 * 16)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    shapes = [stage.output_shape for stage in trace_chain(module, SHAPE, 3)]
    found, following = [], x
    for layer in module:
        following = layer(following)
        found.append(tuple(following.shape[1:]))
    assert shapes == [(5, 10, 10), (5, 5, 5), (7, 4, 4), (3, 1, 1)]
    assert [*shapes[:-1], (3,)] == [found[1], found[2], found[4], found[6]]


class Flattening(nn.Module):
    """A network that flattens with a function or a method instead of a layer."""

    def __init__(self, method: bool) -> None:
        super().__init__()
        self.conv, self.out, self.method = nn.Conv2d(1, 2, 5), nn.Linear(128, 3), method

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        logits: Tensor = self.out(x.flatten(1) if self.method else torch.flatten(x, 1))
        return logits


@pytest.mark.parametrize("method", [True, False])
def test_a_flatten_may_be_a_call(method: bool) -> None:
    assert [stage.linear for stage in trace_chain(Flattening(method), SHAPE, 3)] == [False, True]


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 1, 1), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out((x + self.conv(x)).flatten(1))
        return logits


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(x.flatten(1)) if x.sum() > 0 else x
        return logits


class Holding(nn.Sequential):
    """A network with a parameter outside of its layers."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(144, 3))
        self.scale = nn.Parameter(torch.ones(()))


CONV = nn.Conv2d(1, 2, 3)
NO_CHAINS: list[tuple[nn.Module, str]] = [
    (small(nn.Conv2d(1, 2, 3, stride=2), features=50), "0 is a convolution with stride, padding, dilation or groups"),
    (small(nn.Conv2d(1, 2, 3, padding=1), features=288), "0 is a convolution with stride, padding, dilation or groups"),
    (small(nn.AvgPool2d(2), features=36), "0 is a AvgPool2d, which compiled engines do not support here"),
    (small(nn.MaxPool2d(3), features=16), "0 is a MaxPool2d, which compiled engines do not support here"),
    (small(nn.Tanh(), features=144), "0 is a Tanh, which compiled engines do not support here"),
    (small(CONV, nn.Tanh(), nn.ReLU(), features=200), "2 is an activation after an activation or dropout"),
    (small(CONV, nn.Dropout(0.1), nn.Tanh(), features=200), "2 is an activation after an activation or dropout"),
    (small(CONV, nn.Dropout(0.1), nn.Dropout(0.1), features=200), "2 is dropout after dropout"),
    (small(CONV, nn.GELU("tanh"), features=200), "1 is an approximate GELU"),
    (nn.Sequential(nn.Linear(12, 3)), "0 is a linear layer on (1, 12, 12) without a flatten before it"),
    (nn.Sequential(nn.Conv2d(1, 3, 11)), "its output has shape (3, 2, 2), expected 3 logits"),
    (nn.Sequential(nn.Flatten(), nn.Linear(144, 4)), "its output has shape (4, 1, 1), expected 3 logits"),
    (Holding(), "it has buffers, shared parameters or parameters outside of its layers"),
    (Skipping(), "the input of out is not the output of the layer before it"),
]


@pytest.mark.parametrize(("module", "reason"), NO_CHAINS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_chain_says_why(module: nn.Module, reason: str) -> None:
    with pytest.raises(NotAChainError) as caught:
        trace_chain(module, SHAPE, 3)
    assert str(caught.value) == reason


def test_a_forward_that_looks_at_its_values_is_no_chain() -> None:
    with pytest.raises(NotAChainError, match="its forward is not a plain chain of layers"):
        trace_chain(Deciding(), SHAPE, 3)


def test_a_layer_that_is_used_twice_is_no_chain() -> None:
    layer = nn.Linear(144, 144)
    with pytest.raises(NotAChainError, match="shared parameters"):
        trace_chain(nn.Sequential(nn.Flatten(), layer, layer, nn.Linear(144, 3)), SHAPE, 3)


@pytest.mark.parametrize("name", ["resnet18", "res-cnn", "cnn-residual", "cnn-more-layers-residual"])
def test_residual_networks_are_no_chains(name: str) -> None:
    with pytest.raises(NotAChainError):
        get_chain(name, "relu", 0.0)
