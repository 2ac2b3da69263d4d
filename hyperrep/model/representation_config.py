"""Configuration of a hyper-representation: what config.json holds, enough to build the module without its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..json_record import JsonRecord


@dataclass(frozen=True, kw_only=True)
class RepresentationConfig(JsonRecord):
    """Networks and sizes of a hyper-representation (2209.14733, section 3).

    Example:
        >>> from hyperrep import HyperRepresentation, RepresentationConfig
        >>> sizes = {"width": 16, "blocks": 1, "heads": 2, "feedforward": 32, "bottleneck": "dense", "latent": 8}
        >>> config = RepresentationConfig(architecture="cnn-s", activation="tanh", dropout=0.0, num_states=1, **sizes)
        >>> HyperRepresentation(config).latent_dim
        8
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"states": "num_states", "pooled": "pooled_dim", "unit": "token_scale"}

    architecture: str  # name of the networks' architecture
    activation: str  # activation of the networks
    dropout: float  # dropout of the networks
    width: int  # embedding dimension of the transformers
    blocks: int  # the encoder has so many, and so has the decoder
    heads: int
    feedforward: int
    bottleneck: str  # "dense" or "tokens", see `ModelRecipe`
    latent: float  # dense: size of the latent; tokens: size of a token's part as a fraction of the token's length
    num_states: int  # training states
    aligned: bool = True  # align weights to the reference before encoding
    signs: bool = False  # align signs too
    center: bool = True  # subtract the mean of the training states before encoding
    pooled_dim: int = 0  # latent numbers from mean and standard deviation of each layer's tokens
    statistics: bool = False  # append s(W), the statistics of the layers, to the latent vector
    token_scale: float = 1.0  # factor of the token part of z
