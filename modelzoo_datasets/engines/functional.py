"""Networks as functions of their weights: what B models say of the same images, and which way their weights should go.

B models of P weights, Q images, C classes.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.functional import log_softmax

from ..architectures import build_module, get_architecture
from .base import Engine, NetworkSpec
from .native.bindings import CompiledNetwork, Pixels
from .native.native_engine import NativeEngine
from .native.native_trainer import network_of


class BatchedNetwork(Protocol):
    """The networks of one architecture, all of one activation, in eval mode.

    What is returned is on the device of the weights; images may be on any.
    """

    def compute_logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Logits (B, Q, C) of weights (B, P) on normalised images (Q, channels, height, width); no gradient."""

    def cross_entropy(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy (B,) with distributions over the classes, targets (B, Q, C); differentiable by weights."""


def make_batched_network(engine: Engine, architecture: str, network: NetworkSpec) -> BatchedNetwork:
    """Computed by the kernel where the engine is native and has one for the architecture, else by torch's autograd."""
    serving = engine.resolve(architecture)
    if isinstance(serving, NativeEngine):
        return NativeBatchedNetwork(network_of(architecture, network.activation, network.dropout), serving.num_threads)
    return TorchBatchedNetwork(architecture, network)


class TorchBatchedNetwork:
    """The obviously right one: the plain module, vectorised over models by `torch.func`."""

    def __init__(self, architecture: str, network: NetworkSpec) -> None:
        self._architecture = get_architecture(architecture)
        start = torch.zeros(self._architecture.layout.size)
        module = build_module(self._architecture, start, activation=network.activation, dropout=network.dropout)
        self._module = module.requires_grad_(False)

    def compute_logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """See `BatchedNetwork.compute_logits`."""
        with torch.no_grad():
            return self._logits(weights, inputs)

    def cross_entropy(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `BatchedNetwork.cross_entropy`."""
        return -(targets * log_softmax(self._logits(weights, inputs), dim=-1)).sum(dim=-1).mean(dim=1)

    def _logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        state = self._architecture.layout.unpack(weights)
        run = partial(functional_call, self._module)
        logits: Tensor = vmap(run, in_dims=(0, None))(state, (inputs.to(weights.device),))
        return logits


class NativeBatchedNetwork:
    """By the compiled kernel, a model per thread; bits depend neither on B nor on the number of threads.

    Weights of another device come to the CPU, and outputs and gradients go back.
    """

    def __init__(self, network: CompiledNetwork, threads: int) -> None:
        self._network = network
        self._pool = ThreadPoolExecutor(threads)

    def compute_logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """See `BatchedNetwork.compute_logits`."""
        pixels = Pixels.of(inputs.cpu(), torch.zeros(len(inputs), dtype=torch.int64))

        def of_model(vector: Tensor) -> Tensor:
            logits = torch.empty(len(pixels), self._network.classes)
            self._network.evaluate(vector, pixels, self._network.classes, logits)
            return logits

        return torch.stack(list(self._pool.map(of_model, weights.detach().cpu()))).to(weights.device)

    def cross_entropy(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `BatchedNetwork.cross_entropy`."""
        loss: Tensor = _NativeDivergence.apply(weights, inputs, targets, self)
        return loss

    def losses_and_gradients(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence (B,) and its gradient by the weights (B, P)."""
        pixels = Pixels.of(inputs, torch.zeros(len(inputs), dtype=torch.int64))
        order, found = torch.arange(len(inputs)), torch.zeros_like(weights)

        def of_model(i: int) -> float:
            return self._network.gradient(weights[i], pixels, order, targets[i], found[i])

        return torch.tensor(list(self._pool.map(of_model, range(len(weights))))), found


class _NativeDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, inputs: Tensor, targets: Tensor, functions: NativeBatchedNetwork) -> Tensor:
        found = functions.losses_and_gradients(weights.detach().cpu().contiguous(), inputs.cpu(), targets.cpu())
        losses, gradients = (tensor.to(weights) for tensor in found)
        ctx.save_for_backward(gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return gradients * given[0].unsqueeze(1), None, None, None
