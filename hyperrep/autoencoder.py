"""The hyper-representation: an auto-encoder of weights with one token per neuron and one latent vector per model.

N models, P weights, T tokens (units of all layers), D latent dimensions.
"""

from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import FormatError, ModelZooError
from modelzoo_datasets.symmetry import align, apply_moves

from .samplers import SAMPLERS, best_states


class HyperRepresentation(
    nn.Module, PyTorchModelHubMixin, library_name="modelzoo-datasets", tags=["hyper-representation"]
):
    """Encoder and decoder transformers over neuron tokens (2209.14733, section 3), for one architecture.

    Weights are aligned to `reference`, centred on `mean` and divided by `scale` before they are encoded; `embed` and
    `decode` do and undo this, so that their users see plain weight vectors.
    """

    # Part of the saved state: what the training states decided.
    mean: Tensor  # (P,) of the aligned training states; subtracted before encoding if `center`
    scale: Tensor  # (P,) standard deviation of each weight's layer over the training states
    reference: Tensor  # (P,) what models are aligned to
    embeddings: Tensor  # (S, D) of the training states: what samplers draw from
    accuracy: Tensor  # (S,) validation accuracy of the training states, a fraction

    def __init__(
        self,
        *,
        architecture: str,
        activation: str,
        dropout: float,
        width: int,
        blocks: int,
        heads: int,
        feedforward: int,
        bottleneck: str,
        latent: float,
        states: int,
        aligned: bool = True,
        signs: bool = False,
        center: bool = True,
    ) -> None:
        super().__init__()
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}  # what config.json holds
        self.architecture = get_architecture(architecture)
        self.layout = self.architecture.layout
        self.activation, self.dropout = activation, dropout  # of the networks that it learned from
        self.aligned, self.signs, self.center = aligned, signs, center
        layers = self.layout.layers
        self.units = [layer.units for layer in layers]
        tokens = sum(self.units)
        self.embedders = nn.ModuleList(nn.Linear(layer.width, width) for layer in layers)
        self.encoder_positions = nn.Parameter(torch.empty(tokens, width))
        self.encoder = _transformer(width, blocks, heads, feedforward)
        self.bottleneck: _TokenBottleneck | _DenseBottleneck
        if bottleneck == "tokens":
            parts = [max(1, round(latent * layer.width)) for layer in layers]
            self.bottleneck = _TokenBottleneck(width, self.units, parts)
        else:
            self.bottleneck = _DenseBottleneck(width, tokens, int(latent))
        self.decoder_positions = nn.Parameter(torch.empty(tokens, width))
        self.decoder = _transformer(width, blocks, heads, feedforward)
        self.debedders = nn.ModuleList(nn.Linear(width, layer.width) for layer in layers)
        self.linear_path: _LinearPath | None = None
        if isinstance(self.bottleneck, _TokenBottleneck):
            widths = [layer.width for layer in layers]
            self.linear_path = _LinearPath(widths, self.units, self.bottleneck.parts)
        for name in ("mean", "reference"):
            self.register_buffer(name, torch.zeros(self.layout.size))
        self.register_buffer("scale", torch.ones(self.layout.size))
        self.register_buffer("embeddings", torch.zeros(states, self.bottleneck.latent))
        self.register_buffer("accuracy", torch.zeros(states))

    @property
    def latent(self) -> int:
        """Length D of an embedding."""
        return self.bottleneck.latent

    def initialise(self, draws: torch.Generator) -> None:
        """Draw all trained parameters: matrices N(0, 1 / fan_in), positions N(0, 0.02²), biases 0.

        Beside a linear path the transformers start as a correction of zero: their last maps begin at 0.
        """
        last_maps = ("bottleneck.down", "debedders") if self.linear_path is not None else ()
        for name, parameter in self.named_parameters():
            if last_maps and name.startswith(last_maps):
                nn.init.zeros_(parameter)
            elif name.endswith("positions"):
                nn.init.normal_(parameter, std=0.02, generator=draws)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=draws)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)

    def encode(self, x: Tensor) -> Tensor:
        """Normalised weights (N, P) -> z (N, D)."""
        rows = self.layout.to_tokens(x)
        pairs = zip(self.embedders, rows, strict=True)
        tokens = torch.cat([embed(row) for embed, row in pairs], dim=1)
        z: Tensor = self.bottleneck.compress(self.encoder(tokens + self.encoder_positions))
        if self.linear_path is not None:
            z = z + self.linear_path.compress(rows)
        return z

    def reconstruct(self, z: Tensor) -> Tensor:
        """z (N, D) -> normalised weights (N, P)."""
        tokens = self.bottleneck.expand(z) + self.decoder_positions
        pairs = zip(self.debedders, self.decoder(tokens).split(self.units, dim=1), strict=True)
        rows = [debed(part) for debed, part in pairs]
        if self.linear_path is not None:
            linear = self.linear_path.expand(z)
            rows = [row + more for row, more in zip(rows, linear, strict=True)]
        return self.layout.from_tokens(rows)

    def normalise(self, weights: Tensor) -> Tensor:
        """Aligned weights (N, P) -> what the encoder takes."""
        return (weights - self.mean * self.center) / self.scale

    def denormalise(self, x: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return x * self.scale + self.mean * self.center

    def align(self, weights: Tensor) -> Tensor:
        """Reorder the units of each model (N, P) to match the reference; the functions stay the same."""
        self._check(weights, self.layout.size, "weights per model")
        if not self.aligned:
            return weights
        symmetry = self.architecture.symmetry
        moves = align(weights, self.reference, symmetry, scale=self.scale, signs=self.signs)
        return apply_moves(weights, symmetry, moves)

    @torch.inference_mode()
    def embed(self, weights: Tensor) -> Tensor:
        """Embeddings (N, D) of models given as weights (N, P)."""
        return self._in_batches(lambda w: self.encode(self.normalise(w)), self.align(weights))

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """Weights (N, P) of embeddings (N, D)."""
        self._check(z, self.latent, "latent dimensions")
        return self._in_batches(lambda part: self.denormalise(self.reconstruct(part)), z)

    def sample(
        self,
        n: int,
        *,
        sampler: str = "kde",
        quality: float = 1.0,
        bandwidth: float = 0.002,
        generator: torch.Generator,
    ) -> Tensor:
        """Weights (n, P) of new models, decoded from embeddings drawn by a sampler of `hyperrep.samplers`.

        Args:
            quality: draw from this share of the training states, the best by validation accuracy (S_KDE30: 0.3).
            bandwidth: of the kernels, in units of the embedding (published: 0.002).
        """
        if sampler not in SAMPLERS:
            raise ModelZooError(f"unknown sampler {sampler!r}; choose from {', '.join(SAMPLERS)}")
        if n < 1 or not 0 < quality <= 1:
            raise ModelZooError(f"expected n >= 1 and 0 < quality <= 1, got n {n}, quality {quality}")
        z = self.embeddings[best_states(self.accuracy, quality)]
        return self.decode(SAMPLERS[sampler](z, n, bandwidth, generator))

    def _in_batches(self, function: Any, rows: Tensor, size: int = 256) -> Tensor:
        training = self.training
        self.eval()
        try:
            return torch.cat([function(part) for part in rows.split(size)])
        finally:
            self.train(training)

    def _check(self, rows: Tensor, expected: int, what: str) -> None:
        if rows.ndim != 2 or rows.shape[1] != expected:
            raise FormatError(
                f"this hyper-representation is of {self.architecture.name}: expected (N, {expected}), "
                f"{expected} {what}, got {tuple(rows.shape)}"
            )
        if not rows.isfinite().all():
            raise FormatError(f"{int((~rows.isfinite()).any(1).sum())} rows are not finite; leave them out")


class _LinearPath(nn.Module):
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


class _TokenBottleneck(nn.Module):
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


class _DenseBottleneck(nn.Module):
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


def _transformer(width: int, blocks: int, heads: int, feedforward: int) -> nn.Module:
    """Pre-norm blocks without dropout: augmentation is the only noise."""
    block = nn.TransformerEncoderLayer(
        width, heads, feedforward, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
