"""The layout of a weight vector as a value: names, shapes and offsets of its tensors.

A layout converts between state dicts, weight vectors and tokens.

    N models, P weights of a model (parameters, then buffers)
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .._util import natural_key
from ..errors import FormatError

_MAX_EXACT = 2**24  # float32 represents every integer up to this one


@dataclass(frozen=True)
class Slot:
    """One tensor of the state dict and its place in the vector."""

    name: str
    shape: tuple[int, ...]
    start: int  # offset in the vector, counted in numbers
    buffer: bool = False  # True for state that is not trained, such as the statistics of BatchNorm
    dtype: torch.dtype = torch.float32  # in the state dict; the vector is float32 throughout

    @property
    def size(self) -> int:
        """The number of elements of the tensor."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """The offset after the last element."""
        return self.start + self.size

    @property
    def module(self) -> str:
        """The name of the module that the tensor belongs to; empty for the root module."""
        return self.name.rpartition(".")[0]

    def select(self, weights: Tensor) -> Tensor:
        """Return the elements of this tensor as a view (N, size) of weights (N, P)."""
        return weights[:, self.start : self.stop]


@dataclass(frozen=True)
class Layer:
    """A layer with its units (output channels or neurons): the rows of `weight` and one entry of each other tensor."""

    weight: Slot
    bias: Slot | None = None
    norm: tuple[Slot, ...] = ()  # per unit: weight, bias, running mean and variance of the normalization that follows

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All tensors of the layer, in the order in which a token holds them."""
        return (self.weight, *((self.bias,) if self.bias else ()), *self.norm)

    @property
    def units(self) -> int:
        """The number of units, which is the number of tokens."""
        return self.weight.shape[0]

    @property
    def inputs(self) -> int:
        """The number of incoming weights of a unit."""
        return self.weight.size // self.units

    @property
    def width(self) -> int:
        """The number of elements of a token: incoming weights, bias and the parameters of the normalization."""
        return self.inputs + len(self.slots) - 1


@dataclass(frozen=True)
class Layout:
    """The order of a weight vector: parameters as in `torch.nn.utils.parameters_to_vector`, then buffers.

    Tensors are flattened in row-major order.

    Example:
        >>> from torch import nn
        >>> layout = Layout.from_module(nn.Linear(3, 4))
        >>> layout.size, [slot.name for slot in layout.slots]
        (16, ['weight', 'bias'])
    """

    slots: tuple[Slot, ...]

    @classmethod
    def from_module(cls, module: nn.Module) -> "Layout":
        """Return the layout of a module's state dict. The module may be on the meta device."""
        tensors: list[tuple[str, Tensor, bool]] = [(name, p, False) for name, p in module.named_parameters()]
        persistent = module.state_dict().keys()  # other buffers are not part of the state
        tensors += [(name, b, True) for name, b in module.named_buffers() if name in persistent]
        slots: list[Slot] = []
        for name, tensor, buffer in tensors:
            start = slots[-1].stop if slots else 0
            slots.append(Slot(name, tuple(tensor.shape), start, buffer, tensor.dtype))
        return cls(tuple(slots))

    @property
    def size(self) -> int:
        """The length P of the vector."""
        return self.slots[-1].stop

    def pack(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the vector (P,), float32, of a state dict.

        Raises:
            FormatError: A name or shape differs, or an integer is above 2^24, which float32 cannot represent exactly.
        """
        for slot in self.slots:
            shape = tuple(state[slot.name].shape) if slot.name in state else None
            if shape != slot.shape:
                raise FormatError(f"{slot.name}: expected shape {slot.shape}, got {shape}")
            if not slot.dtype.is_floating_point and (state[slot.name].double().abs() > _MAX_EXACT).any():
                raise FormatError(f"{slot.name}: expected integers up to 2^24, which float32 holds exactly, got larger")
        if extra := sorted(set(state) - {slot.name for slot in self.slots}):
            raise FormatError(f"unexpected tensors {', '.join(extra)}")
        return torch.cat([state[slot.name].detach().flatten().float() for slot in self.slots])

    def unpack(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the state dict of a vector (P,), or stacked tensors (N, ...) of vectors (N, P).

        Each tensor has the dtype of its slot, and is a view where that is the dtype of the vector. Integers are
        rounded, because a decoded vector may contain a fractional count.

        Raises:
            FormatError: The last dimension is not P.
        """
        if vector.shape[-1] != self.size:
            raise FormatError(f"expected {self.size} weights per model, got {vector.shape[-1]}")
        lead, state = vector.shape[:-1], {}
        for slot in self.slots:
            tensor = vector[..., slot.start : slot.stop].reshape((*lead, *slot.shape))
            state[slot.name] = (tensor if slot.dtype.is_floating_point else tensor.round()).to(slot.dtype)
        return state

    def match_keys(self, keys: Iterable[str]) -> dict[str, Slot] | None:
        """Return the slot of each key of a state dict; None where the numbers of keys and slots differ.

        Dropout shifts the layer numbers in the keys of the published CNNs, so keys match slots in the order of the
        numbers.
        """
        ordered = sorted(keys, key=natural_key)
        slots = sorted(self.slots, key=lambda slot: natural_key(slot.name))
        return dict(zip(ordered, slots, strict=True)) if len(ordered) == len(slots) else None

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the network. Every tensor of two or more dimensions begins one.

        `X.bias` is the bias of `X.weight`. Any other vector is a parameter or statistic of a normalization and belongs
        to the last layer registered before the parameters of that normalization. A network must therefore register a
        normalization after the layer that it normalizes, as torchvision does. Scalar buffers, such as
        `num_batches_tracked`, belong to no layer.

        Raises:
            FormatError: A tensor fits no layer, so that tokens would lose it.
        """
        layers = _find_layers(self.slots)
        for layer in layers:
            _check_units(layer)
        return tuple(layers)

    @property
    def layers_by_name(self) -> dict[str, Layer]:
        """The layers by the names of their modules, provided that each module has one `weight`."""
        return {layer.weight.name.removesuffix(".weight"): layer for layer in self.layers}

    def to_tokens(self, weights: Tensor) -> list[Tensor]:
        """Return the tokens (N, units, width) of each layer, for weights (N, P).

        A token holds the incoming weights of a unit, its bias, then weight, bias, running mean and running variance of
        its normalization, as far as they exist.
        """
        tokens = []
        for layer in self.layers:
            columns = [slot.select(weights).unflatten(1, (layer.units, -1)) for slot in layer.slots]
            tokens.append(torch.cat(columns, dim=2))
        return tokens

    def from_tokens(self, tokens: list[Tensor]) -> Tensor:
        """Return the weights (N, P) of tokens; the inverse of `to_tokens`.

        Scalar buffers are in no token and become 0, because no output depends on `num_batches_tracked`.

        Args:
            tokens: The tokens of each layer, (N, units, width).
        """
        parts = {}
        for layer, rows in zip(self.layers, tokens, strict=True):
            parts[layer.weight.name] = rows[:, :, : layer.inputs].flatten(1)
            for column, slot in enumerate(layer.slots[1:], layer.inputs):
                parts[slot.name] = rows[:, :, column]
        scalar = tokens[0].new_zeros(len(tokens[0]), 1)
        return torch.cat([parts.get(slot.name, scalar) for slot in self.slots], dim=1)

    def layer_of_weight(self) -> Tensor:
        """Return the index of each weight's layer, (P,); -1 for scalar buffers, which belong to no layer."""
        index = torch.full((self.size,), -1)
        for i, layer in enumerate(self.layers):
            for slot in layer.slots:
                index[slot.start : slot.stop] = i
        return index

    def to_json(self) -> list[dict[str, Any]]:
        """Return the layout as plain JSON values. The key `dtype` is left out for float32."""
        values = []
        for s in self.slots:
            value = {"name": s.name, "shape": list(s.shape), "start": s.start, "buffer": s.buffer}
            dtype = {} if s.dtype is torch.float32 else {"dtype": str(s.dtype).removeprefix("torch.")}
            values.append(value | dtype)
        return values

    @classmethod
    def from_json(cls, values: list[dict[str, Any]]) -> "Layout":
        """Return the layout that `to_json` wrote.

        Raises:
            FormatError: A value is malformed, or the tensors do not follow each other from 0 on, each in its place:
                with other offsets, weights would be read as those of other tensors.
        """
        if not isinstance(values, list) or not values:
            raise FormatError(f"expected a list of tensors, got {str(values)[:80]}")
        slots: list[Slot] = []
        for value in values:
            slots.append(_read_slot(value, slots[-1].stop if slots else 0))
        if len({slot.name for slot in slots}) < len(slots):
            raise FormatError("expected a tensor of each name, got two of one name")
        return cls(tuple(slots))


def _read_slot(value: Any, start: int) -> Slot:
    """Read one tensor, which must begin where the one before it ends."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise FormatError(f"expected a tensor with a name, got {str(value)[:80]}")
    name, shape = value["name"], value.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise FormatError(f"{name}: expected a shape of whole numbers, got {str(shape)[:80]}")
    if type(value.get("start")) is not int or value["start"] != start:
        raise FormatError(f"{name}: expected start {start}, where the tensor before it ends, got {value.get('start')}")
    if type(value.get("buffer")) is not bool:
        raise FormatError(f"{name}: expected buffer true or false, got {value.get('buffer')!r}")
    return Slot(name, tuple(shape), start, value["buffer"], _dtype(value))


def _dtype(value: Mapping[str, Any]) -> torch.dtype:
    name = value.get("dtype", "float32")
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise FormatError(f"{value['name']}: expected a dtype of torch such as 'int64', got {name!r}")
    return dtype


def _find_layers(slots: tuple[Slot, ...]) -> list[Layer]:
    """Return the layers; `Layout.layers` describes the rules."""
    weights: list[Slot] = []
    biases: dict[str, Slot] = {}  # name of the weight -> its bias
    norms: dict[str, list[Slot]] = {}  # name of the weight -> vectors with one entry per unit
    home: dict[str, Slot] = {}  # module -> the weight that its vectors belong to
    for slot in slots:
        if len(slot.shape) > 1:
            weights.append(slot)
            norms[slot.name] = []
            home.setdefault(slot.module, slot)
        elif (weight := _weight_name(slot)) in norms:
            biases[weight] = slot
        elif slot.shape or not slot.buffer:
            if weights and not slot.buffer:
                home.setdefault(slot.module, weights[-1])
            if slot.module not in home:
                raise FormatError(f"{slot.name} belongs to no layer: no layer precedes the parameters of its module")
            norms[home[slot.module].name].append(slot)
    return [Layer(weight, biases.get(weight.name), tuple(norms[weight.name])) for weight in weights]


def _check_units(layer: Layer) -> None:
    for slot in layer.slots[1:]:
        if slot.shape != (layer.units,):
            raise FormatError(
                f"{slot.name} of shape {slot.shape} does not fit the {layer.units} units of {layer.weight.name}"
            )


def _weight_name(bias: Slot) -> str:
    """Return the name of the weight that belongs to a bias."""
    stem, dot, last = bias.name.rpartition(".")
    return f"{stem}{dot}{last.replace('bias', 'weight')}"
