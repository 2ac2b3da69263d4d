"""REPAIR: give every unit of a network the mean and the spread of another network's pre-activations (2211.08403).

Noise and averages shrink the pre-activations layer by layer. A correction of each unit, folded into its weights and its
bias, restores them. It needs no labels.

    n models, P weights, U units of all affine layers, B images
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import get_architecture
from ..engines import NetworkSpec
from ..errors import ArgumentError

_AFFINE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
_MIN_SPREAD = 1e-6  # relative to the mean and to the spread of the target; below it, float32 has only rounding errors

Affine = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@dataclass(frozen=True)
class UnitStatistics:
    """Mean and standard deviation of the pre-activations of each unit, over images and positions.

    The units are those of all affine layers, in the order in which the layers run.
    """

    mean: Tensor  # (n, U)
    std: Tensor  # (n, U)

    def __getitem__(self, rows: Tensor | slice | int) -> "UnitStatistics":
        """Return the statistics of some of the models."""
        return UnitStatistics(self.mean[rows], self.std[rows])

    def lerp(self, other: "UnitStatistics", share: Tensor | float) -> "UnitStatistics":
        """Return the target of mixtures: statistics between those of these models and those of others, row by row.

        Args:
            other: The statistics of the other models.
            share: The part of the way, (n,) or one for all models; 0 gives these statistics, 1 the others.
        """
        part = torch.as_tensor(share, dtype=self.mean.dtype).reshape(-1, 1)
        return UnitStatistics(self.mean.lerp(other.mean, part), self.std.lerp(other.std, part))


def find_repair_obstacle(architecture: str, network: NetworkSpec) -> str | None:
    """Return one line that says why networks cannot be repaired exactly; None if they can.

    Args:
        architecture: The name of the architecture.
        network: Activation and dropout.
    """
    target = get_architecture(architecture)
    target.check_runnable()
    module = target.module(network.activation, network.dropout).eval()
    reason = _find_unknown_layer(module) or _find_irregular_layer(module, target.input_shape)
    return f"networks of {architecture} cannot be repaired: {reason}" if reason else None


def _find_unknown_layer(module: nn.Module) -> str | None:
    """Describe a layer that a correction cannot be folded into."""
    layers = [(f"{name or 'the network'} ({type(layer).__name__})", layer) for name, layer in module.named_modules()]
    for name, layer in layers:
        if isinstance(layer, _NORMALIZATIONS):
            return f"{name} normalizes, which undoes corrections of the layer before it"
    for name, layer in layers:
        if isinstance(layer, _AFFINE) and layer.bias is None:
            return f"{name} has no bias, which takes the correction of the mean"
        if not isinstance(layer, _AFFINE) and any(True for _ in layer.parameters(recurse=False)):
            return f"{name} has weights, but only convolutions and linear layers can be corrected"
    return None


def _find_irregular_layer(module: nn.Module, input_shape: Sequence[int]) -> str | None:
    """Describe a layer that does not run exactly once."""
    runs = {layer: 0 for layer in module.modules() if isinstance(layer, _AFFINE)}

    def count(layer: Affine, output: Tensor) -> None:
        runs[layer] += 1

    _run_with_hook(module, torch.zeros(1, *input_shape), count)
    for name, layer in module.named_modules():
        if isinstance(layer, _AFFINE) and runs[layer] != 1:
            return f"{name} ({type(layer).__name__}) runs {runs[layer]} times per image, not once"
    return None


def measure_units(
    architecture: str, weights: Tensor, networks: NetworkSpec | Sequence[NetworkSpec], inputs: Tensor
) -> UnitStatistics:
    """Measure the pre-activations of all units.

    Args:
        architecture: The name of the architecture.
        weights: The weights (n, P).
        networks: Activation and dropout of each model, or of all of them.
        inputs: Normalized images (B, channels, height, width); a few hundred are enough.

    Returns:
        Statistics (n, U), float32, which are not finite where the outputs of a model are not.

    Raises:
        ArgumentError: The networks cannot be repaired, see `find_repair_obstacle`.
    """
    rows = []
    for module in _iterate_modules(architecture, weights, networks):
        units: list[tuple[Tensor, Tensor]] = []

        def measure(layer: Affine, output: Tensor, units: list[tuple[Tensor, Tensor]] = units) -> None:
            units.append(_measure_layer(layer, output))

        _run_with_hook(module, inputs, measure)
        rows.append([torch.cat(parts) for parts in zip(*units, strict=True)])
    mean, std = (torch.stack(column) for column in zip(*rows, strict=True))
    return UnitStatistics(mean, std)


def repair(
    architecture: str,
    weights: Tensor,
    target: UnitStatistics,
    networks: NetworkSpec | Sequence[NetworkSpec],
    inputs: Tensor,
) -> Tensor:
    """Give the units of each model the mean and the spread of a target, layer by layer (2211.08403, section 3).

    Later layers see the corrected outputs of earlier ones. A unit without spread is left as it is.

    Args:
        architecture: The name of the architecture.
        weights: The weights (n, P).
        target: The statistics (n, U) that each model shall have: those of its donor, or between those of its parents.
        networks: Activation and dropout of each model, or of all of them.
        inputs: The normalized images (B, channels, height, width) that the target was measured on.

    Returns:
        New weights (n, P).

    Raises:
        ArgumentError: The networks cannot be repaired, see `find_repair_obstacle`, or the target has other models or
            units.

    Example:
        >>> import torch
        >>> from modelzoo_datasets.engines import NetworkSpec
        >>> network, generator = NetworkSpec("tanh"), torch.Generator().manual_seed(0)
        >>> parents, images = torch.randn(2, 2464, generator=generator), torch.randn(20, 1, 28, 28, generator=generator)
        >>> units = measure_units("cnn-s", parents, network, images)
        >>> average = parents.mean(dim=0, keepdim=True)
        >>> repair("cnn-s", average, units[:1].lerp(units[1:], 0.5), network, images).shape
        torch.Size([1, 2464])
    """
    rows = []
    for row, module in enumerate(_iterate_modules(architecture, weights, networks)):
        units = sum(len(layer.weight) for layer in module.modules() if isinstance(layer, _AFFINE))
        if any(tuple(part.shape) != (len(weights), units) for part in (target.mean, target.std)):
            raise ArgumentError(
                f"expected a target of shape ({len(weights)}, {units}), got {tuple(target.mean.shape)} and "
                f"{tuple(target.std.shape)}; measure one row per model with measure_units"
            )
        _repair_module(module, target[row], inputs)
        rows.append(torch.cat([parameter.flatten() for parameter in module.parameters()]))
    return torch.stack(rows).detach()


def _repair_module(module: nn.Module, target: UnitStatistics, inputs: Tensor) -> None:
    """Correct every layer in place, right after it has run, to a target of one model."""
    start = 0

    def correct(layer: Affine, output: Tensor) -> Tensor:
        nonlocal start
        units = slice(start, start + len(layer.weight))
        scale, shift = _find_correction(_measure_layer(layer, output), (target.mean[units], target.std[units]))
        layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        assert layer.bias is not None  # find_repair_obstacle says so
        layer.bias.mul_(scale).add_(shift)
        start = units.stop
        shape = _unit_shape(layer, output)
        return output * scale.reshape(shape) + shift.reshape(shape)

    _run_with_hook(module, inputs, correct)


def _find_correction(own: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return scale and shift of each unit: 1 and 0 for units without spread, or where a value is not finite."""
    (mean, std), (target_mean, target_std) = own, target
    scale = target_std / std
    shift = target_mean - mean * scale
    has_spread = std > _MIN_SPREAD * torch.maximum(mean.abs(), target_std)
    is_usable = has_spread & scale.isfinite() & shift.isfinite()
    return torch.where(is_usable, scale, 1.0), torch.where(is_usable, shift, 0.0)


def _measure_layer(layer: Affine, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (units,) of an output."""
    others = [i for i, size in enumerate(_unit_shape(layer, output)) if size == 1]
    mean = output.mean(others, keepdim=True)
    variance = (output - mean).square_().mean(others)  # torch.var_mean is ten times slower here
    return mean.flatten(), variance.sqrt()


def _unit_shape(layer: Affine, output: Tensor) -> list[int]:
    """Return the shape in which a value per unit is broadcast over an output."""
    axis = output.ndim - 1 if isinstance(layer, nn.Linear) else 1
    return [-1 if i == axis else 1 for i in range(output.ndim)]


def _iterate_modules(
    architecture: str, weights: Tensor, networks: NetworkSpec | Sequence[NetworkSpec]
) -> Iterator[nn.Module]:
    """Yield a module in evaluation mode with the weights of each model; models of one network share the module."""
    each = [networks] * len(weights) if isinstance(networks, NetworkSpec) else networks
    if len(each) != len(weights) or not len(weights):
        raise ArgumentError(f"expected one network per model, got {len(each)} for {len(weights)} models")
    modules: dict[NetworkSpec, nn.Module] = {}
    target = get_architecture(architecture)
    for network, vector in zip(each, weights, strict=True):
        if network not in modules:
            if obstacle := find_repair_obstacle(architecture, network):
                raise ArgumentError(obstacle)
            modules[network] = target.module(network.activation, network.dropout).eval()
        target.fill_module(modules[network], vector)
        yield modules[network]


@torch.no_grad()
def _run_with_hook(module: nn.Module, inputs: Tensor, react: Callable[[Affine, Tensor], Tensor | None]) -> None:
    """Run a module, and hand the output of each affine layer to a function, which may replace it."""
    with contextlib.ExitStack() as stack:
        for layer in module.modules():
            if isinstance(layer, _AFFINE):
                stack.enter_context(layer.register_forward_hook(lambda layer, _, output: react(layer, output)))
        module(inputs)
