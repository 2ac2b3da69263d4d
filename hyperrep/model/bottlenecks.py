"""Bottlenecks between encoder and decoder: tokens -> one latent vector -> tokens; and s(W), statistics of layers.

Each part has `compress`, `expand` and `latent_dim`, the length of its share of the latent vector.

N models, T tokens (units of all layers), D latent dimensions of a part, F statistics.
"""

import torch
from torch import Tensor, nn

from modelzoo_datasets.weights import Layout

_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)  # in s(W)
_MIN_STD = 1e-6  # floor of the standard deviation of a statistic over the training states
_EPSILON = 1e-6  # added to variances: the slope of the square root is infinite at 0


def compute_layer_statistics(weights: Tensor, layout: Layout) -> Tensor:
    """Return s(W) (2110.15288, section 3): mean, variance and five quantiles of each layer's weights and of its biases.

    Args:
        weights: models (N, P).
        layout: positions of the layers in a weight vector.

    Returns:
        Statistics (N, 14 per layer), float64.
    """
    levels = torch.tensor(_QUANTILES, dtype=torch.float64, device=weights.device)
    columns = []
    for slot in layout.slots:
        values = weights[:, slot.start : slot.stop].double()
        columns += [values.mean(1, keepdim=True), values.var(1, correction=0, keepdim=True)]
        columns.append(torch.quantile(values, levels, dim=1).mT)
    return torch.cat(columns, dim=1)


class LinearPath(nn.Module):
    """A linear auto-encoder per layer beside the transformers, which then learn only what it misses."""

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
        """Map the tokens of each layer (N, units, width) -> (N, D)."""
        pairs = zip(rows, self.down, strict=True)
        return torch.cat([(row @ down).flatten(1) for row, down in pairs], dim=1)

    def expand(self, z: Tensor) -> list[Tensor]:
        """Map (N, D) -> the tokens of each layer (N, units, width)."""
        parts = _split_latent(z, self.units, self.parts)
        return [part @ up for part, up in zip(parts, self.up, strict=True)]


def _split_latent(z: Tensor, units: list[int], parts: list[int]) -> list[Tensor]:
    """Split (N, D) into one tensor (N, units, part) per layer."""
    sizes = [u * p for u, p in zip(units, parts, strict=True)]
    return [v.unflatten(1, (u, -1)) for v, u in zip(z.split(sizes, dim=1), units, strict=True)]


class TokenBottleneck(nn.Module):
    """One linear map per layer, which compresses each token on its own; z is all parts side by side."""

    def __init__(self, width: int, units: list[int], parts: list[int]) -> None:
        super().__init__()
        self.units, self.parts = units, parts
        self.latent_dim = sum(u * p for u, p in zip(units, parts, strict=True))
        self.down = nn.ModuleList(nn.Linear(width, part) for part in parts)
        self.up = nn.ModuleList(nn.Linear(part, width) for part in parts)

    def compress(self, tokens: Tensor) -> Tensor:
        """Map (N, T, width) -> (N, D)."""
        rows = zip(self.down, tokens.split(self.units, dim=1), strict=True)
        return torch.cat([down(part).flatten(1) for down, part in rows], dim=1)

    def expand(self, z: Tensor) -> Tensor:
        """Map (N, D) -> (N, T, width)."""
        parts = _split_latent(z, self.units, self.parts)
        return torch.cat([up(part) for up, part in zip(self.up, parts, strict=True)], dim=1)


class DenseBottleneck(nn.Module):
    """One linear map of all tokens, concatenated, to one latent vector (2209.14733, section 3)."""

    def __init__(self, width: int, num_tokens: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim, self.num_tokens = latent_dim, num_tokens
        self.down = nn.Linear(num_tokens * width, latent_dim)
        self.up = nn.Linear(latent_dim, num_tokens * width)

    def compress(self, tokens: Tensor) -> Tensor:
        """Map (N, T, width) -> (N, D)."""
        z: Tensor = self.down(tokens.flatten(1))
        return z

    def expand(self, z: Tensor) -> Tensor:
        """Map (N, D) -> (N, T, width)."""
        tokens: Tensor = self.up(z).unflatten(1, (self.num_tokens, -1))
        return tokens


class PooledPart(nn.Module):
    """Further latent numbers from mean and standard deviation of every layer's tokens; the decoder adds them to all.

    Properties of a whole model, such as its training time and accuracy, show in the statistics of its layers
    (2002.11448), which no linear map of single tokens computes.
    """

    def __init__(self, width: int, units: list[int], latent_dim: int) -> None:
        super().__init__()
        self.units, self.latent_dim = units, latent_dim
        pooled = 2 * len(units) * width
        self.down = nn.Sequential(
            nn.LayerNorm(pooled), nn.Linear(pooled, pooled), nn.GELU(), nn.Linear(pooled, latent_dim)
        )
        self.up = nn.Linear(latent_dim, width)

    def compress(self, tokens: Tensor) -> Tensor:
        """Map (N, T, width) -> (N, D)."""
        layers = tokens.split(self.units, dim=1)
        means = [layer.mean(dim=1) for layer in layers]
        stds = [(layer.var(dim=1, correction=0) + _EPSILON).sqrt() for layer in layers]
        part: Tensor = self.down(torch.cat([*means, *stds], dim=1))
        return part

    def expand(self, z: Tensor) -> Tensor:
        """Map (N, D) -> (N, 1, width), to be added to every token."""
        shift: Tensor = self.up(z)
        return shift.unsqueeze(1)


class StatisticsPart(nn.Module):
    """s(W) itself as a further part of the latent vector: mean, variance and quantiles of each layer, standardized.

    Properties of a whole model show in them (2002.11448). The decoder adds a linear map of them to all tokens.
    """

    mean: Tensor  # (F,) of s(W) over the training states
    deviation: Tensor  # (F,)

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.layout = layout
        self.latent_dim = (2 + len(_QUANTILES)) * len(layout.slots)
        self.up = nn.Linear(self.latent_dim, width)
        self.register_buffer("mean", torch.zeros(self.latent_dim))
        self.register_buffer("deviation", torch.ones(self.latent_dim))

    def fit(self, weights: Tensor) -> None:
        """Standardize by the training states (N, P)."""
        statistics = compute_layer_statistics(weights, self.layout)
        self.mean.copy_(statistics.mean(dim=0))
        self.deviation.copy_(statistics.std(dim=0).clamp_min(_MIN_STD))

    def compress(self, weights: Tensor) -> Tensor:
        """Map weights (N, P), not normalized, -> (N, F)."""
        statistics = compute_layer_statistics(weights, self.layout)
        return ((statistics - self.mean) / self.deviation).to(weights.dtype)

    def expand(self, z: Tensor) -> Tensor:
        """Map (N, F) -> (N, 1, width), to be added to every token."""
        shift: Tensor = self.up(z).unsqueeze(1)
        return shift
