"""What stands between encoder and decoder: how tokens become one latent vector, and a latent vector tokens again.

N models, T tokens (units of all layers), D latent dimensions.
"""

import torch
from torch import Tensor, nn

from modelzoo_datasets.weights import Layout

from .layer_statistics import compute_layer_statistics

_SMALLEST_DEVIATION = 1e-6  # of a statistic over the training states
_SMALLEST_VARIANCE = 1e-6  # below it the slope of a square root would explode


class LinearPath(nn.Module):
    """A linear auto-encoder per layer beside the transformers, which then only have to learn what it misses."""

    def __init__(self, widths: list[int], units: list[int], parts: list[int]) -> None:
        super().__init__()
        self.units, self.parts = units, parts
        shapes = list(zip(widths, parts, strict=True))
        self.down = nn.ParameterList(nn.Parameter(torch.zeros(w, p)) for w, p in shapes)
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(p, w)) for w, p in shapes)

    @torch.no_grad()
    def fit(self, rows: list[Tensor]) -> None:
        """Start from the principal axes of each layer's tokens (N, units, width)."""
        for row, down, up in zip(rows, self.down, self.up, strict=True):
            flat = row.flatten(0, 1).double()
            axes = torch.linalg.eigh(flat.mT @ flat).eigenvectors.flip(1)[:, : down.shape[1]]
            down.copy_(axes)
            up.copy_(axes.mT)

    def compress(self, rows: list[Tensor]) -> Tensor:
        """Per layer (N, units, width) -> (N, D)."""
        pairs = zip(rows, self.down, strict=True)
        return torch.cat([(row @ down).flatten(1) for row, down in pairs], dim=1)

    def expand(self, z: Tensor) -> list[Tensor]:
        """(N, D) -> per layer (N, units, width)."""
        parts = _split_latent(z, self.units, self.parts)
        return [part @ up for part, up in zip(parts, self.up, strict=True)]


def _split_latent(z: Tensor, units: list[int], parts: list[int]) -> list[Tensor]:
    """(N, D) -> per layer (N, units, part)."""
    sizes = [u * p for u, p in zip(units, parts, strict=True)]
    return [v.unflatten(1, (u, -1)) for v, u in zip(z.split(sizes, dim=1), units, strict=True)]


class TokenBottleneck(nn.Module):
    """Each token is compressed on its own, by one linear map per layer; z is all parts side by side."""

    def __init__(self, width: int, units: list[int], parts: list[int]) -> None:
        super().__init__()
        self.units, self.parts = units, parts
        self.latent = sum(u * p for u, p in zip(units, parts, strict=True))
        self.down = nn.ModuleList(nn.Linear(width, part) for part in parts)
        self.up = nn.ModuleList(nn.Linear(part, width) for part in parts)

    def compress(self, tokens: Tensor) -> Tensor:
        """(N, T, width) -> (N, D)."""
        rows = zip(self.down, tokens.split(self.units, dim=1), strict=True)
        return torch.cat([down(part).flatten(1) for down, part in rows], dim=1)

    def expand(self, z: Tensor) -> Tensor:
        """(N, D) -> (N, T, width)."""
        parts = _split_latent(z, self.units, self.parts)
        return torch.cat([up(part) for up, part in zip(self.up, parts, strict=True)], dim=1)


class DenseBottleneck(nn.Module):
    """All tokens concatenated and mapped to one latent, as published."""

    def __init__(self, width: int, tokens: int, latent: int) -> None:
        super().__init__()
        self.latent, self.tokens = latent, tokens
        self.down = nn.Linear(tokens * width, latent)
        self.up = nn.Linear(latent, tokens * width)

    def compress(self, tokens: Tensor) -> Tensor:
        """(N, T, width) -> (N, D)."""
        z: Tensor = self.down(tokens.flatten(1))
        return z

    def expand(self, z: Tensor) -> Tensor:
        """(N, D) -> (N, T, width)."""
        tokens: Tensor = self.up(z).unflatten(1, (self.tokens, -1))
        return tokens


class PooledPart(nn.Module):
    """Mean and spread of every layer's tokens as a further part of the latent vector, which the decoder adds to all.

    What a model is as a whole (how long it was trained, how well it does) shows in the statistics of its layers
    (2002.11448), which no linear map of single tokens gives.
    """

    def __init__(self, width: int, units: list[int], latent: int) -> None:
        super().__init__()
        self.units, self.latent = units, latent
        pooled = 2 * len(units) * width
        self.down = nn.Sequential(nn.LayerNorm(pooled), nn.Linear(pooled, pooled), nn.GELU(), nn.Linear(pooled, latent))
        self.up = nn.Linear(latent, width)

    def compress(self, tokens: Tensor) -> Tensor:
        """(N, T, width) -> (N, D of this part)."""
        layers = tokens.split(self.units, dim=1)
        means = [layer.mean(dim=1) for layer in layers]
        spreads = [(layer.var(dim=1, correction=0) + _SMALLEST_VARIANCE).sqrt() for layer in layers]
        part: Tensor = self.down(torch.cat([*means, *spreads], dim=1))
        return part

    def expand(self, z: Tensor) -> Tensor:
        """(N, D of this part) -> what is added to every token, (N, 1, width)."""
        added: Tensor = self.up(z)
        return added.unsqueeze(1)


class StatisticsPart(nn.Module):
    """s(W), mean, spread and quantiles of each layer, as a further part of the latent vector, as it is.

    What a model is as a whole (how long it was trained, how well it does) shows in them (2002.11448); the decoder adds
    a linear map of them to all tokens.
    """

    mean: Tensor  # (F,) of s(W) over the training states
    deviation: Tensor  # (F,)

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.layout = layout
        self.latent = compute_layer_statistics(torch.zeros(1, layout.size), layout).shape[1]
        self.up = nn.Linear(self.latent, width)
        self.register_buffer("mean", torch.zeros(self.latent))
        self.register_buffer("deviation", torch.ones(self.latent))

    def fit(self, weights: Tensor) -> None:
        """Standardise by these states (N, P)."""
        found = compute_layer_statistics(weights, self.layout)
        self.mean.copy_(found.mean(dim=0))
        self.deviation.copy_(found.std(dim=0).clamp_min(_SMALLEST_DEVIATION))

    def compress(self, weights: Tensor) -> Tensor:
        """(N, P), as they are, -> (N, F)."""
        found = compute_layer_statistics(weights, self.layout)
        return ((found - self.mean) / self.deviation).to(weights.dtype)

    def expand(self, z: Tensor) -> Tensor:
        """(N, F) -> (N, 1, width), for every token the same."""
        found: Tensor = self.up(z).unsqueeze(1)
        return found
