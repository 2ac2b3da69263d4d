"""Batched networks: functions from the weights of B models to their outputs and losses, with gradients.

B models, P weights of a model, Q images, C classes.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.functional import log_softmax

from ..architectures import build_module, get_architecture
from ..weights import Layout
from .base import Engine, NetworkSpec
from .native.bindings import CompiledNetwork, KernelImages
from .native.native_engine import NativeEngine
from .native.native_trainer import get_compiled_network


class BatchedNetwork(Protocol):
    """B networks of one architecture and one activation in eval mode, as a function of their weights.

    Results are on the device of the weights; images may be on any device.
    """

    def compute_logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Compute the logits of all models on the same images, without gradients.

        Args:
            weights: One row per model, (B, P).
            inputs: Normalized images (Q, channels, height, width).

        Returns:
            (B, Q, C).
        """
        ...

    def cross_entropy(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean cross entropy with soft targets for every model, differentiable by the weights.

        Args:
            weights: One row per model, (B, P).
            inputs: Normalized images (Q, channels, height, width).
            targets: Distributions over the classes (B, Q, C).

        Returns:
            (B,).
        """
        ...


def make_batched_network(engine: Engine, architecture: str, network: NetworkSpec) -> BatchedNetwork:
    """Make the batched network of an architecture.

    Args:
        engine: A native engine gives its compiled kernel if it has one for the architecture; any other engine gives
            torch's autograd.
        architecture: Name of the architecture.
        network: Activation and dropout of all models.
    """
    resolved = engine.resolve(architecture)
    if isinstance(resolved, NativeEngine):
        compiled = get_compiled_network(architecture, network.activation, network.dropout)
        return NativeBatchedNetwork(compiled, resolved.num_threads)
    return TorchBatchedNetwork(architecture, network)


class TorchBatchedNetwork:
    """The reference: the plain module, vectorized over models by `torch.func`."""

    def __init__(self, architecture: str, network: NetworkSpec) -> None:
        registered = get_architecture(architecture)
        weights = torch.zeros(registered.layout.size)
        module = build_module(registered, weights, activation=network.activation, dropout=network.dropout)
        self._module = module.requires_grad_(False)
        self._layout = Layout.from_module(module)  # whose names may differ from those of the variant without dropout

    def compute_logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """See `BatchedNetwork.compute_logits`."""
        with torch.no_grad():
            return self._logits(weights, inputs)

    def cross_entropy(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `BatchedNetwork.cross_entropy`."""
        return -(targets * log_softmax(self._logits(weights, inputs), dim=-1)).sum(dim=-1).mean(dim=1)

    def _logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        state = self._layout.unpack(weights)
        run = partial(functional_call, self._module)
        logits: Tensor = vmap(run, in_dims=(0, None))(state, (inputs.to(weights.device),))
        return logits


class NativeBatchedNetwork:
    """The compiled kernel, one model per thread. Bits depend neither on B nor on the number of threads.

    Weights on another device are copied to the CPU, and the results back.
    """

    def __init__(self, network: CompiledNetwork, num_threads: int) -> None:
        self._network = network
        self._pool = ThreadPoolExecutor(num_threads)

    def compute_logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """See `BatchedNetwork.compute_logits`."""
        images = KernelImages.from_tensors(inputs.cpu(), torch.zeros(len(inputs), dtype=torch.int64))

        def compute(vector: Tensor) -> Tensor:
            logits = torch.empty(len(images), self._network.classes)
            self._network.evaluate(vector, images, self._network.classes, logits)
            return logits

        return torch.stack(list(self._pool.map(compute, weights.detach().cpu()))).to(weights.device)

    def cross_entropy(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `BatchedNetwork.cross_entropy`."""
        loss: Tensor = _NativeCrossEntropy.apply(weights, inputs, targets, self)
        return loss

    def losses_and_gradients(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the cross entropy (B,) and its gradient by the weights (B, P).

        Args:
            weights: One row per model, (B, P).
            inputs: Normalized images (Q, channels, height, width).
            targets: Distributions over the classes (B, Q, C).
        """
        images = KernelImages.from_tensors(inputs, torch.zeros(len(inputs), dtype=torch.int64))
        order, gradients = torch.arange(len(inputs)), torch.zeros_like(weights)

        def compute(model: int) -> float:
            return self._network.gradient(weights[model], images, order, targets[model], gradients[model])

        return torch.tensor(list(self._pool.map(compute, range(len(weights))))), gradients


class _NativeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, inputs: Tensor, targets: Tensor, network: NativeBatchedNetwork) -> Tensor:
        results = network.losses_and_gradients(weights.detach().cpu().contiguous(), inputs.cpu(), targets.cpu())
        losses, gradients = (tensor.to(weights) for tensor in results)
        ctx.save_for_backward(gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return gradients * upstream[0].unsqueeze(1), None, None, None
