"""Random views of weight vectors, drawn anew for every batch: permuted units, mixed pairs, noise, erased blocks.

Random numbers are drawn on the CPU, whatever device the weights are on: equal seeds give equal views everywhere.

B models per batch, P weights.
"""

import torch
from torch import Tensor

from modelzoo_datasets.weights import Symmetry, permute_units, sample_permutations

_MIN_ERASED, _MAX_ERASED = 0.02, 0.33  # shares of the weights in an erased block (2110.15288, code)


def permute_randomly(weights: Tensor, symmetry: Symmetry, generator: torch.Generator) -> Tensor:
    """Put the units of every model (B, P) into a random order; the functions of the networks stay the same."""
    orders = sample_permutations(symmetry, len(weights), generator)
    return permute_units(weights, symmetry, [order.to(weights.device) for order in orders])


def mix_pairs(weights: Tensor, max_share: float, generator: torch.Generator) -> Tensor:
    """Move every model (B, P) towards another one of the batch, by a uniform share of the way up to `max_share`.

    The models must be aligned: means of unaligned models are no sensible networks.
    """
    if max_share == 0:
        return weights
    share = (max_share * torch.rand(len(weights), 1, generator=generator)).to(weights.device)
    partner = torch.randperm(len(weights), generator=generator).to(weights.device)
    return weights + share * (weights[partner] - weights)


def add_noise(x: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Add N(0, std²) to every entry of (B, P)."""
    return x + std * torch.randn(x.shape, generator=generator).to(x.device) if std > 0 else x


def erase_blocks(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Set a contiguous block of 2 to 33 % of a row to zero, in each row of (B, P) with this probability."""
    if probability == 0:
        return x
    rows, size = x.shape
    has_block = torch.rand(rows, 1, generator=generator) < probability
    share = _MIN_ERASED + (_MAX_ERASED - _MIN_ERASED) * torch.rand(rows, 1, generator=generator)
    length = (share * size).round()
    start = (torch.rand(rows, 1, generator=generator) * (size - length + 1)).floor()
    has_block, length, start = has_block.to(x.device), length.to(x.device), start.to(x.device)
    position = torch.arange(size, device=x.device)
    return torch.where(has_block & (position >= start) & (position < start + length), 0.0, x)
