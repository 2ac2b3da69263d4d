"""Architectures: every published network is, layer by layer, as its table has it."""

from pathlib import Path

import pytest
import torch
from helpers.networks import ALL, KINDS, SMALL
from helpers.processes import run
from torch import Tensor, nn

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.architectures.modules import SeededDropout
from modelzoo_datasets.recipes import ACTIVATIONS
from modelzoo_datasets.seeds import keyed_generator

ACTIVATION_OF = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}
RESNETS = [name for name in ALL if name not in SMALL]
with_and_without_dropout = pytest.mark.parametrize(
    ("name", "dropout"),
    [(name, p) for name in ALL for p in (0.0, 0.5) if p == 0 or get_architecture(name).takes_dropout],
)

# Name -> family, input shape, classes, trained parameters.
FACTS = {
    "cnn-s": ("cnn-s", (1, 28, 28), 10, 2_464),
    "cnn-s-rgb": ("cnn-s", (3, 28, 28), 10, 2_864),
    "cnn-m": ("cnn-m", (3, 32, 32), 10, 10_853),
    "resnet18": ("resnet18", (3, 32, 32), 10, 11_173_962),
    "resnet18-100": ("resnet18", (3, 32, 32), 100, 11_220_132),
    "resnet18-200": ("resnet18", (3, 64, 64), 200, 11_271_432),
    "res-cnn": ("res-cnn", (1, 28, 28), 10, 2_464 + 16 + 54 + 28),
    "cnn-more-layers": ("cnn-more-layers", (1, 28, 28), 10, 2_464),
    "cnn-more-layers-residual": ("cnn-more-layers-residual", (1, 28, 28), 10, 2_464),
    "cnn-residual": ("cnn-residual", (1, 28, 28), 10, 2_464),
    "small-cnn": ("small-cnn", (1, 28, 28), 10, 4_970),
    "small-cnn-colour": ("small-cnn", (3, 32, 32), 10, 4_970),
}

# Layers as they are run, with the shape of what they give where it changes. "drop?" is there with dropout only.
SMALL_CNN = """conv 8x24x24, pool 8x12x12, act, drop?, conv 6x8x8, pool 6x4x4, act, drop?, conv 4x3x3, act, flatten 36,
    linear 20, act, drop?, linear 10"""
FOUR_CONVOLUTIONS = "conv 8x24x24, pool 8x12x12, act, conv 4x8x8, act, conv 6x5x5, act, conv 4x3x3, act"
STEPS = {
    "cnn-s": SMALL_CNN,
    "cnn-s-rgb": SMALL_CNN,
    "cnn-m": """conv 16x30x30, pool 16x15x15, act, drop, conv 32x13x13, pool 32x6x6, act, drop, conv 15x4x4,
        pool 15x2x2, act, drop, flatten 60, linear 20, act, drop, linear 10""",
    "res-cnn": """conv 8x24x24, pool 8x12x12, act, pool 1x12x12, conv 8x12x12, conv 6x8x8, pool 6x4x4, act, pool 8x4x4,
        conv 6x4x4, conv 4x3x3, act, pool 6x3x3, conv 4x3x3, flatten 36, linear 20, act, linear 10""",
    "cnn-more-layers": f"{FOUR_CONVOLUTIONS}, flatten 36, linear 18, act, linear 10",
    "cnn-more-layers-residual": f"{FOUR_CONVOLUTIONS}, linear 18, act, linear 10",
    "cnn-residual": """conv 8x24x24, pool 8x12x12, act, conv 4x3x3, conv 6x8x8, pool 6x4x4, act, conv 4x3x3, act,
        linear 20, act, linear 10""",
}
POOLED = "mean 16x1x1, flatten 16, linear 10"
STEPS |= {
    "small-cnn": f"""identity 1x28x28, conv 16x13x13, act, drop, conv 16x6x6, act, drop, conv 16x2x2, act, drop,
        {POOLED}""",
    "small-cnn-colour": f"""MeanOfChannels 1x32x32, conv 16x15x15, act, drop, conv 16x7x7, act, drop, conv 16x3x3,
        act, drop, {POOLED}""",
}
WIDTHS = (64, 128, 256, 512)  # of the four stages of a ResNet


def resnet_steps(size: int, classes: int) -> str:
    steps = [f"conv 64x{size}x{size}, norm, act, identity"]
    for stage, width in enumerate(WIDTHS):
        shape = f"{width}x{size >> stage}x{size >> stage}"
        twice = f"conv {shape}, norm, act, conv {shape}, norm"
        skip = [f"conv {shape}, norm"] if stage > 0 else []
        steps += [twice, *skip, "act", twice, "act"]
    return ", ".join([*steps, "mean 512x1x1", f"linear {classes}"])


STEPS |= {name: resnet_steps(FACTS[name][1][1], FACTS[name][2]) for name in RESNETS}


def expected_steps(name: str, activation: str, dropout: float) -> list[tuple[str, tuple[int, ...]]]:
    """Words of STEPS with shapes; the activation is named."""
    found, shape = [], (0,)
    for step in STEPS[name].replace("\n", " ").split(","):
        word, _, size = step.strip().partition(" ")
        shape = tuple(int(part) for part in size.split("x")) if size else shape
        if word != "drop?" or dropout > 0:
            always = "relu" if name in RESNETS else activation
            found.append((ACTIVATION_OF[always].__name__ if word == "act" else word.removesuffix("?"), shape))
    return found


def executed_steps(module: nn.Module, input_shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """The modules without children in the order in which they run, each with the shape that it gives for one image."""
    words = {nn.Conv2d: "conv", nn.MaxPool2d: "pool", nn.Linear: "linear", nn.Flatten: "flatten"}
    words |= {SeededDropout: "drop", nn.BatchNorm2d: "norm", nn.Identity: "identity", nn.AdaptiveAvgPool2d: "mean"}
    found = []

    def note(layer: nn.Module, _: object, y: Tensor) -> None:
        kinds = [word for kind, word in words.items() if isinstance(layer, kind)]
        found.append((kinds[0] if kinds else type(layer).__name__, tuple(y.shape[1:])))

    for layer in module.modules():
        if not list(layer.children()):
            layer.register_forward_hook(note)
    module.eval()(torch.empty(1, *input_shape, device="meta"))  # shapes are all that is computed
    return found


# Weights of convolutions and linear layers in the order of the vector, with the names of their modules.
SMALL_SHAPES = [(8, 1, 5, 5), (6, 8, 5, 5), (4, 6, 2, 2), (20, 36), (10, 20)]
MORE_SHAPES = [(8, 1, 5, 5), (4, 8, 5, 5), (6, 4, 4, 4), (4, 6, 3, 3), (18, 36), (10, 18)]


def cnn_weights(name: str, dropout: float) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Module -> shape of its weight, whether it has a bias."""
    shapes, places = [(s, True) for s in SMALL_SHAPES], (0, 4, 8, 11, 14) if dropout > 0 else (0, 3, 6, 9, 11)
    numbered = [f"module_list.{place}" for place in places]
    if name == "cnn-s-rgb":
        shapes[0] = ((8, 3, 5, 5), True)
    elif name == "cnn-m":
        shapes = [(s, True) for s in ((16, 3, 3, 3), (32, 16, 3, 3), (15, 32, 3, 3), (20, 60), (10, 20))]
        numbered = [f"module_list.{place}" for place in (0, 4, 8, 13, 16)]
    elif name.startswith("small-cnn"):
        shapes = [((16, 1, 3, 3), True), ((16, 16, 3, 3), True), ((16, 16, 3, 3), True), ((10, 16), True)]
        numbered = [f"module_list.{place}" for place in (1, 4, 7, 12)]
    elif name == "res-cnn":
        shapes += [(s, True) for s in ((8, 1, 1, 1), (6, 8, 1, 1), (4, 6, 1, 1))]
        numbered += ["res1_conv", "res2_conv", "res3_conv"]
    elif name.startswith("cnn-more-layers"):
        shapes = list(zip(MORE_SHAPES, (True, False, False, False, True, True), strict=True))
        numbered = [f"layers.{place}" for place in (0, 3, 5, 7, 10, 12)]
        if name.endswith("residual"):
            numbered = ["conv1", "conv2", "conv3", "conv4", "fc5", "fc6"]
    elif name == "cnn-residual":
        numbered = ["conv1", "conv2", "conv3", "identity", "fc4", "fc5"]
        shapes = list(zip([*SMALL_SHAPES[:3], (4, 8, 1, 1), *SMALL_SHAPES[3:]], (0, 1, 0, 0, 0, 1), strict=True))
    return dict(zip(numbered, shapes, strict=True))


def resnet_state(classes: int) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a ResNet's state dict."""
    state: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        state[f"{conv}.weight"] = shape
        for kind in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{kind}"] = shape[:1]
        state[f"{norm}.num_batches_tracked"] = ()

    add("conv1", "bn1", (64, 3, 3, 3))
    for stage, width in enumerate(WIDTHS, 1):
        for block in (0, 1):
            path, inputs = f"layer{stage}.{block}", width // 2 if stage > 1 and block == 0 else width
            add(f"{path}.conv1", f"{path}.bn1", (width, inputs, 3, 3))
            add(f"{path}.conv2", f"{path}.bn2", (width, width, 3, 3))
            if inputs < width:
                add(f"{path}.downsample.0", f"{path}.downsample.1", (width, inputs, 1, 1))
    return {**state, "fc.weight": (classes, 512), "fc.bias": (classes,)}


def expected_state(name: str, dropout: float) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the state dict, in its order."""
    if name in RESNETS:
        return resnet_state(FACTS[name][2])
    state: dict[str, tuple[int, ...]] = {}
    for module, (shape, bias) in cnn_weights(name, dropout).items():
        state[f"{module}.weight"] = shape
        if bias:
            state[f"{module}.bias"] = shape[:1]
    return state


def test_every_architecture_is_in_the_tables() -> None:
    assert sorted(FACTS) == sorted(STEPS) == ALL


@pytest.mark.parametrize("name", ALL)
def test_an_architecture_has_its_family_images_and_number_of_parameters(name: str) -> None:
    architecture = get_architecture(name)
    parameters = sum(slot.size for slot in architecture.layout.slots if not slot.buffer)
    assert (architecture.family, architecture.input_shape, architecture.classes, parameters) == FACTS[name]


@pytest.mark.parametrize("name", ALL)
def test_buffers_are_the_statistics_and_counters_of_batchnorm(name: str) -> None:
    buffers = [slot for slot in get_architecture(name).layout.slots if slot.buffer]
    assert sum(slot.size for slot in buffers) == (9_620 if name in RESNETS else 0)
    assert sum(slot.shape == () for slot in buffers) == (20 if name in RESNETS else 0)
    assert all((slot.dtype == torch.int64) == (slot.shape == ()) for slot in buffers)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@with_and_without_dropout
def test_layers_run_in_the_published_order_with_the_published_shapes(
    name: str, dropout: float, activation: str
) -> None:
    architecture = get_architecture(name)
    with torch.device("meta"):
        module = architecture.build(activation, dropout)
    assert executed_steps(module, architecture.input_shape) == expected_steps(name, activation, dropout)
    assert all(layer.p == dropout for layer in module.modules() if isinstance(layer, SeededDropout))


@with_and_without_dropout
def test_the_state_dict_has_the_published_keys_and_shapes(name: str, dropout: float) -> None:
    state = get_architecture(name).module("tanh", dropout).state_dict()
    assert [(key, tuple(tensor.shape)) for key, tensor in state.items()] == list(expected_state(name, dropout).items())


@pytest.mark.parametrize("name", KINDS)
def test_an_architecture_maps_its_input_shape_to_its_classes(name: str) -> None:
    architecture = get_architecture(name)
    module = architecture.module("relu")
    initialize_weights(module, "kaiming_normal", keyed_generator(0, "init"))
    logits = module(torch.zeros(2, *architecture.input_shape))
    assert logits.shape == (2, architecture.classes)
    assert logits.isfinite().all()


def test_networks_and_their_twins_are_built_without_sympy(tmp_path: Path) -> None:
    code = (
        "import sys, torch\n"
        "torch.nn.Conv2d(1, 1, 1, device='meta')\n"
        "before = 'sympy' in sys.modules  # of an old torch\n"
        "from modelzoo_datasets.architectures import get_architecture\n"
        "from modelzoo_datasets.engines import variational_layout\n"
        "get_architecture('cnn-s').module('relu')\n"
        "variational_layout('cnn-s')\n"
        "print(('sympy' in sys.modules) - before)"
    )
    assert run(["python", "-c", code], cwd=tmp_path).stdout == "0\n"
