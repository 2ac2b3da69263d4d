"""The hyper-representation: its networks and its training states, for weights as they are stored.

N models, P weights, T tokens (units of all layers), D latent dimensions, S training states.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from modelzoo_datasets._util import one_line
from modelzoo_datasets.architectures import Architecture, build_module, find_architecture
from modelzoo_datasets.errors import ArgumentError, FormatError, ModelZooError, RecipeError
from modelzoo_datasets.seeds import choose_generator
from modelzoo_datasets.weights import Alignment, Layout

from ..sampler_names import DEFAULT_SAMPLER, DEFAULT_TOP_FRACTION, SAMPLER_INFO
from .hub_mixin import HubMixin, RepresentationConfig
from .network import AutoEncoder
from .samplers import SAMPLERS, draw_embeddings, select_best_states

_BATCH_SIZE = 256  # models that are encoded or decoded together


class HyperRepresentation(AutoEncoder, HubMixin):
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

    # Buffers beside those of the auto-encoder.
    embeddings: Tensor  # (S, D) of the training states; samplers draw from them
    accuracy: Tensor  # (S,) of the training states, a fraction, as `config.ranked_by` says; NaN if not recorded

    def __init__(self, config: RepresentationConfig) -> None:
        """Build the module with zero buffers and parameters as torch initializes them; see `init_parameters`."""
        super().__init__(config)
        self.architecture = find_architecture(config.architecture, self.layout)
        self.activation, self.dropout = config.activation, config.dropout
        self.register_buffer("embeddings", torch.zeros(config.num_states, self.latent_dim))
        self.register_buffer("accuracy", torch.zeros(config.num_states))

    def describe_sizes(self) -> dict[str, str]:
        """Return its networks, its training states and its size, as rows of a card."""
        parameters = sum(p.numel() for p in self.parameters())
        return {
            "networks": f"`{self.architecture.name}`, activation {self.activation}, {self.layout.size:,} weights",
            "training states": f"{len(self.accuracy):,}",
            "auto-encoder": f"{parameters:,} parameters, {self.latent_dim:,} latent numbers",
        }

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


def _is_same_order(layout: Layout, other: Layout) -> bool:
    """Tell whether the weights of two layouts mean the same: dropout may shift the numbers in the names of tensors."""
    matched = layout.match_keys(slot.name for slot in other.slots)
    return matched is not None and all(replace(matched[slot.name], name=slot.name) == slot for slot in other.slots)
