"""Variational layers against a slow float64 reference written element by element, and what sparsification promises.

The reference knows a layer as plain tensors of float64: weight, bias, and a log sigma² of each.
"""

import copy
import math
from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.resnet import BasicBlock

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.architectures.variational import (
    VariationalConv2d,
    VariationalLinear,
    log_sigma2_state,
    make_variational,
    penalty,
    penalty_weight,
    prune_state,
    seed_noise,
    sparsity,
)
from modelzoo_datasets.engines import one_thread
from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.images import Images
from modelzoo_datasets.seeds import keyed_generator

Layer = VariationalConv2d | VariationalLinear
Index = tuple[int, ...]
Values = dict[str, Tensor]
CONVOLUTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"bias": False, "padding": 1, "stride": 2},
    {"dilation": 2, "padding": (1, 2)},
    {"groups": 2, "stride": (2, 1)},
)
LAYERS = pytest.mark.parametrize("options", [None, *CONVOLUTIONS], ids=str)  # None is the linear layer


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    """These tensors are so small that a second thread would only wait."""
    with one_thread():
        yield


def random_layer(options: dict[str, Any] | None) -> Layer:
    """A small layer with random values: log alpha is anything, between its bounds and beyond them."""
    layer = make_variational(nn.Linear(6, 5) if options is None else nn.Conv2d(2, 4, 3, **options))
    assert isinstance(layer, Layer)
    draws = keyed_generator(0, "layer")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws))
        layer.log_sigma2.mul_(6)
        layer.weight.view(-1)[:3] = torch.tensor([0.0, 1e-20, 50.0])
    return layer


def inputs_of(layer: Layer) -> Tensor:
    shape = (3, 6) if isinstance(layer, VariationalLinear) else (2, 2, 6, 5)
    return torch.randn(shape, generator=keyed_generator(0, "inputs"))


def in_float64(layer: Layer) -> Values:
    return {name: p.detach().double().requires_grad_() for name, p in layer.named_parameters()}


def reference_log_alphas(layer: Layer, values: Values) -> dict[str, dict[Index, Tensor]]:
    """Of every noisy scalar; a constant, so without gradient, where it is out of bounds."""
    names, bound = {"weight": "log_sigma2"}, 10.0
    if isinstance(layer, VariationalConv2d):
        names, bound = {"weight": "log_sigma2", "bias": "log_sigma2_bias"}, 8.0
    found: dict[str, dict[Index, Tensor]] = {}
    for name in names.keys() & values.keys():
        found[name] = {}
        for index in product(*map(range, values[name].shape)):
            log_alpha = values[names[name]][index] - 2 * torch.log(values[name][index].abs() + 1e-15)
            beyond = abs(log_alpha.item()) > bound
            found[name][index] = log_alpha.detach().clamp(-bound, bound) if beyond else log_alpha
    return found


def reference_penalty(layer: Layer, values: Values) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for log_alphas in reference_log_alphas(layer, values).values():
        for a in log_alphas.values():
            rise = 0.63576 / (1 + torch.exp(-(1.8732 + 1.48695 * a)))
            total = total - (rise - 0.5 * torch.log(1 + torch.exp(-a)) - 0.63576)
    return total


def reference_reads(layer: Layer, x: Tensor) -> dict[Index, list[tuple[Index, Tensor]]]:
    """For every output unit the weights it reads, by index, each with its input; padding is not read."""
    if isinstance(layer, VariationalLinear):
        units = product(range(len(x)), range(layer.out_features))
        return {(n, o): [((o, i), x[n, i]) for i in range(layer.in_features)] for n, o in units}
    reads: dict[Index, list[tuple[Index, Tensor]]] = {}
    strides, paddings, dilations = layer.stride, [int(p) for p in layer.padding], layer.dilation
    channels, per_group = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    sizes = [(x.shape[2 + a] + 2 * paddings[a] - 2 * dilations[a] - 1) // strides[a] + 1 for a in range(2)]
    for n, o, i, j in product(range(len(x)), range(layer.out_channels), range(sizes[0]), range(sizes[1])):
        reads[n, o, i, j] = []
        for c, u, v in product(range(channels), range(3), range(3)):
            row = i * strides[0] - paddings[0] + u * dilations[0]
            column = j * strides[1] - paddings[1] + v * dilations[1]
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                reads[n, o, i, j].append(((o, c, u, v), x[n, o // per_group * channels + c, row, column]))
    return reads


def reference_forward(layer: Layer, values: Values, x: Tensor, noise: Tensor | None) -> Tensor:
    """Outputs with the noise given, one draw per unit; without any, those of eval mode."""
    log_alphas, reads = reference_log_alphas(layer, values), reference_reads(layer, x)
    result = torch.zeros([1 + max(column) for column in zip(*reads, strict=True)], dtype=torch.float64)
    for unit, terms in reads.items():
        mean, variance = torch.zeros(2, dtype=torch.float64)
        for index, value in terms:
            weight, log_alpha = values["weight"][index], log_alphas["weight"][index]
            if noise is not None or log_alpha < 3:
                mean = mean + weight * value
            variance = variance + log_alpha.exp() * weight**2 * value**2
        if "bias" in values:
            bias, noisy = values["bias"][unit[1]], "bias" in log_alphas
            if noise is not None or not noisy or log_alphas["bias"][unit[1],] < 3:
                mean = mean + bias
            if noisy:
                variance = variance + log_alphas["bias"][unit[1],].exp() * bias**2
        result[unit] = mean if noise is None else mean + noise[unit] * torch.sqrt(variance + 1e-15)
    return result


@LAYERS
def test_noisy_outputs_and_all_gradients_are_those_of_the_reference(options: dict[str, Any] | None) -> None:
    layer = random_layer(options)
    x = inputs_of(layer).requires_grad_()
    layer.generator = keyed_generator(1, "noise")
    found = layer(x)
    noise = torch.randn(found.shape, generator=keyed_generator(1, "noise")).double()
    values, exact_x = in_float64(layer), x.detach().double().requires_grad_()
    expected = reference_forward(layer, values, exact_x, noise)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    direction = torch.randn(found.shape, generator=keyed_generator(2, "direction"))
    (found * direction).sum().backward()
    (expected * direction.double()).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), exact_x.grad, rtol=1e-4, atol=1e-4)
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and values[name].grad is not None
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad.double(), values[name].grad, rtol=1e-4, atol=1e-4, msg=name)


@LAYERS
def test_outputs_in_eval_mode_are_those_of_the_reference(options: dict[str, Any] | None) -> None:
    layer = random_layer(options).eval()
    x = inputs_of(layer)
    with torch.no_grad():
        expected = reference_forward(layer, in_float64(layer), x.double(), None)
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert 0.1 < sparsity(layer) < 0.9


@LAYERS
def test_penalty_and_its_gradients_are_those_of_the_reference(options: dict[str, Any] | None) -> None:
    layer = random_layer(options)
    values = in_float64(layer)
    found, expected = penalty(layer), reference_penalty(layer, values)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    expected.backward()
    noisy = {"weight", "log_sigma2"} if isinstance(layer, VariationalLinear) else set(values)
    for name, parameter in layer.named_parameters():
        if name not in noisy:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.double(), values[name].grad, rtol=1e-4, atol=1e-6, msg=name)


def test_penalty_is_the_divergence_from_the_log_uniform_prior() -> None:
    # KL = E log|1 + sqrt(alpha) z| - log(alpha) / 2 + constant with normal z, and it vanishes as alpha grows.
    n = 200_000
    z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    constant = (0.5772156649 + math.log(2)) / 2  # -E log|z|, with Euler's constant
    for log_alpha in range(-7, 8):
        layer = VariationalLinear(1, 1)
        nn.init.ones_(layer.weight)
        nn.init.constant_(layer.log_sigma2, log_alpha)
        exact = (1 + math.exp(log_alpha / 2) * z).abs().log().mean().item() - log_alpha / 2 + constant
        assert penalty(layer).item() == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("options", [None, {}], ids=str)
def test_noisy_outputs_are_independent_gaussians_with_the_mean_and_variance_of_the_weights(
    options: dict[str, Any] | None,
) -> None:
    layer, draws = random_layer(options), 20_000
    layer.generator = keyed_generator(3, "noise")
    x = inputs_of(layer)[:1]
    with torch.no_grad():
        found = layer(x.expand(draws, *x.shape[1:])).double()  # every row is the same input with other noise
        mean, one_sigma = (
            reference_forward(layer, in_float64(layer), x.double(), torch.full_like(found[:1], z)) for z in (0.0, 1.0)
        )
        z = ((found - mean) / (one_sigma - mean)).flatten(1)
    assert z.mean(dim=0).abs().max() < 5 / math.sqrt(draws)
    assert (z.var(dim=0) - 1).abs().max() < 5 * math.sqrt(2 / draws)
    assert ((z**4).mean(dim=0) - 3).abs().max() < 5 * math.sqrt(96 / draws)
    between = (z.T @ z / draws).fill_diagonal_(0)
    assert between.abs().max() < 6 / math.sqrt(draws), "units share their noise"
    assert (z[1:] * z[:-1]).mean(dim=0).abs().max() < 5 / math.sqrt(draws), "inputs share their noise"


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e-15, 1e-5, 1.0, 1e4, 1e10, -1e10])
@pytest.mark.parametrize("log_sigma2", [-70.0, -10.0, 0.0, 20.0])
def test_gradients_are_finite_whatever_the_weights(weight: float, log_sigma2: float) -> None:
    for layer in (random_layer(None), random_layer({})):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.log_sigma2, log_sigma2)
        for x in (inputs_of(layer), torch.zeros_like(inputs_of(layer))):
            x.requires_grad_()
            (layer(x).sum() + penalty(layer)).backward()
            for tensor in (x, *layer.parameters()):
                assert tensor.grad is not None and tensor.grad.isfinite().all()


def test_a_variance_rounded_to_below_zero_is_no_noise() -> None:
    mean = torch.ones(4)
    found = VariationalLinear(1, 4).add_noise(mean, torch.tensor([-1e-6, -1e-12, -0.0, 0.0]))
    torch.testing.assert_close(found, mean)


def small_cnn() -> nn.Module:
    """A freshly initialised network in eval mode."""
    module = get_architecture("cnn-s").module("tanh")
    initialize_weights(module, "kaiming_uniform", keyed_generator(0, "init"))
    return module.eval()


def residual_network() -> nn.Sequential:
    """Convolutions without bias, strides, batch normalisation, layers inside blocks, and one that is used twice."""
    shared = nn.Conv2d(8, 8, 3, padding=1)
    downsample = nn.Sequential(nn.Conv2d(4, 8, 1, 2, bias=False), nn.BatchNorm2d(8))
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        BasicBlock(4, 8, 2, downsample),
        *(shared, nn.ReLU(), shared),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)),
    )
    draws = keyed_generator(0, "network")
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=draws) - (0.5 if tensor.dim() > 1 else 0))
    return network.eval()


def half_pruned(module: nn.Module) -> nn.Module:
    """About half of all weights get log alpha above 3."""
    make_variational(module)
    draws = keyed_generator(1, "log sigma²")
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if "log_sigma2" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=draws) * 4)
    return module


def outputs(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(module(torch.randn(5, 1, 28, 28, generator=keyed_generator(0, "images"))))


def noisy(module: nn.Module, seed: int) -> Tensor:
    seed_noise(module, keyed_generator(seed, "noise"))
    return outputs(module.train())


def test_all_layers_become_variational_and_keep_weights_names_and_shapes() -> None:
    for module in (small_cnn(), residual_network(), nn.Linear(3, 2), nn.Conv2d(1, 2, 3)):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert make_variational(module) is module
        after = module.state_dict()
        assert all(isinstance(layer, Layer) for layer in layers) and len(layers) > 0
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        for name in after.keys() - before.keys():
            plain = name.replace("log_sigma2_bias", "bias").replace("log_sigma2", "weight")
            assert after[name].shape == before[plain].shape and bool((after[name] == -10).all())
        assert {n.rpartition(".")[2] for n in after.keys() - before.keys()} <= {"log_sigma2", "log_sigma2_bias"}


def test_the_small_cnn_has_the_published_names() -> None:
    added = log_sigma2_state(make_variational(small_cnn()))
    convolutions, linear = (0, 3, 6), (9, 11)
    assert set(added) == {
        *(f"module_list.{i}.log_sigma2" for i in convolutions + linear),
        *(f"module_list.{i}.log_sigma2_bias" for i in convolutions),
    }
    assert all(bool((tensor == -10).all()) for tensor in added.values())


def test_layers_can_be_made_from_nothing_and_only_once() -> None:
    convolution, linear = VariationalConv2d(2, 3, 5, bias=False), VariationalLinear(4, 5)
    assert set(convolution.state_dict()) == {"weight", "log_sigma2"}
    assert set(linear.state_dict()) == {"weight", "bias", "log_sigma2"}
    network = half_pruned(residual_network())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    after = make_variational(network).state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_a_layer_with_a_forward_of_its_own_stays_what_it_is_and_one_without_does_not() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Named(nn.Linear):
        pass

    module = make_variational(nn.Sequential(Doubled(2, 2), Named(2, 2)))
    assert [type(layer) for layer in module.children()] == [Doubled, VariationalLinear]


def test_at_first_only_weights_near_zero_are_pruned() -> None:
    plain = small_cnn()
    with torch.no_grad():
        for i, name in enumerate(("module_list.0.weight", "module_list.9.weight", "module_list.3.bias")):
            plain.get_parameter(name).view(-1)[:3] = math.exp(-6.5) * torch.tensor([0.999, -0.5, 1.001]) * (-1) ** i
    variational = make_variational(copy.deepcopy(plain)).eval()
    for parameter in plain.parameters():
        if parameter.dim() > 1 or parameter is plain.get_parameter("module_list.3.bias"):
            parameter.data[parameter.abs() <= math.exp(-6.5)] = 0
    weights = torch.cat([p.flatten() for p in plain.parameters() if p.dim() > 1])
    assert (weights == 0).sum() >= 4
    assert torch.equal(outputs(variational), outputs(plain))
    assert sparsity(variational) == (weights == 0).sum().item() / len(weights)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_pruned_state_is_the_network_in_eval_mode_to_the_bit(memory_format: torch.memory_format) -> None:
    for plain in (small_cnn(), residual_network()):
        plain.to(memory_format=memory_format)
        variational = half_pruned(copy.deepcopy(plain))
        state = prune_state(variational)
        assert list(state) == list(plain.state_dict()), "the plain architecture's names"
        assert not torch.equal(outputs(plain), outputs(variational))
        plain.load_state_dict(state)
        assert torch.equal(outputs(plain), outputs(variational))
        unpruned = variational.state_dict()
        for name, tensor in state.items():
            assert torch.equal(tensor[tensor != 0], unpruned[name][tensor != 0])
            assert tensor.data_ptr() != unpruned[name].data_ptr()


def test_sparsity_counts_weights_each_once_and_no_biases() -> None:
    network = half_pruned(residual_network())
    layers = [m for m in network.modules() if isinstance(m, Layer)]
    pruned = total = 0
    for layer in layers:
        for log_alpha in reference_log_alphas(layer, in_float64(layer))["weight"].values():
            pruned, total = pruned + (log_alpha.item() >= 3), total + 1
    assert sparsity(network) == pruned / total and 0.2 < pruned / total < 0.8
    assert penalty(network).item() == pytest.approx(
        sum(reference_penalty(layer, in_float64(layer)).item() for layer in layers), rel=1e-5
    )


def test_the_ramp_begins_at_zero_and_rises_evenly_to_at_most_one() -> None:
    weights = [penalty_weight(epoch, 25) for epoch in range(1, 26)]
    assert weights[0] == 0.0 and weights[-1] == pytest.approx(0.01 * 24 / 25)
    assert [b - a for a, b in pairwise(weights)] == pytest.approx([0.01 / 25] * 24)
    assert penalty_weight(1, 1) == 0.0
    assert penalty_weight(201, 2) == penalty_weight(1000, 2) == 1.0


@pytest.mark.parametrize(("epoch", "epochs"), [(0, 25), (-1, 25), (1, 0)])
def test_epochs_are_counted_from_one(epoch: int, epochs: int) -> None:
    with pytest.raises(ModelZooError, match=f"^epoch and epochs must be at least 1, got epoch {epoch} of {epochs}$"):
        penalty_weight(epoch, epochs)


@pytest.mark.parametrize("function", [penalty, sparsity, prune_state, log_sigma2_state])
def test_a_plain_module_is_refused(function: Any) -> None:
    message = (
        r"^expected a module with variational layers, but Sequential has none; call make_variational\(module\) first$"
    )
    with pytest.raises(ModelZooError, match=message):
        function(nn.Sequential(nn.Linear(2, 2)))
    seed_noise(nn.Linear(2, 2), None)


def test_noise_comes_from_the_generator_given_and_no_other() -> None:
    network = residual_network()
    before = torch.get_rng_state()
    half_pruned(network)
    first, again, other = noisy(network, 1), noisy(network, 1), noisy(network, 2)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was touched"
    seed_noise(network, None)
    with torch.random.fork_rng():
        assert not torch.equal(outputs(network), outputs(network))
        assert not torch.equal(torch.get_rng_state(), before), "without a generator it is torch's own"
    assert torch.equal(outputs(network.eval()), outputs(network)), "eval mode draws nothing"


def trained(images: Images, weight: float) -> nn.Module:
    """The small CNN after 200 steps on a few images with a penalty of that weight."""
    module = make_variational(small_cnn().train())
    seed_noise(module, keyed_generator(0, "noise"))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.03)
    inputs, labels, order = images.inputs("train"), images.labels("train"), keyed_generator(0, "order")
    for _ in range(200):
        index = torch.randperm(len(labels), generator=order)[:25]
        loss = cross_entropy(module(inputs[index]), labels[index]) + weight * penalty(module)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def test_training_with_a_penalty_prunes_what_is_nearly_all_noise(few_images: Images) -> None:
    begin = sparsity(make_variational(small_cnn()))
    without, module = trained(few_images, 0.0), trained(few_images, 3e-3)
    assert begin < 0.02 and sparsity(without) < 0.1 and sparsity(module) > 0.5
    with torch.no_grad():
        guesses = module(few_images.inputs("train")).argmax(dim=1)
    assert (guesses == few_images.labels("train")).float().mean() > 0.5, "it learned nothing"
    state = prune_state(module)
    for name, layer in module.named_modules():
        if isinstance(layer, Layer):
            zero, values = state[f"{name}.weight"] == 0, in_float64(layer)
            for index, log_alpha in reference_log_alphas(layer, values)["weight"].items():
                if abs(log_alpha.item() - 3) > 1e-5:
                    assert bool(zero[index]) == (log_alpha.item() > 3)
