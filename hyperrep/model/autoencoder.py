"""The hyper-representation: an auto-encoder of weights with one token per neuron and one latent vector per model.

N models, P weights, T tokens (units of all layers), D latent dimensions, S training states.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modelzoo_datasets._util import one_line
from modelzoo_datasets.architectures import Architecture, build_module, find_architecture, get_architecture
from modelzoo_datasets.errors import ArgumentError, FormatError, ModelZooError, RecipeError
from modelzoo_datasets.seeds import choose_generator
from modelzoo_datasets.weights import Alignment, Layout, Symmetry

from ..sampler_names import DEFAULT_SAMPLER, DEFAULT_TOP_FRACTION, SAMPLER_INFO
from .bottlenecks import DenseBottleneck, LinearPath, PooledPart, StatisticsPart, TokenBottleneck
from .hub_mixin import HubMixin, RepresentationConfig
from .samplers import SAMPLERS, draw_embeddings, select_best_states

_BATCH_SIZE = 256  # models that are encoded or decoded together


class HyperRepresentation(nn.Module, HubMixin):
    """Encoder and decoder transformers over neuron tokens (2209.14733, section 3), for one architecture.

    `encode` and `decode` take and return plain weight vectors. Inside, weights are aligned to `reference`, centered on
    `mean` and divided by `scale`. `from_pretrained`, `save_pretrained` and `push_to_hub` read and write it.

    Example:
        >>> import torch
        >>> from hyperrep import HyperRepresentation, RepresentationConfig
        >>> sizes = {"width": 16, "blocks": 1, "heads": 2, "feedforward": 32, "bottleneck": "dense", "latent": 8}
        >>> config = RepresentationConfig(architecture="cnn-s", activation="tanh", dropout=0.0, num_states=1, **sizes)
        >>> rep = HyperRepresentation(config)
        >>> rep.init_parameters(seed=0)
        >>> z = rep.encode(torch.zeros(3, rep.layout.size))
        >>> z.shape, rep.decode(z).shape
        (torch.Size([3, 8]), torch.Size([3, 2464]))
    """

    # Buffers, fitted to the training states and saved with the parameters.
    mean: Tensor  # (P,) of the aligned training states; subtracted before encoding if `config.center`
    scale: Tensor  # (P,) standard deviation of each weight's layer over the training states
    reference: Tensor  # (P,) that models are aligned to
    embeddings: Tensor  # (S, D) of the training states; samplers draw from them
    accuracy: Tensor  # (S,) of the training states, a fraction, as `config.ranked_by` says; NaN if not recorded

    def __init__(self, config: RepresentationConfig) -> None:
        """Build the module with zero buffers and parameters as torch initializes them; see `init_parameters`."""
        super().__init__()
        self.layout, self.symmetry = _find_layout(config)
        self.config = replace(config, layout=self.layout, symmetry=self.symmetry)
        self.architecture = find_architecture(config.architecture, self.layout)
        self.activation, self.dropout = config.activation, config.dropout
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
        self.register_buffer("embeddings", torch.zeros(config.num_states, self.latent_dim))
        self.register_buffer("accuracy", torch.zeros(config.num_states))

    @property
    def latent_dim(self) -> int:
        """Length D of an embedding."""
        return sum(self._part_dims)

    def describe_sizes(self) -> dict[str, str]:
        """Return its networks, its training states and its size, as rows of a card."""
        parameters = sum(p.numel() for p in self.parameters())
        return {
            "networks": f"`{self.architecture.name}`, activation {self.activation}, {self.layout.size:,} weights",
            "training states": f"{len(self.accuracy):,}",
            "auto-encoder": f"{parameters:,} parameters, {self.latent_dim:,} latent numbers",
        }

    @property
    def _part_dims(self) -> list[int]:
        """Lengths of the three parts of z: of single tokens, pooled over all tokens, and s(W)."""
        optional = (self.pooled, self.statistics)
        return [self.bottleneck.latent_dim, *(0 if part is None else part.latent_dim for part in optional)]

    @property
    def device(self) -> torch.device:
        """Device of its parameters; all tensors passed to it must be there."""
        return self.mean.device

    def __repr__(self) -> str:
        """Say in six lines what it encodes, how large it is, what it was trained on and what it samples with."""
        names = ("tokens" if self.config.bottleneck == "tokens" else "all tokens", "pooled", "s(W)")
        parts = [f"{name} {size:,}" for name, size in zip(names, self._part_dims, strict=True) if size]
        return "\n".join(
            (
                "HyperRepresentation(",
                f"  networks: {self.architecture.name}, activation {self.activation}, {self.layout.size:,} weights",
                f"  latent vector: {self.latent_dim:,} numbers ({', '.join(parts)})",
                f"  auto-encoder: {sum(p.numel() for p in self.parameters()):,} parameters, on {self.device}",
                f"  trained on: {len(self.accuracy):,} states, {self._describe_accuracy()}",
                f"  samplers: {', '.join(SAMPLERS)}; default {DEFAULT_SAMPLER}, best {DEFAULT_TOP_FRACTION:.0%}",
                ")",
            )
        )

    def _describe_accuracy(self) -> str:
        kind = {"validation": "validation", "train": "training"}.get(self.config.ranked_by)
        return f"{kind} accuracy up to {self.accuracy.nan_to_num(0).max():.1%}" if kind else "accuracy not recorded"

    def init_parameters(self, generator: torch.Generator | None = None, *, seed: int | None = None) -> None:
        """Draw all trained parameters from a generator or a seed, 0 by default; see the function of this name.

        Beside a linear path the transformers start as a correction of zero: their last maps begin at 0.
        """
        generator = choose_generator(generator, seed, "auto-encoder")
        last_maps = ("bottleneck.down", "debedders") if self.linear_path is not None else ()
        init_parameters(self, generator, (*last_maps, "pooled.up", "statistics.up"))

    @torch.no_grad()
    def encode(self, weights: Tensor) -> Tensor:
        """Return the embeddings z (N, D) of models given as weights (N, P), in batches and without gradients.

        Raises:
            FormatError: the weights have another shape, or some are not finite.
        """
        return self._map_batches(lambda part: self._encode_normalized(self._normalize(part)), self.align(weights))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the weights (N, P) of embeddings z (N, D), in batches and without gradients.

        Raises:
            FormatError: the embeddings have another shape, or some are not finite.
        """
        self._check_rows(z, self.latent_dim, "latent dimensions")
        return self._map_batches(lambda part: self._denormalize(self._decode_normalized(part)), z)

    def forward(self, weights: Tensor) -> Tensor:
        """Reconstruct weights (N, P) -> (N, P) with gradients, in one batch; units are in the reference's order."""
        z = self._encode_normalized(self._normalize(self.align(weights)))
        return self._denormalize(self._decode_normalized(z))

    def sample(
        self,
        n: int,
        *,
        sampler: str = DEFAULT_SAMPLER,
        top_fraction: float = DEFAULT_TOP_FRACTION,
        bandwidth: float = 0.002,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw new models: embeddings from a sampler (2209.14733, section 3.3), decoded.

        Args:
            n: number of models.
            sampler: name of a sampler, such as `normal`, `kde` or `gan`; see docs/hyper-representations.md.
            top_fraction: share of the training states to draw from, best validation accuracy first (S_KDE30: 0.3).
            bandwidth: standard deviation of the kernels of a density, in units of the embedding (published: 0.002).
            seed: seed of all randomness, 0 by default; `modelzoo-hyperrep sample --seed` draws the same models.
            generator: source of all randomness, on the CPU, instead of a seed. Equal generators draw equal embeddings
                on every device.

        Returns:
            Weights (n, P).

        Raises:
            ModelZooError: an unknown sampler, a number out of range, or too few training states.

        Example:
            >>> from hyperrep import HyperRepresentation, RepresentationConfig
            >>> sizes = {"width": 16, "blocks": 1, "heads": 2, "feedforward": 32, "bottleneck": "dense", "latent": 8}
            >>> kind = {"architecture": "cnn-s", "activation": "tanh", "dropout": 0.0}
            >>> rep = HyperRepresentation(RepresentationConfig(**kind, num_states=4, **sizes))
            >>> rep.sample(3, seed=1).shape
            torch.Size([3, 2464])
        """
        if n < 1 or not 0 < top_fraction <= 1:
            raise ModelZooError(f"expected n >= 1 and 0 < top_fraction <= 1, got n {n}, top_fraction {top_fraction}")
        # Samplers see the token part of z without its factor, so that one bandwidth fits all parts.
        factors = torch.ones(self.latent_dim)
        factors[: self.bottleneck.latent_dim] = self.config.token_scale
        min_states = SAMPLER_INFO[sampler].min_states if sampler in SAMPLER_INFO else 1
        z = self.embeddings.cpu()[select_best_states(self.accuracy.cpu(), top_fraction, min_states)] / factors
        generator = choose_generator(generator, seed, "samples", sampler)
        return self.decode((draw_embeddings(sampler, z, n, bandwidth, generator) * factors).to(self.device))

    def model(self, weights: Tensor, module: nn.Module | None = None) -> nn.Module:
        """Return a network in eval mode with these weights (P,), such as a row of `sample`.

        Args:
            weights: the weights.
            module: module to load them into; built by the registered architecture if None.

        Raises:
            ArgumentError: the module has other tensors than the layout.
            RecipeError: no module was passed, and the architecture is not registered, has other tensors, or needs an
                activation that is not recorded.
        """
        if module is None:
            return self._build_model(weights.cpu())
        try:
            module.load_state_dict(self.layout.unpack(weights.cpu().clone()))
        except RuntimeError as error:
            name = self.architecture.name
            raise ArgumentError(f"the module must have the tensors of {name!r}; {one_line(error)}") from error
        return module.eval()

    def _build_model(self, vector: Tensor) -> nn.Module:
        if not self.architecture.has_module:
            raise RecipeError(
                f"architecture {self.architecture.name!r} is not registered with the tensors of this "
                "hyper-representation: pass your own module, rep.model(weights, module), or register it, in a file "
                "that --plugin FILE names"
            )
        try:
            return build_module(self.architecture, vector, activation=self.activation, dropout=self.dropout)
        except KeyError as error:
            if self.activation:
                raise
            raise RecipeError(
                f"the activation of the networks is not recorded: fill your own {self.architecture.name}, "
                "module.load_state_dict(rep.layout.unpack(weights))"
            ) from error

    @property
    def alignment(self) -> Alignment:
        """Reference and scale that weights are aligned and compared by."""
        symmetry = self.symmetry if self.config.aligned else ()
        return Alignment(symmetry=symmetry, reference=self.reference, scale=self.scale, signs=self.config.signs)

    def align(self, weights: Tensor) -> Tensor:
        """Reorder the units of each model (N, P) to match the reference; the functions stay the same."""
        self._check_rows(weights, self.layout.size, "weights per model")
        return self.alignment.align(weights)

    def check_architecture(self, other: Architecture, source: object) -> None:
        """Raise FormatError unless this encodes the weights of an architecture in the layout that it has.

        Args:
            other: the architecture of the weights.
            source: where they come from, for the message.
        """
        name = self.architecture.name
        if name != other.name:
            raise FormatError(f"this hyper-representation is of {name}, {source} holds models of {other.name}")
        if not _is_same_order(self.layout, other.layout):
            raise FormatError(
                f"this hyper-representation is of {name}, but the models of {source} have other tensors, or in another "
                "order, under that name; import and build them as those were that it learned from"
            )

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

    def _map_batches(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Apply a function in eval mode, batch by batch; the mode is restored."""
        training = self.training
        self.eval()
        try:
            return torch.cat([function(part) for part in rows.split(_BATCH_SIZE)])
        finally:
            self.train(training)

    def _check_rows(self, rows: Tensor, expected: int, what: str) -> None:
        if rows.ndim != 2 or rows.shape[1] != expected:
            raise FormatError(
                f"this hyper-representation is of {self.architecture.name}: expected (N, {expected}), "
                f"{expected} {what}, got {tuple(rows.shape)}"
            )
        if not rows.isfinite().all():
            bad = int((~rows.isfinite()).any(dim=1).sum())
            raise FormatError(
                f"expected finite {what}, got NaN or infinity in {bad} of {len(rows)} rows; leave these rows out"
            )


def _find_layout(config: RepresentationConfig) -> tuple[Layout, Symmetry]:
    """Return layout and symmetry of a configuration, by default those of the registered architecture."""
    if config.layout is not None and config.symmetry is not None:
        return config.layout, config.symmetry
    architecture = get_architecture(config.architecture)
    return architecture.layout, architecture.symmetry


def _is_same_order(layout: Layout, other: Layout) -> bool:
    """Tell whether the weights of two layouts mean the same: dropout may shift the numbers in the names of tensors."""
    matched = layout.match_keys(slot.name for slot in other.slots)
    return matched is not None and all(replace(matched[slot.name], name=slot.name) == slot for slot in other.slots)


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
