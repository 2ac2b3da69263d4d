"""Random views of weight vectors, drawn afresh for every batch: permuted units, noise, erased blocks.

Draws are of generators on the CPU, whatever device the weights are on: equal seeds draw the same numbers everywhere.

B models per batch, P weights.
"""

import torch
from torch import Tensor

from modelzoo_datasets.weights import Symmetry, permute_units, sample_permutations

_ERASED = (
    0.02,
    0.33,
)  # smallest and largest share of the weights in an erased block (2110.15288, code)


def permuted(weights: Tensor, symmetry: Symmetry, draws: torch.Generator) -> Tensor:
    """Every model (B, P) with its units in a random order of its own; its function is unchanged."""
    orders = sample_permutations(symmetry, len(weights), draws)
    return permute_units(weights, symmetry, [order.to(weights.device) for order in orders])


def mixed_pairs(weights: Tensor, share: float, draws: torch.Generator) -> Tensor:
    """Every model (B, P) moved towards another of the batch by a uniform share of up to `share` of the way.

    Of aligned models only: means of unaligned ones are no sensible networks.
    """
    if share == 0:
        return weights
    part = (share * torch.rand(len(weights), 1, generator=draws)).to(weights.device)
    partner = torch.randperm(len(weights), generator=draws).to(weights.device)
    return weights + part * (weights[partner] - weights)


def noisy(x: Tensor, sigma: float, draws: torch.Generator) -> Tensor:
    """Add N(0, sigma²) to every entry of (B, P)."""
    return x + sigma * torch.randn(x.shape, generator=draws).to(x.device) if sigma > 0 else x


def erased(x: Tensor, probability: float, draws: torch.Generator) -> Tensor:
    """With this probability per row set one contiguous block of 2 to 33 % of its entries to zero."""
    if probability == 0:
        return x
    rows, size = x.shape
    chosen = torch.rand(rows, 1, generator=draws) < probability
    low, high = _ERASED
    length = ((low + (high - low) * torch.rand(rows, 1, generator=draws)) * size).round()
    begin = (torch.rand(rows, 1, generator=draws) * (size - length + 1)).floor()
    chosen, length, begin = chosen.to(x.device), length.to(x.device), begin.to(x.device)
    place = torch.arange(size, device=x.device)
    return torch.where(chosen & (place >= begin) & (place < begin + length), 0.0, x)
