"""Sparsification by variational dropout (1701.05369), in the form of the published sparsified twins.

Every weight w of a convolution or linear layer becomes a Gaussian N(w, alpha w²). Beside w, training learns
log sigma², where log alpha = log sigma² - 2 log|w|. A penalty increases alpha, and weights that are nearly all noise
are pruned. The objective is loss + penalty_weight(epoch, epochs) * penalty(module).

B inputs per batch, I inputs and O units of a layer.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ArgumentError

PRUNED_FROM = 3.0  # log alpha from which on a weight is nearly all noise (a dropout rate of 0.95) and is set to zero
_INITIAL_LOG_SIGMA2 = -10.0
_TINY = 1e-15  # keeps the logarithm of a zero weight and the slope of the root at zero finite
_K1, _K2, _K3 = 0.63576, 1.8732, 1.48695  # 1701.05369, eq. 14
_FINAL_RAMP = 0.01  # weight of the penalty at the end of training


class _Variational(nn.Module):
    """The common base of variational layers. Every parameter named in `variances` is noisy."""

    generator: torch.Generator | None = None  # draws the noise; None is torch's global generator
    variances: ClassVar[Mapping[str, str]]  # name of a noisy parameter -> name of the parameter with its log sigma²
    bound: ClassVar[float]  # log alpha is clamped to ± this bound

    def add_variances(self) -> None:
        """Add a log sigma² of the same shape to every noisy parameter; a missing bias gets none."""
        for name, log_sigma2 in self.variances.items():
            value = getattr(self, name)
            initial = None if value is None else nn.Parameter(torch.full(value.shape, _INITIAL_LOG_SIGMA2).to(value))
            self.register_parameter(log_sigma2, initial)

    def log_alphas(self) -> dict[str, Tensor]:
        """Return log alpha of every noisy parameter, by the name and in the shape of the parameter."""
        log_alphas = {}
        for name, log_sigma2 in self.variances.items():
            value = getattr(self, name)
            if value is not None:
                log_alpha = getattr(self, log_sigma2) - 2 * torch.log(value.abs() + _TINY)
                log_alphas[name] = log_alpha.clamp(-self.bound, self.bound)
        return log_alphas

    def prune(self) -> dict[str, Tensor]:
        """Return the noisy parameters as eval mode uses them: zero from log alpha = 3 on."""
        # A clone keeps the strides of the weight, which decide the algorithm of the convolution.
        log_alphas = self.log_alphas().items()
        return {name: getattr(self, name).clone().masked_fill_(a >= PRUNED_FROM, 0) for name, a in log_alphas}

    def noise_variances(self) -> dict[str, Tensor]:
        """Return alpha w² of every noisy parameter; it is sigma² wherever log alpha is not clamped."""
        return {name: a.exp() * getattr(self, name).square() for name, a in self.log_alphas().items()}

    def add_noise(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Add independent Gaussian noise to every output unit (local reparameterization, 1701.05369)."""
        # Fast algorithms of convolution (Winograd, FFT) can round sums of positive terms to below zero.
        deviation = torch.sqrt(variance.clamp(min=0) + _TINY)
        noise = torch.randn(mean.shape, generator=self.generator, device=mean.device, dtype=mean.dtype)
        return mean + noise * deviation


class VariationalConv2d(_Variational, nn.Conv2d):
    """A convolution with Gaussian weights and biases; arguments, weight and bias as of `nn.Conv2d`."""

    variances: ClassVar = {"weight": "log_sigma2", "bias": "log_sigma2_bias"}
    bound = 8.0
    log_sigma2: nn.Parameter  # (O, I / groups, height, width)
    log_sigma2_bias: nn.Parameter | None  # (O,)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_variances()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images (B, I, H, W) to (B, O, H', W'): noisy in train mode, pruned in eval mode."""
        if not self.training:
            return self._convolve(x, **self.prune())
        mean = self._convolve(x, self.weight, self.bias)
        return self.add_noise(mean, self._convolve(x.square(), **self.noise_variances()))

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = self._conv_forward(x, weight, bias)
        return out


class VariationalLinear(_Variational, nn.Linear):
    """A linear layer with Gaussian weights and a plain bias; arguments, weight and bias as of `nn.Linear`.

    The published layer also has a `log_sigma2_bias`, which nothing sets or uses; it is left out here.
    """

    variances: ClassVar = {"weight": "log_sigma2"}
    bound = 10.0
    log_sigma2: nn.Parameter  # (O, I)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_variances()

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (..., I) to (..., O): noisy in train mode, pruned in eval mode."""
        if not self.training:
            return functional.linear(x, self.prune()["weight"], self.bias)
        variance = functional.linear(x.square(), self.noise_variances()["weight"])
        return self.add_noise(functional.linear(x, self.weight, self.bias), variance)


def make_variational(module: nn.Module) -> nn.Module:
    """Make every convolution and linear layer of the module variational, in place, and return the module.

    Weights, biases and their names stay; log sigma² starts at -10. Layers that are already variational, and subclasses
    with their own forward, are not changed. No random number is drawn.

    Example:
        >>> layer = make_variational(nn.Linear(3, 2))
        >>> [name for name, _ in layer.named_parameters()]
        ['weight', 'bias', 'log_sigma2']
    """
    for layer in module.modules():
        for plain, variational in ((nn.Conv2d, VariationalConv2d), (nn.Linear, VariationalLinear)):
            if isinstance(layer, plain) and type(layer).forward is plain.forward:
                # Changing the class keeps the object, which may be referenced from several places.
                layer.__class__ = variational
                layer.add_variances()  # type: ignore[operator]
    return module


def seed_noise(module: nn.Module, generator: torch.Generator | None) -> None:
    """Let every variational layer of a module draw from one generator, which is on the device of its inputs."""
    for layer in module.modules():
        if isinstance(layer, _Variational):
            layer.generator = generator


def penalty(module: nn.Module) -> Tensor:
    """Compute the penalty of a module: the sum over all noisy weights and biases, a scalar that is never negative.

    Each adds the approximate KL divergence of N(w, alpha w²) from the log-uniform prior (1701.05369, eq. 14, up to its
    sign), -[k1 sigmoid(k2 + k3 log alpha) - log(1 + 1/alpha) / 2 - k1].

    Raises:
        ArgumentError: The module has no variational layer.
    """
    sums = [_divergence(log_alpha) for layer in _find_layers(module) for log_alpha in layer.log_alphas().values()]
    return torch.stack(sums).sum()


def penalty_weight(epoch: int, epochs: int) -> float:
    """Return the weight of the penalty in a training epoch, min(1, 0.01 (epoch - 1) / epochs).

    Epochs count from 1, as everywhere here (0 is the state before the first step); the first has no penalty.

    Raises:
        ArgumentError: The epoch or the number of epochs is less than 1.
    """
    if epoch < 1 or epochs < 1:
        raise ArgumentError(f"epoch and epochs must be at least 1, got epoch {epoch} of {epochs}")
    return min(1.0, _FINAL_RAMP * (epoch - 1) / epochs)


@torch.no_grad()
def prune_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a state dict of the plain architecture, buffers included, with zeros for pruned weights and biases.

    A plain module with this state gives the outputs of the variational one in eval mode, bit for bit. Tensors are
    copies.

    Raises:
        ArgumentError: The module has no variational layer.
    """
    added = log_sigma2_state(module)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items() if name not in added}
    for prefix, layer in _find_named_layers(module):
        state.update({f"{prefix}{name}": tensor for name, tensor in layer.prune().items()})
    return state


@torch.no_grad()
def sparsity(module: nn.Module) -> float:
    """Return the fraction of pruned weights in all variational layers; biases do not count.

    Raises:
        ArgumentError: The module has no variational layer.
    """
    log_alphas = [layer.log_alphas()["weight"] for layer in _find_layers(module)]
    return sum(int((a >= PRUNED_FROM).sum()) for a in log_alphas) / sum(a.numel() for a in log_alphas)


def log_sigma2_state(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the additional parameters of a variational module, `<layer>.log_sigma2[_bias]`, by name.

    Raises:
        ArgumentError: The module has no variational layer.
    """
    state = {}
    for prefix, layer in _find_named_layers(module):
        for log_sigma2 in layer.variances.values():
            value = getattr(layer, log_sigma2)
            if value is not None:
                state[f"{prefix}{log_sigma2}"] = value.detach().clone()
    return state


def _divergence(log_alpha: Tensor) -> Tensor:
    rise = _K1 * torch.sigmoid(_K2 + _K3 * log_alpha)
    return -(rise - 0.5 * functional.softplus(-log_alpha) - _K1).sum()


def _find_layers(module: nn.Module) -> list[_Variational]:
    """Return every variational layer once, even if it is used in several places."""
    return list(dict.fromkeys(layer for _, layer in _find_named_layers(module)))


def _find_named_layers(module: nn.Module) -> list[tuple[str, _Variational]]:
    """Return every variational layer under each of its names, given as a prefix of the names of its parameters."""
    modules = module.named_modules(remove_duplicate=False)
    layers = [(f"{name}." if name else "", layer) for name, layer in modules if isinstance(layer, _Variational)]
    if not layers:
        raise ArgumentError(
            f"expected a module with variational layers, but {type(module).__name__} has none; "
            "call make_variational(module) first"
        )
    return layers
