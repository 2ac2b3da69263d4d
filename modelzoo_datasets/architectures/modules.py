"""Pieces that the architectures share: activations, initialisations, and dropout with its own generator."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}

# The published zoos use torch's defaults: U(0, 1), N(0, 1), and gain sqrt(2) with fan_in for both kaiming ones.
_INITS: dict[str, Callable[..., Tensor]] = {
    "uniform": nn.init.uniform_,
    "normal": nn.init.normal_,
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
}
_INITIAL_BIAS = 0.01


def initialise(module: nn.Module, init: str, draws: torch.Generator) -> None:
    """Set all weights of linear and convolution layers by `init` and their biases to 0.01 (2209.14764's own code)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            _INITS[init](layer.weight, generator=draws)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, _INITIAL_BIAS)


class SeededDropout(nn.Dropout):
    """Dropout whose masks come from its own generator while one is set; without one it is `nn.Dropout`."""

    generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zero each entry with probability p and scale the rest by 1 / (1 - p), in train mode only."""
        if self.generator is None or not self.training:
            return functional.dropout(x, self.p, self.training)
        keep = torch.rand(x.shape, generator=self.generator) >= self.p
        return x * keep / (1 - self.p)


def seed_dropout(module: nn.Module, draws: torch.Generator | None) -> None:
    """Let every dropout layer of the module draw from one generator."""
    for layer in module.modules():
        if isinstance(layer, SeededDropout):
            layer.generator = draws
