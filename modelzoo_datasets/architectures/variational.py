"""Sparsification by variational dropout (1701.05369), in the form that the published sparsified twins have it.

Every weight w of a convolution or linear layer becomes a Gaussian N(w, alpha w²). What is trained beside w is
log sigma², with log alpha = log sigma² - 2 log|w|; a penalty pushes alpha up, and a weight that is nearly all noise is
pruned. What is minimised: loss + penalty_weight(epoch, epochs) * penalty(module).

B inputs per batch, I inputs and O units of a layer.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ModelZooError

PRUNED_FROM = 3.0  # log alpha: from here on a weight is nearly all noise (a dropout rate of 0.95) and counts as zero
_INITIAL_LOG_SIGMA2 = -10.0
_TINY = 1e-15  # keeps the logarithm of a zero weight and the slope of the root at zero finite
_K1, _K2, _K3 = 0.63576, 1.8732, 1.48695  # 1701.05369, eq. 14
_FINAL_RAMP = 0.01  # what the weight of the penalty has climbed to at the end of training


class _Variational(nn.Module):
    """What both kinds of layers share: each parameter named in `variances` is noisy."""

    generator: torch.Generator | None = None  # of the noise; None is torch's global one
    variances: ClassVar[Mapping[str, str]]  # noisy parameter -> the parameter that holds its log sigma²
    bound: ClassVar[float]  # log alpha stays within ± this

    def add_variances(self) -> None:
        """Give every noisy parameter a log sigma² of its shape; a bias that is not there stays without one."""
        for name, log_sigma2 in self.variances.items():
            value = getattr(self, name)
            start = None if value is None else nn.Parameter(torch.full_like(value, _INITIAL_LOG_SIGMA2))
            self.register_parameter(log_sigma2, start)

    def log_alphas(self) -> dict[str, Tensor]:
        """Log alpha of every noisy parameter there is, by the parameter's name and of its shape."""
        found = {}
        for name, log_sigma2 in self.variances.items():
            value = getattr(self, name)
            if value is not None:
                log_alpha = getattr(self, log_sigma2) - 2 * torch.log(value.abs() + _TINY)
                found[name] = log_alpha.clamp(-self.bound, self.bound)
        return found

    def pruned(self) -> dict[str, Tensor]:
        """The noisy parameters as they are in eval mode: zero from log alpha = 3 on."""
        # Filled in a clone, since that has the strides of the weight, by which the convolution's algorithm is chosen.
        found = self.log_alphas().items()
        return {name: getattr(self, name).clone().masked_fill_(a >= PRUNED_FROM, 0) for name, a in found}

    def noise_variances(self) -> dict[str, Tensor]:
        """Alpha w² of every noisy parameter: sigma² wherever log alpha is not clamped."""
        return {name: a.exp() * getattr(self, name).square() for name, a in self.log_alphas().items()}

    def with_noise(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Add Gaussian noise of its own to every output unit (local reparameterisation, 1701.05369)."""
        # The fast algorithms of convolution (Winograd, FFT) round sums of positive terms to below zero.
        deviation = torch.sqrt(variance.clamp(min=0) + _TINY)
        draws = torch.randn(mean.shape, generator=self.generator, device=mean.device, dtype=mean.dtype)
        return mean + draws * deviation


class VariationalConv2d(_Variational, nn.Conv2d):
    """A convolution whose weights and biases are Gaussians; arguments, weight and bias are those of `nn.Conv2d`."""

    variances: ClassVar = {"weight": "log_sigma2", "bias": "log_sigma2_bias"}
    bound = 8.0
    log_sigma2: nn.Parameter  # (O, I / groups, height, width)
    log_sigma2_bias: nn.Parameter | None  # (O,)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_variances()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, I, H, W) -> (B, O, H', W'): noisy in train mode, with pruned weights and biases in eval mode."""
        if not self.training:
            return self._convolved(x, **self.pruned())
        mean = self._convolved(x, self.weight, self.bias)
        return self.with_noise(mean, self._convolved(x.square(), **self.noise_variances()))

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = self._conv_forward(x, weight, bias)
        return out


class VariationalLinear(_Variational, nn.Linear):
    """A linear layer whose weights are Gaussians; arguments, weight and bias are those of `nn.Linear`.

    The bias is a plain one. The published layer has a `log_sigma2_bias` too, which nothing sets or uses: none here.
    """

    variances: ClassVar = {"weight": "log_sigma2"}
    bound = 10.0
    log_sigma2: nn.Parameter  # (O, I)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_variances()

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (..., I) -> (..., O): noisy in train mode, with pruned weights in eval mode."""
        if not self.training:
            return functional.linear(x, self.pruned()["weight"], self.bias)
        variance = functional.linear(x.square(), self.noise_variances()["weight"])
        return self.with_noise(functional.linear(x, self.weight, self.bias), variance)


def make_variational(module: nn.Module) -> nn.Module:
    """Make every convolution and linear layer of the module variational, in place, and return the module.

    Weights, biases and their names stay; log sigma² begins at -10. Layers that are variational already, and subclasses
    with a forward of their own, are left alone. No random number is drawn.
    """
    for layer in module.modules():
        for plain, variational in ((nn.Conv2d, VariationalConv2d), (nn.Linear, VariationalLinear)):
            if isinstance(layer, plain) and type(layer).forward is plain.forward:
                # The class is changed, not the object: so it stays in place wherever and however often it is held.
                layer.__class__ = variational
                layer.add_variances()  # type: ignore[operator]
    return module


def seed_noise(module: nn.Module, draws: torch.Generator | None) -> None:
    """Let every variational layer of the module, if it has any, draw from one generator on the device of its inputs."""
    for layer in module.modules():
        if isinstance(layer, _Variational):
            layer.generator = draws


def penalty(module: nn.Module) -> Tensor:
    """What the regulariser adds up to over all noisy weights and biases, a scalar that is never negative.

    The KL divergence of N(w, alpha w²) from the log-uniform prior (1701.05369, eq. 14, up to its sign): of each
    -[k1 sigmoid(k2 + k3 log alpha) - log(1 + 1/alpha) / 2 - k1].

    Raises:
        ModelZooError: the module has no variational layer.
    """
    sums = [_divergence(log_alpha) for layer in _layers(module) for log_alpha in layer.log_alphas().values()]
    return torch.stack(sums).sum()


def penalty_weight(epoch: int, epochs: int) -> float:
    """The weight of the penalty in a training epoch, min(1, 0.01 (epoch - 1) / epochs).

    Epochs count from 1 as everywhere here (0 is the state before the first step): the first is trained without penalty.

    Raises:
        ModelZooError: the epoch or the number of epochs is less than 1.
    """
    if epoch < 1 or epochs < 1:
        raise ModelZooError(f"epoch and epochs must be at least 1, got epoch {epoch} of {epochs}")
    return min(1.0, _FINAL_RAMP * (epoch - 1) / epochs)


@torch.no_grad()
def pruned_state(module: nn.Module) -> dict[str, Tensor]:
    """State dict of the plain architecture, buffers included; pruned weights and biases of convolutions are zeros.

    Loaded into the plain module it gives what the variational one gives in eval mode, to the bit. Tensors are copies.

    Raises:
        ModelZooError: the module has no variational layer.
    """
    added = log_sigma2_state(module)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items() if name not in added}
    for prefix, layer in _named_layers(module):
        state.update({f"{prefix}{name}": tensor for name, tensor in layer.pruned().items()})
    return state


@torch.no_grad()
def sparsity(module: nn.Module) -> float:
    """Fraction of the weights of all variational layers that are pruned; biases do not count.

    Raises:
        ModelZooError: the module has no variational layer.
    """
    log_alphas = [layer.log_alphas()["weight"] for layer in _layers(module)]
    return sum(int((a >= PRUNED_FROM).sum()) for a in log_alphas) / sum(a.numel() for a in log_alphas)


def log_sigma2_state(module: nn.Module) -> dict[str, Tensor]:
    """What makes the module variational: copies of `<layer>.log_sigma2` and `<layer>.log_sigma2_bias` by these names.

    Raises:
        ModelZooError: the module has no variational layer.
    """
    found = {}
    for prefix, layer in _named_layers(module):
        for log_sigma2 in layer.variances.values():
            value = getattr(layer, log_sigma2)
            if value is not None:
                found[f"{prefix}{log_sigma2}"] = value.detach().clone()
    return found


def _divergence(log_alpha: Tensor) -> Tensor:
    rise = _K1 * torch.sigmoid(_K2 + _K3 * log_alpha)
    return -(rise - 0.5 * functional.softplus(-log_alpha) - _K1).sum()


def _layers(module: nn.Module) -> list[_Variational]:
    """Every variational layer once, even if it is used in several places."""
    return list(dict.fromkeys(layer for _, layer in _named_layers(module)))


def _named_layers(module: nn.Module) -> list[tuple[str, _Variational]]:
    """Every variational layer under each of its names, as a prefix of the names of its parameters."""
    everything = module.named_modules(remove_duplicate=False)
    found = [(f"{name}." if name else "", layer) for name, layer in everything if isinstance(layer, _Variational)]
    if not found:
        raise ModelZooError(
            f"expected a module with variational layers, got {type(module).__name__} without any; "
            "make_variational makes its convolutions and linear layers such"
        )
    return found
