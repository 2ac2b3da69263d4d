"""Pieces that the architectures share: activations, initialisations, chains, and dropout with its own generator."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from ..errors import RecipeError

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


# Their reset_parameters sets constants only and draws nothing.
_CONSTANT = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def initialize_weights(module: nn.Module, init: str, draws: torch.Generator) -> None:
    """Set all weights of linear and convolution layers by `init` and their biases to 0.01 (2209.14764's own code).

    Normalisations begin as torch has them: weight 1, bias 0, mean 0, variance 1, no batch seen. Other buffers stay.

    Raises:
        RecipeError: there are other parameters, whose first values would not depend on `draws`.
    """
    parameters = dict(module.named_parameters())
    if unknown := [name for name in uninitialized_names(module) if name in parameters]:
        raise RecipeError(
            f"{unknown[0]} belongs to no linear, 2-d convolution or normalisation layer: no init says how it begins"
        )
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            _INITS[getattr(layer, "init", init)](layer.weight, generator=draws)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, _INITIAL_BIAS)
        elif isinstance(layer, _CONSTANT):
            layer.reset_parameters()


def uninitialized_names(module: nn.Module) -> list[str]:
    """Names of the parameters and buffers that `initialize_weights` does not set."""
    names: list[str] = []
    for prefix, layer in module.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear, *_CONSTANT)):
            names += [name for name, _ in layer.named_parameters(prefix, recurse=False)]
            names += [name for name, _ in layer.named_buffers(prefix, recurse=False)]
    return names


class KaimingConv2d(nn.Conv2d):
    """A convolution that begins `kaiming_uniform` whatever the init of the other layers is."""

    init = "kaiming_uniform"


class ModuleListCNN(nn.Module):
    """Layers applied in order; the list's name is part of the published state-dict keys."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes)."""
        return through(self.module_list, x)


def through(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply layers in order."""
    for layer in layers:
        x = layer(x)
    return x


class SeededDropout(nn.Dropout):
    """Dropout whose masks come from its own generator while one is set; without one it is `nn.Dropout`."""

    generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zero each entry with probability p and scale the rest by 1 / (1 - p), in train mode only."""
        if self.generator is None or not self.training or self.p == 0:
            return functional.dropout(x, self.p, self.training)
        keep = torch.rand(x.shape, generator=self.generator) >= self.p
        return x * keep / (1 - self.p)


def make_dropout_seedable(module: nn.Module) -> nn.Module:
    """Let plain dropout layers take a generator, so that masks depend on the model's seed alone; returns the module.

    Raises:
        RecipeError: another layer that draws, for which there is no such thing.
    """
    for layer in module.modules():
        if type(layer) is nn.Dropout:
            layer.__class__ = SeededDropout
        elif isinstance(layer, _DropoutNd) and not isinstance(layer, SeededDropout):
            raise RecipeError(f"{type(layer).__name__} draws from no generator of the model's; use nn.Dropout")
    return module


def seed_dropout(module: nn.Module, draws: torch.Generator | None) -> None:
    """Let every dropout layer of the module draw from one generator."""
    for layer in module.modules():
        if isinstance(layer, SeededDropout):
            layer.generator = draws
