"""The layout of a weight vector, as a value: names, shapes and offsets; state dict <-> vector <-> tokens.

P parameters of a model (buffers included), N models.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import FormatError


@dataclass(frozen=True)
class Slot:
    """One tensor of the state dict and its place in the vector."""

    name: str
    shape: tuple[int, ...]
    start: int  # offset in the vector, in numbers
    buffer: bool = False  # BatchNorm statistics and the like: part of the state, not trained

    @property
    def size(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """Offset behind the last number."""
        return self.start + self.size


@dataclass(frozen=True)
class Layer:
    """The units (output channels, neurons) of one layer: rows of `weight`, each with its own `bias` entry."""

    weight: Slot
    bias: Slot | None

    @property
    def units(self) -> int:
        """How many tokens the layer gives."""
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        """Numbers per token: incoming weights, then the bias."""
        return self.weight.size // self.units + (self.bias is not None)


@dataclass(frozen=True)
class Layout:
    """Order of a weight vector: per layer weight then bias, row-major, as `parameters_to_vector`; then buffers."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, module: nn.Module) -> "Layout":
        """The layout of a module's state dict."""
        tensors: list[tuple[str, Tensor, bool]] = [(name, p, False) for name, p in module.named_parameters()]
        tensors += [(name, b, True) for name, b in module.named_buffers()]
        slots: list[Slot] = []
        for name, tensor, buffer in tensors:
            start = slots[-1].stop if slots else 0
            slots.append(Slot(name, tuple(tensor.shape), start, buffer))
        return cls(tuple(slots))

    @property
    def size(self) -> int:
        """Length P of the vector."""
        return self.slots[-1].stop

    def pack(self, state: Mapping[str, Tensor]) -> Tensor:
        """State dict -> vector (P,) of float32; raises FormatError where names or shapes differ."""
        for slot in self.slots:
            found = tuple(state[slot.name].shape) if slot.name in state else None
            if found != slot.shape:
                raise FormatError(f"{slot.name}: expected shape {slot.shape}, got {found}")
        if extra := sorted(set(state) - {slot.name for slot in self.slots}):
            raise FormatError(f"unexpected tensors {', '.join(extra)}")
        return torch.cat([state[slot.name].detach().flatten().float() for slot in self.slots])

    def unpack(self, vector: Tensor) -> dict[str, Tensor]:
        """Vector (P,) -> state dict of views; (N, P) gives stacked tensors (N, ...)."""
        if vector.shape[-1] != self.size:
            raise FormatError(f"expected {self.size} weights per model, got {vector.shape[-1]}")
        lead = vector.shape[:-1]
        return {s.name: vector[..., s.start : s.stop].reshape(*lead, *s.shape) for s in self.slots}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Weight tensors with the bias that follows each, found by shape alone, never by name."""
        layers: list[Layer] = []
        for slot in self.slots:
            if len(slot.shape) > 1:
                layers.append(Layer(slot, None))
            elif not slot.buffer and layers and layers[-1].bias is None:
                if slot.shape[0] != layers[-1].units:
                    raise FormatError(f"{slot.name} is no bias of {layers[-1].weight.name}")
                layers[-1] = Layer(layers[-1].weight, slot)
        return tuple(layers)

    def to_tokens(self, weights: Tensor) -> list[Tensor]:
        """Weights (N, P) -> per layer tokens (N, units, width): incoming weights of a unit, then its bias."""
        tokens = []
        for layer in self.layers:
            rows = weights[:, layer.weight.start : layer.weight.stop]
            rows = rows.reshape(len(weights), layer.units, -1)
            if layer.bias is not None:
                bias = weights[:, layer.bias.start : layer.bias.stop]
                rows = torch.cat([rows, bias.unsqueeze(2)], dim=2)
            tokens.append(rows)
        return tokens

    def from_tokens(self, tokens: list[Tensor]) -> Tensor:
        """The inverse of `to_tokens`: per layer (N, units, width) -> weights (N, P)."""
        parts = []
        for layer, rows in zip(self.layers, tokens, strict=True):
            if layer.bias is None:
                parts.append(rows.flatten(1))
            else:
                parts += [rows[:, :, :-1].flatten(1), rows[:, :, -1]]
        return torch.cat(parts, dim=1)

    def layer_of_weight(self) -> Tensor:
        """Index of the layer that each of the P numbers belongs to, (P,)."""
        index = torch.empty(self.size, dtype=torch.long)
        for i, layer in enumerate(self.layers):
            index[layer.weight.start : layer.weight.stop] = i
            if layer.bias is not None:
                index[layer.bias.start : layer.bias.stop] = i
        return index

    def to_json(self) -> list[dict[str, Any]]:
        """As plain values; `from_json` is the inverse."""
        return [{"name": s.name, "shape": list(s.shape), "start": s.start, "buffer": s.buffer} for s in self.slots]

    @classmethod
    def from_json(cls, values: list[dict[str, Any]]) -> "Layout":
        """Read what `to_json` wrote."""
        slots = (Slot(v["name"], tuple(v["shape"]), v["start"], v["buffer"]) for v in values)
        return cls(tuple(slots))
