"""The hyper-representation: an auto-encoder of weights with one token per neuron and one latent vector per model.

N models, P weights, T tokens (units of all layers), D latent dimensions.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import FormatError, ModelZooError
from modelzoo_datasets.weights import align_weights, apply_permutations

from .bottlenecks import DenseBottleneck, LinearPath, PooledPart, StatisticsPart, TokenBottleneck
from .hub_mixin import HubMixin
from .samplers import SAMPLERS, best_states


class HyperRepresentation(nn.Module, HubMixin):
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
        pooled: int = 0,
        statistics: bool = False,
        unit: float = 1.0,
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
        self.bottleneck: TokenBottleneck | DenseBottleneck
        if bottleneck == "tokens":
            parts = [max(1, round(latent * layer.width)) for layer in layers]
            self.bottleneck = TokenBottleneck(width, self.units, parts)
        else:
            self.bottleneck = DenseBottleneck(width, tokens, int(latent))
        self.pooled = PooledPart(width, self.units, pooled) if pooled else None
        self.statistics = StatisticsPart(self.layout, width) if statistics else None
        self.unit = unit  # what the part of the latent vector that is of single tokens is multiplied by
        self.decoder_positions = nn.Parameter(torch.empty(tokens, width))
        self.decoder = _transformer(width, blocks, heads, feedforward)
        self.debedders = nn.ModuleList(nn.Linear(width, layer.width) for layer in layers)
        self.linear_path: LinearPath | None = None
        if isinstance(self.bottleneck, TokenBottleneck):
            widths = [layer.width for layer in layers]
            self.linear_path = LinearPath(widths, self.units, self.bottleneck.parts)
        for name in ("mean", "reference"):
            self.register_buffer(name, torch.zeros(self.layout.size))
        self.register_buffer("scale", torch.ones(self.layout.size))
        self.register_buffer("embeddings", torch.zeros(states, self.latent))
        self.register_buffer("accuracy", torch.zeros(states))

    @property
    def latent(self) -> int:
        """Length D of an embedding."""
        return sum(self._parts)

    @property
    def _parts(self) -> list[int]:
        """Lengths of the parts of z: of single tokens, learned from all, statistics."""
        return [self.bottleneck.latent, *(0 if p is None else p.latent for p in (self.pooled, self.statistics))]

    def initialise(self, draws: torch.Generator) -> None:
        """Draw all trained parameters: matrices N(0, 1 / fan_in), positions N(0, 0.02²), biases 0.

        Beside a linear path the transformers start as a correction of zero: their last maps begin at 0.
        """
        last_maps = ("bottleneck.down", "debedders") if self.linear_path is not None else ()
        for name, parameter in self.named_parameters():
            if name.startswith((*last_maps, "pooled.up", "statistics.up")):
                nn.init.zeros_(parameter)
            elif name.endswith("positions"):
                nn.init.normal_(parameter, std=0.02, generator=draws)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=draws)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)

    @property
    def device(self) -> torch.device:
        """Where its parameters are, and where all that it is given must be."""
        return self.mean.device

    def encode(self, x: Tensor, *, half: bool = False) -> Tensor:
        """Normalised weights (N, P) -> z (N, D); with `half` the transformer multiplies in bfloat16."""
        rows = self.layout.to_tokens(x)
        pairs = zip(self.embedders, rows, strict=True)
        tokens = torch.cat([embed(row) for embed, row in pairs], dim=1)
        tokens = _transformed(self.encoder, tokens + self.encoder_positions, half=half)
        z: Tensor = self.bottleneck.compress(tokens)
        if self.linear_path is not None:
            z = z + self.linear_path.compress(rows)
        parts = [self.unit * z]
        if self.pooled is not None:
            parts.append(self.pooled.compress(tokens))
        if self.statistics is not None:
            parts.append(self.statistics.compress(self.denormalise(x)))
        return torch.cat(parts, dim=1)

    def reconstruct(self, z: Tensor, *, half: bool = False) -> Tensor:
        """z (N, D) -> normalised weights (N, P); with `half` the transformer multiplies in bfloat16."""
        z, pooled, statistics = z.split(self._parts, dim=1)
        z = z / self.unit
        tokens = self.bottleneck.expand(z) + self.decoder_positions
        if self.pooled is not None:
            tokens = tokens + self.pooled.expand(pooled)
        if self.statistics is not None:
            tokens = tokens + self.statistics.expand(statistics)
        tokens = _transformed(self.decoder, tokens, half=half)
        pairs = zip(self.debedders, tokens.split(self.units, dim=1), strict=True)
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
        moves = align_weights(weights, self.reference, symmetry, scale=self.scale, signs=self.signs)
        return apply_permutations(weights, symmetry, moves)

    @torch.no_grad()
    def embed(self, weights: Tensor) -> Tensor:
        """Embeddings (N, D) of models given as weights (N, P)."""
        return self._in_batches(lambda w: self.encode(self.normalise(w)), self.align(weights))

    @torch.no_grad()
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
            bandwidth: of the kernels, in units of the embedding, of tokens before `unit` (published: 0.002).
        """
        if sampler not in SAMPLERS:
            raise ModelZooError(f"unknown sampler {sampler!r}; choose from {', '.join(SAMPLERS)}")
        if n < 1 or not 0 < quality <= 1:
            raise ModelZooError(f"expected n >= 1 and 0 < quality <= 1, got n {n}, quality {quality}")
        units = torch.ones(self.latent)
        units[: self.bottleneck.latent] = self.unit  # samplers see tokens in their own size
        z = self.embeddings.cpu()[best_states(self.accuracy.cpu(), quality)] / units  # drawn alike on every device
        return self.decode((SAMPLERS[sampler](z, n, bandwidth, generator) * units).to(self.device))

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
            bad = int((~rows.isfinite()).any(dim=1).sum())
            raise FormatError(f"expected finite {what}, got {bad} of {len(rows)} rows with others; leave these out")


def _transformer(width: int, blocks: int, heads: int, feedforward: int) -> nn.Module:
    """Pre-norm blocks without dropout: augmentation is the only noise."""
    block = nn.TransformerEncoderLayer(
        width, heads, feedforward, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)


def _transformed(transformer: nn.Module, tokens: Tensor, *, half: bool) -> Tensor:
    """Tokens (N, T, width) -> the same shape, always of float32: with `half` only what is inside is of bfloat16."""
    with ExitStack() as stack:
        if half:
            stack.enter_context(torch.autocast(tokens.device.type, torch.bfloat16))
        if half and tokens.device.type == "cpu":  # its fused attention is five times slower backwards in bfloat16
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        found: Tensor = transformer(tokens)
    return found.float()
