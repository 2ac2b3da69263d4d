"""Parts that the architectures share: activations, initialization, chains of layers, and seedable dropout."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from ..errors import RecipeError
from ..seeds import choose_generator

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


# The `reset_parameters` of these modules sets constants and consumes no random numbers.
_CONSTANT = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def initialize_weights(
    module: nn.Module, init: str, generator: torch.Generator | None = None, *, seed: int | None = None
) -> None:
    """Initialize the weights of linear and convolution layers by `init`, and their biases with 0.01.

    This follows the code published with 2209.14764. Normalizations get torch's defaults: weight 1, bias 0, mean 0,
    variance 1, no batch seen. Other buffers are left as they are.

    Args:
        module: The module to initialize in place.
        init: One of `modelzoo_datasets.recipes.INITS`, e.g. "kaiming_uniform".
        generator: The source of all random numbers.
        seed: A seed instead of the generator, 0 by default; models of this seed start with these weights.

    Raises:
        RecipeError: The module has other parameters, whose initial values would not depend on the generator.
    """
    generator = choose_generator(generator, seed, "init")
    parameters = dict(module.named_parameters())
    if unknown := [name for name in find_uninitialized(module) if name in parameters]:
        raise RecipeError(
            f"{unknown[0]} belongs to no linear, 2-d convolution or normalization layer, so no init defines its "
            "initial value"
        )
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            _INITS[getattr(layer, "init", init)](layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, _INITIAL_BIAS)
        elif isinstance(layer, _CONSTANT):
            layer.reset_parameters()


def find_uninitialized(module: nn.Module) -> list[str]:
    """Return the names of the parameters and buffers that `initialize_weights` does not set."""
    names: list[str] = []
    for prefix, layer in module.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear, *_CONSTANT)):
            names += [name for name, _ in layer.named_parameters(prefix, recurse=False)]
            names += [name for name, _ in layer.named_buffers(prefix, recurse=False)]
    return names


class KaimingConv2d(nn.Conv2d):
    """A convolution that is always initialized with `kaiming_uniform`, whatever the recipe says."""

    init = "kaiming_uniform"


class ModuleListCNN(nn.Module):
    """Layers in a chain. The attribute `module_list` is part of the published state-dict keys."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        return apply_layers(self.module_list, x)


def apply_layers(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Return the output of layers that are applied in order."""
    for layer in layers:
        x = layer(x)
    return x


class SeededDropout(nn.Dropout):
    """Dropout with masks from its own generator; without a generator it behaves as `nn.Dropout`."""

    generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zero each element with probability p and scale the others by 1 / (1 - p), in training mode only."""
        if self.generator is None or not self.training or self.p == 0:
            return functional.dropout(x, self.p, self.training)
        keep = torch.rand(x.shape, generator=self.generator) >= self.p
        return x * keep / (1 - self.p)


def make_dropout_seedable(module: nn.Module) -> nn.Module:
    """Replace plain dropout layers in place by seedable ones, so that masks depend on the model's seed alone.

    Returns:
        The same module.

    Raises:
        RecipeError: The module has another layer that draws random numbers, such as `nn.Dropout2d`.
    """
    for layer in module.modules():
        if type(layer) is nn.Dropout:
            layer.__class__ = SeededDropout
        elif isinstance(layer, _DropoutNd) and not isinstance(layer, SeededDropout):
            raise RecipeError(f"{type(layer).__name__} cannot draw from the generator of the model; use nn.Dropout")
    return module


def seed_dropout(module: nn.Module, generator: torch.Generator | None) -> None:
    """Set the generator of every dropout layer of the module."""
    for layer in module.modules():
        if isinstance(layer, SeededDropout):
            layer.generator = generator
