"""The compiled kernel against float64 autograd and torch's optimizers, on every kind of stage and instruction set."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.engines.chain import trace_chain
from modelzoo_datasets.engines.native.bindings import CompiledNetwork, KernelImages, NativeModel, TrainingSteps
from modelzoo_datasets.engines.native.compiler import AVX2, AVX512, PORTABLE, detect_instruction_set
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.layout import Layout

HERE = detect_instruction_set()
TARGETS = [PORTABLE, *((AVX2,) if HERE in (AVX2, AVX512) else ()), *((AVX512,) if HERE is AVX512 else ())]
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}
N = 13  # images of a batch


def _shape(architecture: str) -> tuple[int, int, int]:
    return get_architecture(architecture).input_shape


def _odd(act: type[nn.Module]) -> nn.Sequential:
    """Return a network with sizes that fill no vector, odd pooling, an activation before pooling and no bias."""
    return nn.Sequential(
        *(nn.Conv2d(2, 3, (3, 2)), nn.MaxPool2d(2), act()),  # 2x11x13 -> 3x9x12 -> 3x4x6
        *(nn.Conv2d(3, 17, 2, bias=False), act(), nn.MaxPool2d(2)),  # -> 17x3x5 -> 17x1x2
        *(nn.Flatten(), nn.Linear(34, 9, bias=False), act(), nn.Linear(9, 5)),
    )


def _wide(act: type[nn.Module]) -> nn.Sequential:
    """Return a network with more accumulators than registers."""
    return nn.Sequential(
        *(nn.Conv2d(1, 40, 3), nn.MaxPool2d(2), act()), nn.Conv2d(40, 33, 5), act(), nn.Flatten(), nn.Linear(33, 5)
    )


def _linear(act: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(50, 24), act(), nn.Linear(24, 6), act(), nn.Linear(6, 5))


MADE = {"odd": (_odd, (2, 11, 13)), "wide": (_wide, (1, 12, 12)), "linear": (_linear, (2, 5, 5))}
NAMES = ["cnn-s", "cnn-s-rgb", "cnn-m", "cnn-more-layers", *MADE]


def made(name: str, activation: str, init: str = "kaiming_uniform") -> tuple[nn.Module, CompiledNetwork, KernelImages]:
    """Return a module with random weights, its compiled network and a batch of images."""
    if name in MADE:
        build, shape = MADE[name]
        module: nn.Module = build(ACTIVATIONS[activation])
    else:
        module, shape = get_architecture(name).module(activation), _shape(name)
    initialize_weights(module, init, keyed_generator(1, "init"))
    classes = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1].out_features
    draws = keyed_generator(0, "images")
    images = torch.randn(N, *shape, generator=draws)
    images[:3] = 0.5  # constant images, in which all cells of a window are equal
    labels = torch.randint(classes, (N,), generator=draws)
    return (
        module,
        CompiledNetwork(trace_chain(module, shape, classes), Layout.from_module(module), HERE),
        KernelImages.from_tensors(images, labels),
    )


def inputs(pixels: KernelImages, shape: tuple[int, ...]) -> Tensor:
    channels, height, width = shape
    return pixels.images[: N * math.prod(shape)].view(N, height, width, channels).permute(0, 3, 1, 2)


def vector(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def steps(n: int, batch_size: int, lr: float, momentum: float) -> TrainingSteps:
    count = -(-n // batch_size)
    rates = (torch.full((count,), value, dtype=torch.float64) for value in (lr, momentum))
    return TrainingSteps(order=torch.arange(n), batch_size=batch_size, lr=next(rates), momentum=next(rates))


def training(optimizer: str = "sgd", **changes: Any) -> Training:
    values = {"epochs": 1, "batch_size": N, "activation": "tanh", "init": "uniform", "lr": 1.0, **changes}
    return Training(optimizer=optimizer, **values)


def gradient(module: nn.Module, network: CompiledNetwork, pixels: KernelImages) -> Tensor:
    """Return the gradient of the mean loss, from one huge step of SGD that makes the weights negligible."""
    start, lr = vector(module), 2.0**20
    model = NativeModel(network, training(), start)
    model.train(pixels, steps(N, N, lr, 0.0))
    return (start.double() - model.vector().double()) / lr


def exact(module: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and gradient in float64."""
    module = copy.deepcopy(module).double()
    loss = cross_entropy(module(x.double()), labels)
    loss.backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return loss.detach(), torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_float64_autograd(name: str, activation: str) -> None:
    module, network, pixels = made(name, activation)
    x = inputs(pixels, MADE[name][1] if name in MADE else _shape(name))
    loss, expected = exact(module, x, pixels.labels)
    found = gradient(module, network, pixels)
    assert (found - expected).norm() < 1e-6 * expected.norm()
    summed, _ = network.evaluate(vector(module), pixels, 10)
    assert summed / N == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("init", ["uniform", "normal", "xavier_normal"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_hold_on_the_published_inits_too(activation: str, init: str) -> None:
    """Test U(0, 1) weights, which saturate most units."""
    module, network, pixels = made("cnn-s", activation, init)
    x = inputs(pixels, _shape("cnn-s"))
    _, expected = exact(module, x, pixels.labels)
    cross_entropy(module(x), pixels.labels).backward()
    theirs = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    # 1 - tanh² close to 0 has lost digits in float32, in torch as here; the order of sums decides how many.
    allowed = max(1e-6, 5 * ((theirs - expected).norm() / expected.norm()).item())
    assert allowed < 1e-4
    assert (gradient(module, network, pixels) - expected).norm() < allowed * expected.norm()


@pytest.mark.parametrize("name", ["cnn-s", "odd"])
def test_outputs_are_those_of_the_module(name: str) -> None:
    module, network, pixels = made(name, "gelu")
    logits = torch.empty(N, 10 if name == "cnn-s" else 5)
    network.evaluate(vector(module), pixels, logits.shape[1], logits)
    x = inputs(pixels, MADE[name][1] if name in MADE else _shape(name))
    with torch.no_grad():
        torch.testing.assert_close(logits, module(x), rtol=1e-5, atol=1e-5)


OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("batch_size", [1, 5, 13])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_those_of_torch_optim(optimizer: str, batch_size: int) -> None:
    """Test rates that change from step to step, weight decay, and a smaller last batch."""
    module, network, pixels = made("odd", "tanh")
    x, draws = inputs(pixels, MADE["odd"][1]).double(), keyed_generator(0, "rates")
    order = torch.randint(N, (3 * N,), generator=draws)
    count = -(-len(order) // batch_size)
    lr, momentum = 0.001 + 0.01 * torch.rand(2, count, generator=draws, dtype=torch.float64)
    momentum = 0.8 + momentum
    model = NativeModel(network, training(optimizer, weight_decay=0.1), vector(module))
    model.train(pixels, TrainingSteps(order=order, batch_size=batch_size, lr=lr, momentum=momentum))
    by_hand = copy.deepcopy(module).double()
    theirs = OPTIMIZERS[optimizer](by_hand.parameters(), lr=1.0, weight_decay=0.1)
    for step, index in enumerate(order.split(batch_size)):
        group = theirs.param_groups[0]
        group["lr"] = lr[step].item()
        if optimizer == "sgd":
            group["momentum"] = momentum[step].item()
        else:
            group["betas"] = (momentum[step].item(), 0.999)
        theirs.zero_grad()
        cross_entropy(by_hand(x[index]), pixels.labels[index]).backward()
        theirs.step()
    expected = vector(by_hand)
    assert (model.vector() - expected).norm() < 1e-6 * expected.norm()
    assert (expected - vector(module)).norm() > 0.01 * expected.norm()


def test_a_saturated_unit_has_no_gradient_at_all() -> None:
    """Test that saturated units have no gradient, as in torch: Adam would turn 1e-7 into a full step."""
    module, network, pixels = made("linear", "tanh")
    with torch.no_grad():
        module[1].weight.zero_()
        module[1].bias.copy_(torch.linspace(-60, 60, 24))  # type: ignore[arg-type]
    cross_entropy(module(inputs(pixels, MADE["linear"][1])), pixels.labels).backward()
    expected = module[1].bias.grad.double()  # type: ignore[union-attr, operator]
    found = gradient(module, network, pixels)[24 * 50 : 24 * 50 + 24]
    saturated = module[1].bias.detach().abs() > 9.02  # type: ignore[operator, union-attr]
    assert saturated.sum() > 15 and not expected[saturated].any()
    assert not found[saturated].any() and found[~saturated].all()
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1e-8)


@pytest.mark.parametrize("name", ["cnn-s", "odd"])
def test_instruction_sets_agree(name: str) -> None:
    """Test instruction sets: equal bits if all have fused multiply-adds, equal to rounding otherwise."""
    found: dict[str, Tensor] = {}
    for target in TARGETS:
        module, network, pixels = made(name, "tanh")
        network = CompiledNetwork(trace_chain(module, *_shape_and_classes(name)), Layout.from_module(module), target)
        model = NativeModel(network, training("adam", lr=1e-3), vector(module))
        model.train(pixels, steps(N, 4, 1e-3, 0.9))
        found[target.name] = model.vector()
    fused = [weights for name, weights in found.items() if name != PORTABLE.name]
    assert all(torch.equal(weights, fused[0]) for weights in fused)
    torch.testing.assert_close(found[PORTABLE.name], found[HERE.name], rtol=1e-3, atol=1e-4)


def _shape_and_classes(name: str) -> tuple[tuple[int, int, int], int]:
    return (MADE[name][1], 5) if name in MADE else (_shape(name), get_architecture(name).classes)


def test_where_a_vector_begins_changes_nothing() -> None:
    """A module whose parameters have another order than its layers."""

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(8, 5), nn.Linear(50, 8)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.last(self.first(x.flatten(1)))
            return logits

    module = Backwards()
    initialize_weights(module, "kaiming_uniform", keyed_generator(1, "init"))
    pixels = made("linear", "tanh")[2]
    network = CompiledNetwork(trace_chain(module, (2, 5, 5), 5), Layout.from_module(module), HERE)
    _, expected = exact(module, inputs(pixels, (2, 5, 5)), pixels.labels)
    assert (gradient(module, network, pixels) - expected).norm() < 1e-6 * expected.norm()


def test_what_is_not_finite_stays_so() -> None:
    for activation in ACTIVATIONS:
        module, network, pixels = made("cnn-s", activation)
        weights = vector(module)
        weights[5] = math.nan
        model = NativeModel(network, training("adam", lr=1e-3), weights)
        loss, _ = model.train(pixels, steps(N, N, 1e-3, 0.9))
        assert math.isnan(loss) and model.vector().isnan().any()


def test_a_network_without_settings_of_its_own_is_compiled_once() -> None:
    a, b = (made("cnn-s", activation)[1] for activation in ("tanh", "gelu"))
    assert a.library is b.library
