"""The layout of a weight vector, as a value: names, shapes and offsets; state dict <-> vector <-> tokens.

P numbers of a model (parameters, then buffers), N models.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FormatError

_EXACT = 2**24  # every integer up to this one is a float32


@dataclass(frozen=True)
class Slot:
    """One tensor of the state dict and its place in the vector."""

    name: str
    shape: tuple[int, ...]
    start: int  # offset in the vector, in numbers
    buffer: bool = False  # BatchNorm statistics and the like: part of the state, not trained
    dtype: torch.dtype = torch.float32  # in the state dict; in the vector everything is float32

    @property
    def size(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """Offset behind the last number."""
        return self.start + self.size

    @property
    def module(self) -> str:
        """Name of the module that the tensor belongs to, empty for the whole network."""
        return self.name.rpartition(".")[0]

    def select(self, weights: Tensor) -> Tensor:
        """Weights (N, P) -> the numbers of this tensor (N, size), a view."""
        return weights[:, self.start : self.stop]


@dataclass(frozen=True)
class Layer:
    """The units (output channels, neurons) of one layer: rows of `weight`, and one entry of each other tensor."""

    weight: Slot
    bias: Slot | None = None
    norm: tuple[Slot, ...] = ()  # of the normalisation behind it, per unit: weight, bias, running mean and variance

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All tensors in the order in which a token has them."""
        return (self.weight, *((self.bias,) if self.bias else ()), *self.norm)

    @property
    def units(self) -> int:
        """How many tokens the layer gives."""
        return self.weight.shape[0]

    @property
    def inputs(self) -> int:
        """How many incoming weights a unit has."""
        return self.weight.size // self.units

    @property
    def width(self) -> int:
        """Numbers per token: incoming weights, then the bias, then those of the normalisation."""
        return self.inputs + len(self.slots) - 1


@dataclass(frozen=True)
class Layout:
    """Order of a weight vector: parameters as `parameters_to_vector` gives them, row-major; then buffers."""

    slots: tuple[Slot, ...]

    @classmethod
    def from_module(cls, module: nn.Module) -> "Layout":
        """The layout of a module's state dict."""
        tensors: list[tuple[str, Tensor, bool]] = [(name, p, False) for name, p in module.named_parameters()]
        kept = module.state_dict().keys()  # a buffer can be left out of it
        tensors += [(name, b, True) for name, b in module.named_buffers() if name in kept]
        slots: list[Slot] = []
        for name, tensor, buffer in tensors:
            start = slots[-1].stop if slots else 0
            slots.append(Slot(name, tuple(tensor.shape), start, buffer, tensor.dtype))
        return cls(tuple(slots))

    @property
    def size(self) -> int:
        """Length P of the vector."""
        return self.slots[-1].stop

    def pack(self, state: Mapping[str, Tensor]) -> Tensor:
        """State dict -> vector (P,) of float32.

        Raises:
            FormatError: names or shapes differ, or an integer is too large for float32 to hold it exactly (above 2^24).
        """
        for slot in self.slots:
            found = tuple(state[slot.name].shape) if slot.name in state else None
            if found != slot.shape:
                raise FormatError(f"{slot.name}: expected shape {slot.shape}, got {found}")
            if not slot.dtype.is_floating_point and (state[slot.name].double().abs() > _EXACT).any():
                raise FormatError(f"{slot.name}: expected integers up to 2^24, which float32 holds exactly, got larger")
        if extra := sorted(set(state) - {slot.name for slot in self.slots}):
            raise FormatError(f"unexpected tensors {', '.join(extra)}")
        return torch.cat([state[slot.name].detach().flatten().float() for slot in self.slots])

    def unpack(self, vector: Tensor) -> dict[str, Tensor]:
        """Vector (P,) -> state dict, (N, P) -> stacked tensors (N, ...); each of its slot's own dtype.

        Tensors of the vector's dtype are views. Integers are rounded: of a decoded vector a count need not be whole.
        """
        if vector.shape[-1] != self.size:
            raise FormatError(f"expected {self.size} weights per model, got {vector.shape[-1]}")
        lead, state = vector.shape[:-1], {}
        for slot in self.slots:
            tensor = vector[..., slot.start : slot.stop].reshape((*lead, *slot.shape))
            state[slot.name] = (tensor if slot.dtype.is_floating_point else tensor.round()).to(slot.dtype)
        return state

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every tensor with rows begins a layer; tensors with one number per unit of it follow.

        `X.bias` is the bias of `X.weight`, by name. Any other vector belongs to a module without rows, a normalisation,
        and goes with the last layer registered before that module's parameters; its running statistics follow their
        module. So networks must register a normalisation behind the layer that it normalises, as torchvision's do.
        Scalar buffers (`num_batches_tracked`) belong to no unit and so to no layer.

        Raises:
            FormatError: a tensor fits no layer, so that tokens would lose it.
        """
        layers = _find_layers(self.slots)
        for layer in layers:
            _check_units(layer)
        return tuple(layers)

    @property
    def named_layers(self) -> dict[str, Layer]:
        """The layers by the names of their modules, where those have one `weight` each."""
        return {layer.weight.name.removesuffix(".weight"): layer for layer in self.layers}

    def to_tokens(self, weights: Tensor) -> list[Tensor]:
        """Weights (N, P) -> per layer tokens (N, units, width).

        A token is the incoming weights of a unit, its bias, then weight, bias, running mean and running variance of its
        normalisation, as far as there are any.
        """
        tokens = []
        for layer in self.layers:
            columns = [slot.select(weights).unflatten(1, (layer.units, -1)) for slot in layer.slots]
            tokens.append(torch.cat(columns, dim=2))
        return tokens

    def from_tokens(self, tokens: list[Tensor]) -> Tensor:
        """The inverse of `to_tokens`: per layer (N, units, width) -> weights (N, P).

        Scalar buffers are in no token and come back as 0: no output depends on `num_batches_tracked`.
        """
        parts = {}
        for layer, rows in zip(self.layers, tokens, strict=True):
            parts[layer.weight.name] = rows[:, :, : layer.inputs].flatten(1)
            for column, slot in enumerate(layer.slots[1:], layer.inputs):
                parts[slot.name] = rows[:, :, column]
        scalar = tokens[0].new_zeros(len(tokens[0]), 1)
        return torch.cat([parts.get(slot.name, scalar) for slot in self.slots], dim=1)

    def layer_of_weight(self) -> Tensor:
        """Index of the layer that each of the P numbers belongs to, (P,); -1 for scalar buffers, which are of none."""
        index = torch.full((self.size,), -1)
        for i, layer in enumerate(self.layers):
            for slot in layer.slots:
                index[slot.start : slot.stop] = i
        return index

    def to_json(self) -> list[dict[str, Any]]:
        """As plain values; `from_json` is the inverse. Where no dtype is said it is float32."""
        values = []
        for s in self.slots:
            value = {"name": s.name, "shape": list(s.shape), "start": s.start, "buffer": s.buffer}
            dtype = {} if s.dtype is torch.float32 else {"dtype": str(s.dtype).removeprefix("torch.")}
            values.append(value | dtype)
        return values

    @classmethod
    def from_json(cls, values: list[dict[str, Any]]) -> "Layout":
        """Read what `to_json` wrote."""
        slots = (Slot(v["name"], tuple(v["shape"]), v["start"], v["buffer"], _dtype(v)) for v in values)
        return cls(tuple(slots))


def _dtype(value: Mapping[str, Any]) -> torch.dtype:
    name = value.get("dtype", "float32")
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise FormatError(f"{value['name']}: expected a dtype of torch such as 'int64', got {name!r}")
    return dtype


def _find_layers(slots: tuple[Slot, ...]) -> list[Layer]:
    """See `Layout.layers`."""
    weights: list[Slot] = []
    biases: dict[str, Slot] = {}  # name of the weight -> its bias
    norms: dict[str, list[Slot]] = {}  # name of the weight -> vectors that go with its units
    home: dict[str, Slot] = {}  # module -> the weight that its vectors go with
    for slot in slots:
        if len(slot.shape) > 1:
            weights.append(slot)
            norms[slot.name] = []
            home.setdefault(slot.module, slot)
        elif (weight := _weight_of(slot)) in norms:
            biases[weight] = slot
        elif slot.shape or not slot.buffer:
            if weights and not slot.buffer:
                home.setdefault(slot.module, weights[-1])
            if slot.module not in home:
                raise FormatError(f"{slot.name} belongs to no layer: none comes before the parameters of its module")
            norms[home[slot.module].name].append(slot)
    return [Layer(weight, biases.get(weight.name), tuple(norms[weight.name])) for weight in weights]


def _check_units(layer: Layer) -> None:
    for slot in layer.slots[1:]:
        if slot.shape != (layer.units,):
            raise FormatError(
                f"{slot.name} of shape {slot.shape} does not fit the {layer.units} units of {layer.weight.name}"
            )


def _weight_of(bias: Slot) -> str:
    """The name that the weight of a bias has; no other vector has such a name."""
    stem, dot, last = bias.name.rpartition(".")
    return f"{stem}{dot}{last.replace('bias', 'weight')}"
