"""States of the originals load: networks in plain torch, straight from their tables, beside ours."""

import math
from pathlib import Path

import pytest
import torch
from helpers.networks import ALL, KINDS, SMALL, random_states
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modelzoo_datasets.architectures import build_module, get_architecture
from modelzoo_datasets.recipes import ACTIVATIONS
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.layout import Layout

ACTIVATION_OF = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}
RESNETS = [name for name in ALL if name not in SMALL]


class Published(nn.Module):
    """A CNN as the originals hold it: all layers in one list of this name."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.module_list:
            x = layer(x)
        return x


def published_small(channels: int, activation: type[nn.Module], p: float) -> nn.Module:
    dropout = [nn.Dropout(p)] if p > 0 else []
    return Published(
        *(nn.Conv2d(channels, 8, kernel_size=5), nn.MaxPool2d(2, 2), activation(), *dropout),
        *(nn.Conv2d(8, 6, kernel_size=5), nn.MaxPool2d(2, 2), activation(), *dropout),
        *(nn.Conv2d(6, 4, kernel_size=2), activation(), nn.Flatten()),
        *(nn.Linear(36, 20), activation(), *dropout),
        nn.Linear(20, 10),
    )


def published_medium(activation: type[nn.Module], p: float) -> nn.Module:
    def rest() -> tuple[nn.Module, ...]:
        return activation(), nn.Dropout(p)

    return Published(
        *(nn.Conv2d(3, 16, kernel_size=3), nn.MaxPool2d(2, 2), *rest()),
        *(nn.Conv2d(16, 32, kernel_size=3), nn.MaxPool2d(2, 2), *rest()),
        *(nn.Conv2d(32, 15, kernel_size=3), nn.MaxPool2d(2, 2), *rest()),
        *(nn.Flatten(), nn.Linear(60, 20), *rest()),
        nn.Linear(20, 10),
    )


def published_resnet(classes: int) -> nn.Module:
    from torchvision.models import resnet18

    module = resnet18(num_classes=classes)
    module.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    module.maxpool = nn.Identity()
    return module


def published(name: str, activation: str, p: float) -> nn.Module:
    """Plain torch, straight from the tables of the originals."""
    if name in RESNETS:
        return published_resnet(get_architecture(name).classes)
    if name == "cnn-m":
        return published_medium(ACTIVATION_OF[activation], p)
    return published_small({"cnn-s": 1, "cnn-s-rgb": 3}[name], ACTIVATION_OF[activation], p)


def randomise(module: nn.Module) -> None:
    """Weights of the size that signals keep, all else near its default: every tensor has its say in the output."""
    draws = keyed_generator(0, "published")
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if not tensor.is_floating_point():
                tensor.fill_(1234)
            elif tensor.ndim > 1:
                tensor.normal_(std=math.prod(tensor.shape[1:]) ** -0.5, generator=draws)
            else:
                tensor.uniform_(0.5, 1.5, generator=draws)


@pytest.mark.parametrize(
    ("name", "activation", "dropout"),
    [
        *((name, a, p) for name in ("cnn-s", "cnn-s-rgb", "cnn-m") for a in ACTIVATIONS for p in (0.0, 0.3)),
        ("resnet18", "relu", 0.0),
        pytest.param("resnet18-100", "relu", 0.0, marks=pytest.mark.slow),
        pytest.param("resnet18-200", "relu", 0.0, marks=pytest.mark.slow),
    ],
)
def test_a_published_state_loads_and_computes_the_same(
    name: str, activation: str, dropout: float, tmp_path: Path
) -> None:
    original = published(name, activation, dropout)
    randomise(original)
    save_file(original.state_dict(), tmp_path / "state.safetensors")
    state = load_file(tmp_path / "state.safetensors")
    architecture = get_architecture(name)
    ours = architecture.module(activation, dropout)
    ours.load_state_dict(state, strict=True)
    through_a_vector = build_module(
        architecture, Layout.from_module(ours).pack(state), activation=activation, dropout=dropout
    )
    x = torch.randn(2, *architecture.input_shape, generator=keyed_generator(0, "x"))
    with torch.no_grad():
        expected = original.eval()(x)
        assert expected.std() > 0.01
        assert torch.equal(ours.eval()(x), expected)
        assert torch.equal(through_a_vector(x), expected)
    again = through_a_vector.state_dict()
    assert all(torch.equal(again[key], tensor) and again[key].dtype == tensor.dtype for key, tensor in state.items())


def test_a_small_cnn_with_branches_that_give_nothing_is_the_small_cnn() -> None:
    small, changed = get_architecture("cnn-s"), get_architecture("res-cnn")
    weights = random_states("res-cnn", 1)[0]
    weights[small.layout.size :] = 0
    x = torch.randn(4, 1, 28, 28, generator=keyed_generator(0, "x"))
    with torch.no_grad():
        without = build_module(small, weights[: small.layout.size], activation="gelu")(x)
        assert torch.equal(build_module(changed, weights, activation="gelu")(x), without)


@pytest.mark.parametrize("name", ["res-cnn", "cnn-more-layers-residual", "cnn-residual"])
def test_changed_cnns_compute_what_their_descriptions_say(name: str) -> None:
    architecture = get_architecture(name)
    module = build_module(architecture, random_states(name, 1)[0], activation="tanh").double()
    x = torch.randn(3, 1, 28, 28, generator=keyed_generator(0, "x")).double()
    pool = nn.functional.max_pool2d
    with torch.no_grad():
        if name == "res-cnn":
            small = module.module_list
            h = small[2](small[1](small[0](x))) + module.res1_conv(pool(x, 5, 2))
            h = small[5](small[4](small[3](h))) + module.res2_conv(pool(h, 5, 2))
            h = small[7](small[6](h)) + module.res3_conv(pool(h, 2, 1))
            expected = small[11](small[9](h.flatten(1)).tanh())
        elif name == "cnn-residual":
            first = pool(module.conv1(x), 2).tanh()
            third = module.conv3(pool(module.conv2(first), 2).tanh()).tanh()
            h = third + module.identity(first)[:, :, ::4, ::4]
            expected = module.fc5(module.fc4(h.flatten(1)).tanh())
        else:
            second = module.conv2(pool(module.conv1(x), 2).tanh()).tanh()
            fourth = module.conv4(module.conv3(second).tanh()).tanh()
            h = fourth + second[:, :, [1, 3, 5]][:, :, :, [1, 3, 5]]
            expected = module.fc6(module.fc5(h.flatten(1)).tanh())
        torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "dropout"), [*((name, 0.0) for name in KINDS), ("cnn-s", 0.3), ("cnn-m", 0.3)])
def test_a_module_from_a_vector_has_its_weights_and_shares_no_memory(name: str, dropout: float) -> None:
    architecture, vector = get_architecture(name), random_states(name, 1)[0]
    before = vector.clone()
    module = build_module(architecture, vector, activation="relu", dropout=dropout)
    assert not module.training
    assert torch.equal(Layout.from_module(module).pack(module.state_dict()), vector)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.zero_()
    assert torch.equal(vector, before)
