"""Weights in the forms that other weight-space code takes, and back without a change of a bit.

N states, P weights, L layers, T neurons (output channels) of all layers, W elements of the widest token
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FormatError
from .layout import Layout


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One token per neuron: incoming weights, bias and the parameters of its normalization, padded with zeros to W.

    Example:
        >>> import torch
        >>> from modelzoo_datasets.architectures import get_architecture
        >>> layout = get_architecture("cnn-s").layout
        >>> tokens = Tokens.from_weights(layout, torch.ones(2, layout.size))
        >>> tokens.values.shape, bool((tokens.to_weights() == 1).all())
        (torch.Size([2, 48, 201]), True)
    """

    values: Tensor  # (N, T, W) float32
    mask: Tensor  # (T, W) bool, False for padding; the same for all states
    positions: Tensor  # (T, 3) int64: position in the sequence, layer, neuron within the layer
    scalars: Tensor  # (N, S) float32: buffers that belong to no neuron, such as the batch count of BatchNorm
    layout: Layout

    @classmethod
    def from_weights(cls, layout: Layout, weights: Tensor) -> "Tokens":
        """Return the tokens of weights (N, P).

        Raises:
            FormatError: The layout has a tensor that belongs to no layer.
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
        layer_index = torch.repeat_interleave(torch.arange(len(units)), torch.tensor(units))
        within = torch.cat([torch.arange(count) for count in units])
        return cls(
            values=values,
            mask=mask,
            positions=torch.stack([torch.arange(sum(units)), layer_index, within], dim=1),
            scalars=weights[:, _scalar_index(layout)],
            layout=layout,
        )

    def to_weights(self) -> Tensor:
        """Return the weights (N, P); the inverse of `from_weights`. Padding is ignored."""
        rows = self.values.split([layer.units for layer in self.layout.layers], dim=1)
        weights = self.layout.from_tokens(
            [part[:, :, : layer.width] for part, layer in zip(rows, self.layout.layers, strict=True)]
        )
        weights[:, _scalar_index(self.layout)] = self.scalars
        return weights


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The tensors of every layer as views, in the order of the network.

    NFN and DWSNets expect an additional channel: `weight.unsqueeze(1)`.

    Example:
        >>> import torch
        >>> from modelzoo_datasets.architectures import get_architecture
        >>> layout = get_architecture("cnn-s").layout
        >>> layers = Layers.from_weights(layout, torch.ones(2, layout.size))
        >>> layers.weights[0].shape, layers.to_weights().shape
        (torch.Size([2, 8, 1, 5, 5]), torch.Size([2, 2464]))
    """

    weights: list[Tensor]  # per layer (N, out, in) or (N, out, in, k, k)
    biases: list[Tensor | None]  # per layer (N, out); None for a layer without bias
    others: Mapping[str, Tensor]  # name -> (N, ...), for normalizations and counts
    layout: Layout

    @classmethod
    def from_weights(cls, layout: Layout, weights: Tensor) -> "Layers":
        """Return the layers of weights (N, P).

        Raises:
            FormatError: The layout has a tensor that belongs to no layer.
        """
        tensors = {slot.name: slot.select(weights).unflatten(1, slot.shape or (1,)) for slot in layout.slots}
        return cls(
            weights=[tensors.pop(layer.weight.name) for layer in layout.layers],
            biases=[tensors.pop(layer.bias.name) if layer.bias else None for layer in layout.layers],
            others=tensors,
            layout=layout,
        )

    def to_weights(self) -> Tensor:
        """Return the weights (N, P); the inverse of `from_weights`.

        Raises:
            FormatError: A tensor is missing or has another shape.
        """
        tensors: dict[str, Tensor | None] = dict(self.others)
        for layer, weight, bias in zip(self.layout.layers, self.weights, self.biases, strict=True):
            tensors[layer.weight.name] = weight
            if layer.bias:
                tensors[layer.bias.name] = bias
        columns = []
        for slot in self.layout.slots:
            tensor, shape = tensors.get(slot.name), slot.shape or (1,)
            if tensor is None or tensor.shape[1:] != shape:
                actual = None if tensor is None else tuple(tensor.shape)
                raise FormatError(f"{slot.name}: expected shape {(len(self.weights[0]), *shape)}, got {actual}")
            columns.append(tensor.flatten(1))
        return torch.cat(columns, dim=1)


def _scalar_index(layout: Layout) -> Tensor:
    """Return the indices (S,) of the weights that belong to no neuron."""
    return torch.nonzero(layout.layer_of_weight() < 0).flatten()
