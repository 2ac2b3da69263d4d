"""The registry of architectures: what a recipe names, what is refused, and networks of one's own."""

from collections.abc import Iterator

import pytest
import torch
from helpers.networks import ALL
from torch import Tensor, nn

from modelzoo_datasets.architectures import (
    Architecture,
    architecture_names,
    build_module,
    get_architecture,
    initialize_weights,
    register_architecture,
    registry,
    resolve_architecture,
)
from modelzoo_datasets.architectures.modules import seed_dropout
from modelzoo_datasets.errors import RecipeError
from modelzoo_datasets.seeds import keyed_generator

HINT = "; to use your own, pass --plugin FILE, a Python file that registers it"
KNOWN = (
    "cnn-m, cnn-more-layers, cnn-more-layers-residual, cnn-residual, cnn-s, cnn-s-rgb, res-cnn, resnet18, "
    "resnet18-100, resnet18-200, small-cnn, small-cnn-colour"
)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy, so that what a test registers is unknown to the others."""
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    yield


def build_own(activation: str, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 4))


def own(name: str = "own", family: str = "") -> Architecture:
    return Architecture(name, (1, 8, 8), 4, build_own, family=family)


@pytest.mark.parametrize("name", ALL)
def test_an_exact_name_means_itself_for_its_own_images(name: str) -> None:
    architecture = get_architecture(name)
    assert architecture.name == name
    assert resolve_architecture(name, architecture.input_shape, architecture.classes) is architecture


@pytest.mark.parametrize("name", ALL)
def test_a_family_means_the_variant_for_the_images(name: str) -> None:
    architecture = get_architecture(name)
    assert resolve_architecture(architecture.family, architecture.input_shape, architecture.classes) is architecture


def test_shapes_may_come_as_any_sequence() -> None:
    assert resolve_architecture("cnn-s", torch.zeros(5, 3, 28, 28).shape[1:], 10).name == "cnn-s-rgb"


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        (
            "cnn-s",
            (3, 32, 32),
            10,
            "architecture 'cnn-s' has no variant for 3×32×32 images of 10 classes; it has cnn-s for 1×28×28 "
            "images of 10 classes, cnn-s-rgb for 3×28×28 images of 10 classes",
        ),
        (
            "cnn-s-rgb",
            (1, 28, 28),
            10,
            "architecture 'cnn-s-rgb' has no variant for 1×28×28 images of 10 classes; it has cnn-s-rgb for "
            "3×28×28 images of 10 classes",
        ),
        (
            "resnet18",
            (3, 64, 64),
            100,
            "architecture 'resnet18' has no variant for 3×64×64 images of 100 classes; it has resnet18 for "
            "3×32×32 images of 10 classes, resnet18-100 for 3×32×32 images of 100 classes, resnet18-200 for 3×64×64 "
            "images of 200 classes",
        ),
        ("resnet81", (3, 32, 32), 10, f"unknown architecture 'resnet81'; did you mean 'resnet18'?{HINT}"),
        ("transformer", (3, 32, 32), 10, f"unknown architecture 'transformer'; known: {KNOWN}{HINT}"),
    ],
)
def test_images_that_no_variant_is_made_for_are_refused(
    name: str, shape: tuple[int, ...], classes: int, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_architecture(name, shape, classes)
    assert str(caught.value) == message


@pytest.mark.parametrize(("name", "hint"), [("cnn-z", "did you mean 'cnn-s'?"), ("transformer", f"known: {KNOWN}")])
def test_an_unknown_architecture_is_answered_with_the_nearest_one_or_all(name: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        get_architecture(name)
    assert str(caught.value) == f"unknown architecture {name!r}; {hint}{HINT}"


@pytest.mark.parametrize("name", ["res-cnn", "cnn-more-layers", "cnn-more-layers-residual", "cnn-residual"])
def test_dropout_is_refused_where_there_is_none(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        get_architecture(name).module("tanh", 0.2)
    assert str(caught.value) == f"architecture {name} has no dropout: dropout must be 0, got 0.2"
    get_architecture(name).check_dropout(0.0)


@pytest.mark.usefixtures("own_registry")
def test_ones_own_architecture_is_known_after_one_call() -> None:
    mine = register_architecture(own())
    assert mine.family == "own" and mine.symmetry == ()
    assert get_architecture("own") is mine is resolve_architecture("own", (1, 8, 8), 4)
    assert "own" in architecture_names()
    module = mine.module("relu")
    initialize_weights(module, "xavier_normal", keyed_generator(0, "init"))
    again = build_module(mine, mine.layout.pack(module.state_dict()), activation="relu")
    x = torch.randn(2, 1, 8, 8, generator=keyed_generator(0, "x"))
    assert torch.equal(again(x), module(x))


@pytest.mark.usefixtures("own_registry")
def test_ones_own_variant_joins_a_family() -> None:
    mine = register_architecture(own(family="cnn-s"))
    assert resolve_architecture("cnn-s", (1, 8, 8), 4) is mine is resolve_architecture("own", (1, 8, 8), 4)
    assert resolve_architecture("cnn-s", (1, 28, 28), 10).name == "cnn-s"


@pytest.mark.usefixtures("own_registry")
def test_an_exact_name_comes_before_a_family_of_the_same_name() -> None:
    register_architecture(Architecture("own", (3, 28, 28), 10, build_own, family="cnn-s-rgb"))
    assert resolve_architecture("cnn-s-rgb", (3, 28, 28), 10).name == "cnn-s-rgb"


@pytest.mark.usefixtures("own_registry")
def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="^architecture 'cnn-s' is already registered; choose another name$"):
        register_architecture(get_architecture("cnn-s"))


@pytest.mark.usefixtures("own_registry")
def test_a_family_has_one_variant_for_the_same_images() -> None:
    register_architecture(own(family="mine"))
    with pytest.raises(ValueError) as caught:
        register_architecture(own("other", family="mine"))
    assert str(caught.value) == "architecture 'other': family 'mine' already has 'own' for 1×8×8 images of 4 classes"


class WithConstants(nn.Module):
    """A network with fixed numbers of its own, in the state dict and outside it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.5))
        self.register_buffer("mask", torch.arange(4.0), persistent=False)
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4) -> (B, 3)."""
        y: Tensor = self.layer((x - self.mean) * self.mask)
        return y


def test_constants_of_a_network_are_there_whether_the_state_dict_has_them_or_not() -> None:
    architecture = Architecture("constants", (1, 2, 2), 3, lambda activation, dropout: WithConstants())
    before = torch.get_rng_state()
    module = architecture.module("relu")
    initialize_weights(module, "normal", keyed_generator(0, "init"))
    assert torch.equal(torch.get_rng_state(), before)
    assert module.mean == 0.5 and torch.equal(module.mask, torch.arange(4.0))
    assert [slot.name for slot in architecture.layout.slots] == ["layer.weight", "layer.bias", "mean"]
    again = build_module(architecture, architecture.layout.pack(module.state_dict()), activation="relu")
    x = torch.randn(5, 4, generator=keyed_generator(0, "x"))
    assert torch.equal(again(x), module(x))


def dropping(kind: type[nn.Module]) -> Architecture:
    def build(activation: str, dropout: float) -> nn.Module:
        return nn.Sequential(nn.Flatten(), kind(dropout), nn.Linear(64, 4))

    return Architecture("dropping", (1, 8, 8), 4, build)


def test_plain_dropout_of_ones_own_network_draws_from_the_models_generator() -> None:
    def masked(seed: int) -> Tensor:
        module = dropping(nn.Dropout).module("tanh", 0.5).train()
        seed_dropout(module, keyed_generator(seed, "dropout"))
        return module[1](torch.ones(3, 64))  # type: ignore[index, no-any-return]

    before = torch.get_rng_state()
    assert torch.equal(masked(1), masked(1))
    assert not torch.equal(masked(1), masked(2))
    assert set(masked(1).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_that_draws_from_the_global_generator_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        dropping(nn.AlphaDropout).module("tanh", 0.5)
    assert str(caught.value) == "AlphaDropout cannot draw from the generator of the model; use nn.Dropout"
