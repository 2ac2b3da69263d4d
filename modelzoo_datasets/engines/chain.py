"""Networks that are chains of a few kinds of layers, as values: what compiled engines can train.

A chain is a list of stages. A stage is a valid convolution, 2x2 max-pooling, or both, then an activation and dropout,
each of them if it is there. A linear layer is a convolution over its whole input: behind a flatten its weights (O, I)
are, number by number, those of a kernel (O, C, H, W).
"""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..architectures import get_architecture
from ..errors import NotAChainError
from ..plugins import load_plugins

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.GELU: "gelu"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """C, H, W of the input; O units. `weight` is None for a stage that only pools."""

    input_shape: tuple[int, int, int]  # C, H, W
    units: int
    kernel: tuple[int, int] = (1, 1)  # height, width
    weight: str | None = None  # name in the state dict; so of the bias
    bias: str | None = None
    linear: bool = False  # a linear layer as a convolution
    pool: bool = False  # 2x2 max-pooling, behind the convolution and before the activation
    activation: str | None = None
    dropout: float = 0.0

    @property
    def convolved(self) -> tuple[int, int]:
        """Height and width behind the convolution."""
        return self.input_shape[1] - self.kernel[0] + 1, self.input_shape[2] - self.kernel[1] + 1

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """O, H, W of the output."""
        height, width = self.convolved
        return (self.units, height // 2, width // 2) if self.pool else (self.units, height, width)


@lru_cache(maxsize=1000)
def chain_of(architecture: str, activation: str, dropout: float) -> tuple[Stage, ...]:
    """The stages of an architecture with this activation and dropout, in order.

    Raises:
        NotAChainError: it is none, or has parameters that no stage holds.
        RecipeError: unknown architecture, or dropout that it does not take.
    """
    load_plugins()
    found = get_architecture(architecture)
    return stages_of(found.module(activation, dropout), found.input_shape, found.classes)


def stages_of(module: nn.Module, input_shape: tuple[int, int, int], classes: int) -> tuple[Stage, ...]:
    """The stages of a module for images (C, H, W); raises NotAChainError where it is no chain."""
    stages: list[Stage] = []
    shape, flat = input_shape, False
    for name, layer in _layers(module, input_shape):
        if isinstance(layer, nn.Flatten):
            flat = True
        elif isinstance(layer, nn.Linear):
            if not flat and shape[1:] != (1, 1):
                raise NotAChainError(f"{name} is a linear layer on {shape} without a flatten before it")
            stages.append(_linear(name, layer, shape))
        elif stages and (behind := _behind(stages[-1], name, layer)) is not None:
            stages[-1] = behind
        else:
            stages.append(_opening(name, layer, shape))
        shape = stages[-1].output_shape if stages else shape
    if not stages or not flat or shape != (classes, 1, 1):
        raise NotAChainError(f"it ends with {shape}, expected {classes} logits")
    _check_parameters(module, stages)
    return tuple(stages)


def _layers(module: nn.Module, input_shape: tuple[int, int, int]) -> list[tuple[str, nn.Module]]:
    """Layers in the order in which they are applied, each to what the one before gives or to a flat view of it.

    They are watched as a copy of the module runs on an input without data: nothing else is touched, whatever other
    threads do, and a forward that looks at values fails.
    """
    seen: list[tuple[str, nn.Module]] = []
    before = x = torch.empty(2, *input_shape, device="meta")

    def watch(name: str, layer: nn.Module, given: Tensor, output: Tensor) -> None:
        nonlocal before
        if given is not before:
            if not _is_flat_view(given, before):
                raise NotAChainError(f"what {name} takes is not what the layer before it gives")
            seen.append((f"the flatten before {name}", nn.Flatten()))
        before = output
        seen.append((name, layer))

    module = copy.deepcopy(module).to("meta").eval()
    for name, layer in module.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda layer, given, output, name=name: watch(name, layer, given[0], output))
    try:
        output = module(x)
    except NotAChainError:
        raise
    except Exception as error:  # whatever a forward of somebody's own does with values that are not there
        raise NotAChainError(f"its forward is no plain chain of layers: {error}") from error
    if output is not before:
        raise NotAChainError("what it gives is not what its last layer gives")
    return seen


def _is_flat_view(x: Tensor, of: Tensor) -> bool:
    """Whether it is the same numbers in the same order, (B, numbers)."""
    same = x._base is not None and (x._base is of or x._base is of._base)
    return same and x.shape == of.flatten(1).shape and x.is_contiguous() and of.is_contiguous()


def _linear(name: str, layer: nn.Linear, shape: tuple[int, int, int]) -> Stage:
    return Stage(
        input_shape=shape,
        units=layer.out_features,
        kernel=shape[1:],
        weight=f"{name}.weight",
        bias=f"{name}.bias" if layer.bias is not None else None,
        linear=True,
    )


def _opening(name: str, layer: nn.Module, shape: tuple[int, int, int]) -> Stage:
    """The stage that a convolution or a pooling layer begins."""
    if type(layer) is nn.MaxPool2d and _is_two_by_two(layer):
        return Stage(input_shape=shape, units=shape[0], pool=True)
    if not isinstance(layer, nn.Conv2d):
        raise NotAChainError(f"{name} is a {type(layer).__name__}, which no compiled engine knows at this place")
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

    found = (pair(layer.kernel_size), pair(layer.stride), pair(layer.padding), pair(layer.dilation))
    return found == ((2, 2), (2, 2), (0, 0), (1, 1)) and not layer.ceil_mode


def _behind(stage: Stage, name: str, layer: nn.Module) -> Stage | None:
    """The stage with this layer as its last; None where the layer begins another one."""
    if type(layer) is nn.MaxPool2d and _is_two_by_two(layer):
        plain = not stage.pool and stage.activation is None and stage.dropout == 0 and not stage.linear
        return replace(stage, pool=True) if plain else None
    if isinstance(layer, nn.Identity):
        return stage
    if type(layer) in _ACTIVATIONS:
        if stage.activation is not None or stage.dropout > 0:
            raise NotAChainError(f"{name} is an activation behind an activation or dropout")
        if isinstance(layer, nn.GELU) and layer.approximate != "none":
            raise NotAChainError(f"{name} is an approximate GELU")
        return replace(stage, activation=_ACTIVATIONS[type(layer)])
    if isinstance(layer, nn.Dropout):
        if stage.dropout > 0 and layer.p > 0:
            raise NotAChainError(f"{name} is dropout behind dropout")
        return replace(stage, dropout=stage.dropout or float(layer.p))
    return None


def _check_parameters(module: nn.Module, stages: list[Stage]) -> None:
    held = [name for stage in stages for name in (stage.weight, stage.bias) if name is not None]
    there = [name for name, _ in module.named_parameters()]
    if sorted(held) != sorted(there) or len(set(held)) < len(held) or list(module.buffers()):
        raise NotAChainError("it has parameters or buffers that no layer of the chain holds once")
