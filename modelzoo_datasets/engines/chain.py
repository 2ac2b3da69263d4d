"""Networks that are chains of a few kinds of layers, described as values: the networks that compiled engines can train.

A chain is a sequence of stages. A stage is a convolution without padding, 2x2 max-pooling, or both, then optionally an
activation and dropout. A linear layer is a convolution over its whole input: after a flatten its weights (O, I) are,
number by number, those of a kernel (O, C, H, W).
"""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..architectures import ACTIVATION_MODULES, get_architecture
from ..errors import NotAChainError
from ..plugins import load_plugins

_ACTIVATIONS = {module: name for name, module in ACTIVATION_MODULES.items()}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a chain. Input (C, H, W), O output channels; `weight` is None for a stage that only pools."""

    input_shape: tuple[int, int, int]  # C, H, W
    units: int  # O
    kernel: tuple[int, int] = (1, 1)  # height, width
    weight: str | None = None  # name in the state dict
    bias: str | None = None  # name in the state dict
    linear: bool = False  # a linear layer as a convolution
    pool: bool = False  # 2x2 max-pooling, after the convolution and before the activation
    activation: str | None = None
    dropout: float = 0.0

    @property
    def conv_size(self) -> tuple[int, int]:
        """Height and width of the output of the convolution."""
        return self.input_shape[1] - self.kernel[0] + 1, self.input_shape[2] - self.kernel[1] + 1

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Shape (O, H, W) of the output."""
        height, width = self.conv_size
        return (self.units, height // 2, width // 2) if self.pool else (self.units, height, width)


@lru_cache(maxsize=1000)
def get_chain(architecture: str, activation: str, dropout: float) -> tuple[Stage, ...]:
    """Return the stages of an architecture.

    Args:
        architecture: Name of the architecture.
        activation: Name of the activation.
        dropout: Probability of dropping an output.

    Raises:
        NotAChainError: The architecture is not a chain, or has parameters outside of its stages.
        RecipeError: The architecture is unknown or has no dropout.
    """
    load_plugins()
    registered = get_architecture(architecture)
    return trace_chain(registered.module(activation, dropout), registered.input_shape, registered.classes)


def trace_chain(module: nn.Module, input_shape: tuple[int, int, int], classes: int) -> tuple[Stage, ...]:
    """Trace a module and return its stages.

    Args:
        module: The module.
        input_shape: Shape (C, H, W) of an image.
        classes: Number of logits.

    Raises:
        NotAChainError: The module is not a chain.
    """
    stages: list[Stage] = []
    shape, flat = input_shape, False
    for name, layer in _trace_layers(module, input_shape):
        if isinstance(layer, nn.Flatten):
            flat = True
        elif isinstance(layer, nn.Linear):
            if not flat and shape[1:] != (1, 1):
                raise NotAChainError(f"{name} is a linear layer on {shape} without a flatten before it")
            stages.append(_linear_stage(name, layer, shape))
        elif stages and (extended := _extend_stage(stages[-1], name, layer)) is not None:
            stages[-1] = extended
        else:
            stages.append(_start_stage(name, layer, shape))
        shape = stages[-1].output_shape if stages else shape
    if not stages or not flat or shape != (classes, 1, 1):
        raise NotAChainError(f"its output has shape {shape}, expected {classes} logits")
    _check_parameters(module, stages)
    return tuple(stages)


def _trace_layers(module: nn.Module, input_shape: tuple[int, int, int]) -> list[tuple[str, nn.Module]]:
    """Return name and layer in the order of a forward, in which each takes the output of the one before or flattens it.

    Hooks observe a copy of the module on an input without data. So nothing else is changed, whatever other threads do,
    and a forward that depends on values fails.
    """
    layers: list[tuple[str, nn.Module]] = []
    previous = x = torch.empty(2, *input_shape, device="meta")

    def record(name: str, layer: nn.Module, layer_input: Tensor, output: Tensor) -> None:
        nonlocal previous
        if layer_input is not previous:
            if not _is_flat_view(layer_input, previous):
                raise NotAChainError(f"the input of {name} is not the output of the layer before it")
            layers.append((f"the flatten before {name}", nn.Flatten()))
        previous = output
        layers.append((name, layer))

    module = copy.deepcopy(module).to("meta").eval()
    for name, layer in module.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda layer, inputs, output, name=name: record(name, layer, inputs[0], output))
    try:
        output = module(x)
    except NotAChainError:
        raise
    except Exception as error:  # a custom forward may raise anything when it needs values
        raise NotAChainError(f"its forward is not a plain chain of layers: {error}") from error
    if output is not previous:
        raise NotAChainError("its output is not the output of its last layer")
    return layers


def _is_flat_view(x: Tensor, source: Tensor) -> bool:
    """Return whether x has the same numbers as the source in the same order, as (B, numbers)."""
    same = x._base is not None and (x._base is source or x._base is source._base)
    return same and x.shape == source.flatten(1).shape and x.is_contiguous() and source.is_contiguous()


def _linear_stage(name: str, layer: nn.Linear, shape: tuple[int, int, int]) -> Stage:
    return Stage(
        input_shape=shape,
        units=layer.out_features,
        kernel=shape[1:],
        weight=f"{name}.weight",
        bias=f"{name}.bias" if layer.bias is not None else None,
        linear=True,
    )


def _start_stage(name: str, layer: nn.Module, shape: tuple[int, int, int]) -> Stage:
    """Return the stage that begins with a convolution or a pooling layer."""
    if type(layer) is nn.MaxPool2d and _is_two_by_two(layer):
        return Stage(input_shape=shape, units=shape[0], pool=True)
    if not isinstance(layer, nn.Conv2d):
        raise NotAChainError(f"{name} is a {type(layer).__name__}, which compiled engines do not support here")
    plain = (layer.stride, layer.padding, layer.dilation, layer.groups) == ((1, 1), (0, 0), (1, 1), 1)
    if not plain or layer.padding_mode != "zeros":
        raise NotAChainError(f"{name} is a convolution with stride, padding, dilation or groups")
    return Stage(
        input_shape=shape,
        units=layer.out_channels,
        kernel=(int(layer.kernel_size[0]), int(layer.kernel_size[1])),
        weight=f"{name}.weight",
        bias=f"{name}.bias" if layer.bias is not None else None,
    )


def _is_two_by_two(layer: nn.MaxPool2d) -> bool:
    def pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value, value)

    options = (pair(layer.kernel_size), pair(layer.stride), pair(layer.padding), pair(layer.dilation))
    return options == ((2, 2), (2, 2), (0, 0), (1, 1)) and not layer.ceil_mode


def _extend_stage(stage: Stage, name: str, layer: nn.Module) -> Stage | None:
    """Append a layer to a stage; return None if the layer begins a new stage."""
    if type(layer) is nn.MaxPool2d and _is_two_by_two(layer):
        plain = not stage.pool and stage.activation is None and stage.dropout == 0 and not stage.linear
        return replace(stage, pool=True) if plain else None
    if isinstance(layer, nn.Identity):
        return stage
    if type(layer) in _ACTIVATIONS:
        if stage.activation is not None or stage.dropout > 0:
            raise NotAChainError(f"{name} is an activation after an activation or dropout")
        if isinstance(layer, nn.GELU) and layer.approximate != "none":
            raise NotAChainError(f"{name} is an approximate GELU")
        return replace(stage, activation=_ACTIVATIONS[type(layer)])
    if isinstance(layer, nn.Dropout):
        if stage.dropout > 0 and layer.p > 0:
            raise NotAChainError(f"{name} is dropout after dropout")
        return replace(stage, dropout=stage.dropout or float(layer.p))
    return None


def _check_parameters(module: nn.Module, stages: list[Stage]) -> None:
    """Raise NotAChainError unless every parameter belongs to exactly one stage and there are no buffers."""
    in_stages = [name for stage in stages for name in (stage.weight, stage.bias) if name is not None]
    in_module = [name for name, _ in module.named_parameters()]
    if sorted(in_stages) != sorted(in_module) or len(set(in_stages)) < len(in_stages) or list(module.buffers()):
        raise NotAChainError("it has buffers, shared parameters or parameters outside of its layers")
