"""The networks of a hyper-representation: an auto-encoder with one token per neuron and one latent vector per model.

N models, P weights, T tokens (units of all layers), D latent dimensions.
"""

from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.seeds import choose_generator
from modelzoo_datasets.weights import Layout, Symmetry

from .bottlenecks import DenseBottleneck, LinearPath, PooledPart, StatisticsPart, TokenBottleneck
from .hub_mixin import RepresentationConfig


class AutoEncoder(nn.Module):
    """Encoder and decoder of normalized weights: aligned, centered and scaled (2209.14733, section 3)."""

    # Buffers, fitted to the training states and saved with the parameters.
    mean: Tensor  # (P,) of the aligned training states; subtracted before encoding if `config.center`
    scale: Tensor  # (P,) standard deviation of each weight's layer over the training states
    reference: Tensor  # (P,) that models are aligned to

    def __init__(self, config: RepresentationConfig) -> None:
        super().__init__()
        self.layout, self.symmetry = _find_layout(config)
        self.config = replace(config, layout=self.layout, symmetry=self.symmetry)
        layers = self.layout.layers
        self.units = [layer.units for layer in layers]
        widths, width, num_tokens = [layer.width for layer in layers], config.width, sum(self.units)
        # Modules and parameters: their names and order are those of the tensors in model.safetensors.
        self.embedders = nn.ModuleList(nn.Linear(size, width) for size in widths)
        self.encoder_positions = nn.Parameter(torch.empty(num_tokens, width))
        self.encoder = _make_transformer(config)
        self.bottleneck: TokenBottleneck | DenseBottleneck
        if config.bottleneck == "tokens":
            parts = [max(1, round(config.latent * size)) for size in widths]
            self.bottleneck = TokenBottleneck(width, self.units, parts)
        else:
            self.bottleneck = DenseBottleneck(width, num_tokens, int(config.latent))
        self.pooled = PooledPart(width, self.units, config.pooled_dim) if config.pooled_dim else None
        self.statistics = StatisticsPart(self.layout, width) if config.statistics else None
        self.decoder_positions = nn.Parameter(torch.empty(num_tokens, width))
        self.decoder = _make_transformer(config)
        self.debedders = nn.ModuleList(nn.Linear(width, size) for size in widths)
        self.linear_path: LinearPath | None = None
        if isinstance(self.bottleneck, TokenBottleneck):
            self.linear_path = LinearPath(widths, self.units, self.bottleneck.parts)
        for name in ("mean", "reference"):
            self.register_buffer(name, torch.zeros(self.layout.size))
        self.register_buffer("scale", torch.ones(self.layout.size))

    @property
    def latent_dim(self) -> int:
        """Length D of an embedding."""
        return sum(self._part_dims)

    @property
    def _part_dims(self) -> list[int]:
        """Lengths of the three parts of z: of single tokens, pooled over all tokens, and s(W)."""
        optional = (self.pooled, self.statistics)
        return [self.bottleneck.latent_dim, *(0 if part is None else part.latent_dim for part in optional)]

    def init_parameters(self, generator: torch.Generator | None = None, *, seed: int | None = None) -> None:
        """Draw all trained parameters from a generator or a seed, 0 by default; see the function of this name.

        Beside a linear path the transformers start as a correction of zero: their last maps begin at 0.
        """
        generator = choose_generator(generator, seed, "auto-encoder")
        last_maps = ("bottleneck.down", "debedders") if self.linear_path is not None else ()
        init_parameters(self, generator, (*last_maps, "pooled.up", "statistics.up"))

    # The pair that training uses: normalized weights, with gradients, without alignment.

    def _encode_normalized(self, x: Tensor, *, bf16: bool = False) -> Tensor:
        """Encode normalized weights (N, P) -> z (N, D); with `bf16` the transformer multiplies in bfloat16."""
        rows = self.layout.to_tokens(x)
        # One linear map per layer brings its tokens to one width; positions tell the units apart.
        pairs = zip(self.embedders, rows, strict=True)
        tokens = torch.cat([embed(row) for embed, row in pairs], dim=1)
        tokens = _run_transformer(self.encoder, tokens + self.encoder_positions, bf16=bf16)
        # The linear path carries most of each token, the transformer corrects it.
        z: Tensor = self.bottleneck.compress(tokens)
        if self.linear_path is not None:
            z = z + self.linear_path.compress(rows)
        # z is the token part, the pooled part and s(W) side by side.
        parts = [self.config.token_scale * z]
        if self.pooled is not None:
            parts.append(self.pooled.compress(tokens))
        if self.statistics is not None:
            parts.append(self.statistics.compress(self._denormalize(x)))
        return torch.cat(parts, dim=1)

    def _decode_normalized(self, z: Tensor, *, bf16: bool = False) -> Tensor:
        """Decode z (N, D) -> normalized weights (N, P); with `bf16` the transformer multiplies in bfloat16."""
        z, pooled, statistics = z.split(self._part_dims, dim=1)
        z = z / self.config.token_scale
        # The pooled part and s(W) are of the whole model: they are added to every token.
        tokens = self.bottleneck.expand(z) + self.decoder_positions
        if self.pooled is not None:
            tokens = tokens + self.pooled.expand(pooled)
        if self.statistics is not None:
            tokens = tokens + self.statistics.expand(statistics)
        tokens = _run_transformer(self.decoder, tokens, bf16=bf16)
        # Back to the width of each layer, on top of what the linear path reconstructs.
        pairs = zip(self.debedders, tokens.split(self.units, dim=1), strict=True)
        rows = [debed(part) for debed, part in pairs]
        if self.linear_path is not None:
            rows = [row + more for row, more in zip(rows, self.linear_path.expand(z), strict=True)]
        return self.layout.from_tokens(rows)

    def _normalize(self, weights: Tensor) -> Tensor:
        """Center and scale aligned weights (N, P), as the encoder takes them."""
        return (weights - self.mean * self.config.center) / self.scale

    def _denormalize(self, x: Tensor) -> Tensor:
        """Invert `_normalize`."""
        return x * self.scale + self.mean * self.config.center


def _find_layout(config: RepresentationConfig) -> tuple[Layout, Symmetry]:
    """Return layout and symmetry of a configuration, by default those of the registered architecture."""
    if config.layout is not None and config.symmetry is not None:
        return config.layout, config.symmetry
    architecture = get_architecture(config.architecture)
    return architecture.layout, architecture.symmetry


def init_parameters(module: nn.Module, generator: torch.Generator, zeros: tuple[str, ...] = ()) -> None:
    """Draw all parameters: matrices N(0, 1 / fan_in), positions N(0, 0.02²), biases 0, scales of layer norms 1.

    Args:
        module: module whose parameters are drawn in place.
        generator: source of all randomness.
        zeros: beginnings of the names of parameters that are 0 instead.
    """
    for name, parameter in module.named_parameters():
        if name.startswith(zeros) or name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif name.endswith("positions"):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
        else:
            nn.init.ones_(parameter)


def _make_transformer(config: RepresentationConfig) -> nn.Module:
    """Return pre-norm blocks without dropout: augmentation is the only noise."""
    sizes = config.width, config.heads, config.feedforward
    block = nn.TransformerEncoderLayer(*sizes, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(block, config.blocks, enable_nested_tensor=False)


def _run_transformer(transformer: nn.Module, tokens: Tensor, *, bf16: bool) -> Tensor:
    """Map tokens (N, T, width) to the same shape in float32; with `bf16` only the inside computes in bfloat16."""
    with ExitStack() as stack:
        if bf16:
            stack.enter_context(torch.autocast(tokens.device.type, torch.bfloat16))
        if bf16 and tokens.device.type == "cpu":  # its fused attention is five times slower backwards in bfloat16
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        result: Tensor = transformer(tokens)
    return result.float()
