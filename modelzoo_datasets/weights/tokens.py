"""Weights as other weight-space codes take them, and back to the bit.

N states of P numbers, L layers, T neurons (output channels) of all layers, W numbers of the widest neuron.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FormatError
from .layout import Layout


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One token per neuron: incoming weights, bias, and the numbers of its normalisation, then zeros up to W."""

    values: Tensor  # (N, T, W) float32
    mask: Tensor  # (T, W) bool: where a number of the network is, the same for all states
    positions: Tensor  # (T, 3) int64: place in the sequence, layer, neuron within the layer
    scalars: Tensor  # (N, S) float32: what belongs to no neuron, such as BatchNorm's count of batches
    layout: Layout

    @classmethod
    def from_weights(cls, layout: Layout, weights: Tensor) -> "Tokens":
        """Weights (N, P) -> tokens.

        Raises:
            FormatError: the layout has a tensor that belongs to no layer.
        """
        layers, width = layout.layers, max(layer.width for layer in layout.layers)
        units = [layer.units for layer in layers]
        values, mask = (
            weights.new_zeros(len(weights), sum(units), width),
            torch.zeros(sum(units), width, dtype=torch.bool),
        )
        begin = 0
        for layer, rows in zip(layers, layout.to_tokens(weights), strict=True):
            values[:, begin : begin + layer.units, : layer.width] = rows
            mask[begin : begin + layer.units, : layer.width] = True
            begin += layer.units
        of_layer = torch.repeat_interleave(torch.arange(len(units)), torch.tensor(units))
        within = torch.cat([torch.arange(count) for count in units])
        return cls(
            values=values,
            mask=mask,
            positions=torch.stack([torch.arange(sum(units)), of_layer, within], dim=1),
            scalars=weights[:, _of_no_unit(layout)],
            layout=layout,
        )

    def to_weights(self) -> Tensor:
        """The inverse: (N, P); what lies in the padding is not looked at."""
        rows = self.values.split([layer.units for layer in self.layout.layers], dim=1)
        found = self.layout.from_tokens(
            [part[:, :, : layer.width] for part, layer in zip(rows, self.layout.layers, strict=True)]
        )
        found[:, _of_no_unit(self.layout)] = self.scalars
        return found


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Layer by layer, in the order of the network; views. NFN and DWSNets add a channel: `weight.unsqueeze(1)`."""

    weights: list[Tensor]  # L of (N, out, in) or (N, out, in, k, k)
    biases: list[Tensor | None]  # L of (N, out); None where a layer has none
    others: Mapping[str, Tensor]  # name -> (N, ...): normalisations and counts, which are neither
    layout: Layout

    @classmethod
    def from_weights(cls, layout: Layout, weights: Tensor) -> "Layers":
        """Weights (N, P) -> lists.

        Raises:
            FormatError: the layout has a tensor that belongs to no layer.
        """
        tensors = {slot.name: slot.select(weights).unflatten(1, slot.shape or (1,)) for slot in layout.slots}
        return cls(
            weights=[tensors.pop(layer.weight.name) for layer in layout.layers],
            biases=[tensors.pop(layer.bias.name) if layer.bias else None for layer in layout.layers],
            others=tensors,
            layout=layout,
        )

    def to_weights(self) -> Tensor:
        """The inverse: weights (N, P).

        Raises:
            FormatError: a tensor is missing, or has another shape.
        """
        found: dict[str, Tensor | None] = dict(self.others)
        for layer, weight, bias in zip(self.layout.layers, self.weights, self.biases, strict=True):
            found[layer.weight.name] = weight
            if layer.bias:
                found[layer.bias.name] = bias
        columns = []
        for slot in self.layout.slots:
            tensor, shape = found.get(slot.name), slot.shape or (1,)
            if tensor is None or tensor.shape[1:] != shape:
                found_shape = None if tensor is None else tuple(tensor.shape)
                raise FormatError(f"{slot.name}: expected shape {(len(self.weights[0]), *shape)}, got {found_shape}")
            columns.append(tensor.flatten(1))
        return torch.cat(columns, dim=1)


def _of_no_unit(layout: Layout) -> Tensor:
    """Where in the vector the numbers are that belong to no neuron, (S,)."""
    return torch.nonzero(layout.layer_of_weight() < 0).flatten()
