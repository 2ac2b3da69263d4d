"""Batched networks against plain modules: logits, cross entropy and gradients."""

from typing import Any

import pytest
import torch
from helpers.networks import random_states
from torch import Tensor

from modelzoo_datasets.architectures import build_module, get_architecture
from modelzoo_datasets.engines import BatchedNetwork, NetworkSpec, get_engine, make_batched_network
from modelzoo_datasets.engines.functional import NativeBatchedNetwork, TorchBatchedNetwork
from modelzoo_datasets.seeds import keyed_generator

MODELS, IMAGES, CLASSES = 3, 7, 10
CASES = [
    ("native", "cnn-s", "tanh"),
    ("native", "cnn-m", "relu"),
    ("torch", "cnn-s", "gelu"),
    ("torch", "cnn-m", "tanh"),
]


def _case(architecture: str) -> tuple[Tensor, Tensor, Tensor]:
    draws = keyed_generator(1, "functions", architecture)
    inputs = torch.randn(IMAGES, *get_architecture(architecture).input_shape, generator=draws)
    targets = torch.rand(MODELS, IMAGES, CLASSES, generator=draws)
    return random_states(architecture, MODELS), inputs, targets / targets.sum(dim=-1, keepdim=True)


def _plain(architecture: str, activation: str, weights: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Any, ...]:
    """Return logits, cross entropy and its gradient of one model in float64."""
    module = build_module(get_architecture(architecture), weights, activation=activation, dropout=0.0).double()
    logits = module(inputs.double())
    loss = -(targets.double() * logits.log_softmax(dim=1)).sum(dim=1).mean()
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    return logits.detach(), loss.detach(), torch.cat([g.flatten() for g in gradients])


def _functions(engine: str, architecture: str, activation: str) -> BatchedNetwork:
    return make_batched_network(get_engine(engine, 2), architecture, NetworkSpec(activation))


@pytest.mark.parametrize(("engine", "architecture", "activation"), CASES)
def test_all_models_at_once_are_the_plain_modules_one_by_one(engine: str, architecture: str, activation: str) -> None:
    weights, inputs, targets = _case(architecture)
    functions = _functions(engine, architecture, activation)
    assert isinstance(functions, NativeBatchedNetwork if engine == "native" else TorchBatchedNetwork)
    leaf = weights.clone().requires_grad_()
    losses = functions.cross_entropy(leaf, inputs, targets)
    share = torch.tensor([1.0, -2.0, 0.5])
    (losses * share).sum().backward()
    logits = functions.compute_logits(weights, inputs)
    assert not logits.requires_grad
    assert leaf.grad is not None
    for i in range(MODELS):
        wanted, loss, gradient = _plain(architecture, activation, weights[i], inputs, targets[i])
        torch.testing.assert_close(logits[i].double(), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses[i].double(), loss, rtol=1e-5, atol=1e-6)
        error = (leaf.grad[i].double() - share[i] * gradient).norm()
        assert error < 1e-5 * gradient.norm()


def test_bits_depend_on_no_other_model() -> None:
    weights, inputs, targets = _case("cnn-s")
    found = []
    for threads in (1, 3):
        functions = make_batched_network(get_engine("native", threads), "cnn-s", NetworkSpec("tanh"))
        assert isinstance(functions, NativeBatchedNetwork)
        found.append(functions.losses_and_gradients(weights, inputs, targets))
        found.append(functions.losses_and_gradients(weights[1:2], inputs, targets[1:2]))
    together, alone, by_three, alone_by_three = found
    assert torch.equal(together[1], by_three[1])
    assert torch.equal(together[0], by_three[0])
    for one in (alone, alone_by_three):
        assert torch.equal(one[1][0], together[1][1])
        assert torch.equal(one[0][0], together[0][1])


def test_a_network_that_is_no_chain_is_computed_by_torch() -> None:
    functions = _functions("native", "cnn-residual", "tanh")
    assert isinstance(functions, TorchBatchedNetwork)
    weights, inputs, targets = _case("cnn-residual")
    losses = functions.cross_entropy(weights, inputs, targets)
    _, loss, _ = _plain("cnn-residual", "tanh", weights[2], inputs, targets[2])
    torch.testing.assert_close(losses[2].double(), loss, rtol=1e-5, atol=1e-6)


def test_a_target_that_a_model_meets_leaves_no_gradient() -> None:
    """Test that the cross entropy is minimal, and the entropy of the target, where the output is the target itself."""
    weights, inputs, _ = _case("cnn-s")
    functions = _functions("native", "cnn-s", "tanh")
    said = functions.compute_logits(weights, inputs).softmax(dim=-1)
    leaf = weights.clone().requires_grad_()
    losses = functions.cross_entropy(leaf, inputs, said)
    entropy = -(said * said.log()).sum(dim=-1).mean(dim=1)
    torch.testing.assert_close(losses.detach(), entropy, rtol=1e-5, atol=1e-6)
    losses.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() < 1e-6


def test_dropout_that_shifts_the_names_of_layers_changes_no_output() -> None:
    """Test the network of states that were trained with dropout, which is off in eval mode."""
    weights, inputs, targets = _case("cnn-s")
    functions = make_batched_network(get_engine("torch", 2), "cnn-s", NetworkSpec("tanh", 0.2))
    found = functions.compute_logits(weights, inputs)
    for i in range(MODELS):
        wanted, loss, _ = _plain("cnn-s", "tanh", weights[i], inputs, targets[i])
        torch.testing.assert_close(found[i].double(), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            functions.cross_entropy(weights, inputs, targets)[i].double(), loss, rtol=1e-5, atol=1e-6
        )
