"""The alignment of a zoo: one reference and one scale, by which the weights of its models can be compared.

N models, P weights
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import Layout
from .symmetry import Symmetry, align_weights, apply_permutations

_MAX_ROUNDS = 8
_MIN_SCALE = 1e-4  # floor of a layer's standard deviation, as published


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """A model that others are aligned to, and the standard deviation of each layer.

    Example:
        >>> import torch
        >>> from modelzoo_datasets.architectures import get_architecture
        >>> cnn = get_architecture("cnn-s")
        >>> weights = torch.randn(4, 2464, generator=torch.Generator().manual_seed(0))
        >>> alignment = Alignment.fit(weights, cnn.layout, cnn.symmetry)
        >>> alignment.align(weights).shape
        torch.Size([4, 2464])
    """

    symmetry: Symmetry  # units that can be permuted; without any, weights stay as they are
    reference: Tensor  # (P,) weights that models are aligned to
    scale: Tensor  # (P,) standard deviation of the layer of each weight
    signs: bool = False  # negate units too, which keeps the function only where the activation is odd

    @classmethod
    def fit(cls, weights: Tensor, layout: Layout, symmetry: Symmetry, *, signs: bool = False) -> "Alignment":
        """Set the reference to the mean of all models after each is aligned to it.

        It starts from one model, then aligns and averages until nothing moves.

        Args:
            weights: The models (N, P).
            layout: Their layout.
            symmetry: The groups of units.
            signs: True to negate units too; only for odd activations such as tanh.
        """
        current = cls(symmetry=symmetry, reference=weights[0], scale=compute_layer_scales(weights, layout), signs=signs)
        for _ in range(_MAX_ROUNDS):
            weights, before = current.align(weights), weights
            mean = weights.mean(dim=0)
            current = cls(symmetry=symmetry, reference=mean, scale=current.scale, signs=signs)
            if torch.equal(weights, before):
                break
        return current

    def align(self, weights: Tensor) -> Tensor:
        """Reorder the units of each model (N, P) to match the reference; the functions stay the same."""
        if not self.symmetry:
            return weights
        moves = align_weights(weights, self.reference, self.symmetry, scale=self.scale, signs=self.signs)
        return apply_permutations(weights, self.symmetry, moves)

    def measure_distance(self, weights: Tensor, others: Tensor) -> Tensor:
        """Return the distance (N,) of each model to its counterpart, both (N, P), in layer standard deviations."""
        return ((weights - others) / self.scale).square().mean(dim=1).sqrt()


def compute_layer_scales(weights: Tensor, layout: Layout) -> Tensor:
    """Return for every weight (P,) the standard deviation of its layer over all models (N, P) (2209.14733)."""
    index = layout.layer_of_weight()
    scales = torch.ones(layout.size)  # counters, which belong to no layer, keep 1
    for layer in range(len(layout.layers)):
        scales[index == layer] = weights[:, index == layer].std().clamp_min(_MIN_SCALE)
    return scales
