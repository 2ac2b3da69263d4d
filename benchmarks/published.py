"""A hyper-representation as it was published (2209.14733 and its code), written anew: what `learning.py` compares with.

One Python loop over neurons embeds them and one writes them back, permutations are lists of indices made once, views
are made sample by sample in a data set. N models, P weights, T neurons, D latent dimensions.
"""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import Dataset

from modelzoo_datasets.weights.layout import Layout
from modelzoo_datasets.weights.symmetry import Symmetry, permute_units, sample_permutations

PERMUTATIONS = 10  # made before learning, as its code does when nobody says how many


class Norm(nn.Module):
    """Standardised by the unbiased deviation, then scaled and shifted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same shape."""
        centred = x - x.mean(dim=-1, keepdim=True)
        return self.alpha * centred / (x.std(dim=-1, keepdim=True) + 1e-6) + self.beta


class Attention(nn.Module):
    """Multi-head attention of four linear layers, written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same shape."""
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        shares = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        found: Tensor = self.out((shares @ v).transpose(1, 2).contiguous().view(x.shape))
        return found


class Block(nn.Module):
    """Pre-norm; without dropout, as ours."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.first, self.second = Norm(width), Norm(width)
        self.attention = Attention(width, heads)
        self.forwards = nn.Sequential(nn.Linear(width, feedforward), nn.ReLU(), nn.Linear(feedforward, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same shape."""
        x = x + self.attention(self.first(x))
        found: Tensor = x + self.forwards(self.second(x))
        return found


class Published(nn.Module):
    """Encoder, bottleneck and decoder."""

    def __init__(self, layout: Layout, *, width: int, blocks: int, heads: int, feedforward: int, latent: int) -> None:
        super().__init__()
        index = layout.to_tokens(torch.arange(layout.size).unsqueeze(0))
        self.neurons = [(number, neuron) for number, layer in enumerate(index) for neuron in layer[0]]
        self.size, self.width, tokens = layout.size, width, len(self.neurons)
        self.embedders = nn.ModuleList(nn.Linear(layer.width, width) for layer in layout.layers)
        self.debedders = nn.ModuleList(nn.Linear(width, layer.width) for layer in layout.layers)
        self.encoder_positions, self.decoder_positions = nn.Embedding(tokens, width), nn.Embedding(tokens, width)
        self.encoder = nn.Sequential(*(Block(width, heads, feedforward) for _ in range(blocks)))
        self.decoder = nn.Sequential(*(Block(width, heads, feedforward) for _ in range(blocks)))
        self.down, self.up = nn.Linear(tokens * width, latent), nn.Linear(latent, tokens * width)

    def encode(self, weights: Tensor) -> Tensor:
        """(N, P) -> (N, D)."""
        tokens = torch.zeros(len(weights), len(self.neurons), self.width)
        for place, (layer, index) in enumerate(self.neurons):
            tokens[:, place] = self.embedders[layer](torch.index_select(weights, 1, index))
        tokens = self.encoder(tokens + self.encoder_positions(torch.arange(len(self.neurons))))
        z: Tensor = self.down(tokens.flatten(1))
        return z

    def decode(self, z: Tensor) -> Tensor:
        """(N, D) -> (N, P)."""
        tokens = self.up(z).view(len(z), len(self.neurons), self.width)
        tokens = self.decoder(tokens + self.decoder_positions(torch.arange(len(self.neurons))))
        weights = torch.zeros(len(z), self.size)
        for place, (layer, index) in enumerate(self.neurons):
            weights[:, index] = self.debedders[layer](tokens[:, place])
        return weights


def projection_head(latent: int, width: int) -> nn.Module:
    """Used inside the contrastive loss alone."""
    ends = nn.Linear(width, width), nn.BatchNorm1d(width)
    return nn.Sequential(nn.Linear(latent, width), nn.BatchNorm1d(width), nn.ReLU(), *ends)


class Views(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each state: permuted by one of few lists of indices, then perhaps a block set to zero."""

    def __init__(self, weights: Tensor, symmetry: Symmetry, erase: float) -> None:
        self.weights, self.erase = weights, erase
        self.draws = random.Random(0)
        self.permutations = index_lists(weights.shape[1], symmetry)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self._view(self.weights[number]), self._view(self.weights[number])

    def _view(self, state: Tensor) -> Tensor:
        view = state[self.draws.choice(self.permutations)]
        if self.draws.random() < self.erase:
            length = round(self.draws.uniform(0.02, 0.33) * len(view))
            begin = self.draws.randint(0, len(view) - length)
            view[begin : begin + length] = 0
        return view


def index_lists(size: int, symmetry: Symmetry) -> list[list[int]]:
    """Where each weight of a permuted model comes from: the numbers 0 to P - 1, permuted as a model is."""
    orders = sample_permutations(symmetry, PERMUTATIONS, torch.Generator().manual_seed(0))
    places = permute_units(torch.arange(size).float().repeat(PERMUTATIONS, 1), symmetry, orders)
    lists: list[list[int]] = places.long().tolist()
    return lists


def loss_of(
    model: Published,
    head: nn.Module,
    views: Sequence[Tensor],  # two of (N, P)
    layers: Sequence[tuple[Tensor, float]],  # indices of each layer, and the deviation of its weights
    contrast: float,
    temperature: float,
) -> Tensor:
    """Layer-wise normalised error of both views, and their contrast."""
    x = torch.cat(list(views))
    z = model.encode(x)
    decoded = model.decode(z)
    error = torch.zeros(())
    for index, deviation in layers:
        error = error + ((decoded[:, index] - x[:, index]) / deviation).square().sum() / x.numel()
    projected = normalize(head(z), dim=1)
    similarity = projected @ projected.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf)
    partner = torch.arange(len(x)).roll(len(x) // 2)
    return (1 - contrast) * error + contrast * cross_entropy(similarity, partner)
