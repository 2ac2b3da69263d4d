"""Recipes of hyper-representations: what is trained on which states, and the protocol that judges the samples.

Fields are named in the field's words. Files keep the keys of the first release (`ALIASES`), which TOML recipes may use
as well, so that every training.json and evaluation.json of any release stays readable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from modelzoo_datasets.errors import FormatError

from .json_record import JsonRecord

BOTTLENECKS = ("tokens", "dense")
PERMUTED_VIEWS = ("none", "second", "both")
DECODED_VIEWS = ("first", "both")
MIXTURES = ("ensemble", "logits")


@dataclass(frozen=True, kw_only=True)
class DataRecipe(JsonRecord):
    """Training states: a config of the dataset and a range of epochs."""

    config: str
    epochs: tuple[int, int]  # first and last epoch of the trajectories, both included
    align: bool = True  # to a common reference, by weight matching
    signs: bool = False  # align signs too; keeps the functions only where the activation is odd (tanh)


@dataclass(frozen=True, kw_only=True)
class ModelRecipe(JsonRecord):
    """Sizes of the auto-encoder (2209.14733, section 3)."""

    ALIASES: ClassVar[Mapping[str, str]] = {"unit": "token_scale", "pooled": "pooled_dim"}

    width: int  # embedding dimension of the transformers
    blocks: int  # the encoder has so many, and so has the decoder
    heads: int
    feedforward: int
    bottleneck: str  # "dense": all tokens to one latent (published); "tokens": each token to its own part of it
    latent: float  # dense: size of the latent; tokens: size of a token's part as a fraction of the token's length
    projection: int = 64  # width of the head used only inside the contrastive loss
    center: bool = True  # subtract the mean of the training states before encoding
    statistics: bool = False  # append s(W), the statistics of the layers, to the latent vector
    token_scale: float = 1.0  # factor of the token part of z: a ridge probe hardly penalizes what is large
    pooled_dim: int = 0  # further latent numbers, from mean and standard deviation of each layer's tokens


@dataclass(frozen=True, kw_only=True)
class LearningRecipe(JsonRecord):
    """Loss, augmentation and optimization."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "contrast": "contrastive_weight",
        "mix": "mixup",
        "noise": "noise_std",
        "erase": "erase_prob",
        "behaviour": "functional_weight",
        "mixed_behaviour": "mixed_functional_weight",
        "queries": "num_queries",
        "statistics": "statistics_weight",
    }

    epochs: int
    batch_size: int
    lr: float  # peak of the one-cycle schedule
    weight_decay: float
    layerwise: bool = True  # divide errors by the standard deviation of their layer
    contrastive_weight: float = 0.05  # share of the contrastive loss; the reconstruction loss has the rest
    temperature: float = 0.1
    permute: str = "both"  # which of the two views gets a random permutation of units
    reconstruct: str = "both"  # which views are decoded; "first" leaves the second to the contrastive loss
    mixup: float = 0.0  # largest share of the way by which a state is moved to another one
    layer_weights: tuple[float, ...] = ()  # factors of the layers' errors; all 1 by default
    noise_std: float = 0.0  # Gaussian noise on a view, in standard deviations of the layer
    erase_prob: float = 0.0  # probability that a block of a view is set to zero
    functional_weight: float = 0.0  # factor of: decoded networks predict what the original networks predict
    mixed_functional_weight: float = 0.0  # the same for networks decoded from draws around the batch's embeddings
    mixture: str = "logits"  # their target: logits mixed as the embeddings are; "ensemble": mean of the whole batch
    num_queries: int = 64  # images per step for these two losses
    statistics_weight: float = 0.0  # factor of: the pooled part begins with s(W), the statistics of the layers
    seed: int = 0

    @property
    def needs_images(self) -> bool:
        """True if a loss runs networks on images."""
        return self.functional_weight > 0 or self.mixed_functional_weight > 0

    @property
    def has_two_views(self) -> bool:
        """True if a loss needs a second view of each state."""
        return self.contrastive_weight > 0 or self.reconstruct == "both"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe(JsonRecord):
    """Protocol that judges samples; an empty list, or an ensemble of 1, leaves its question out."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "samples": "num_samples",
        "quality": "top_fraction",
        "compared": "num_finetuned",
        "fine_tune": "finetune_epochs",
        "ensemble": "max_ensemble_size",
    }

    num_samples: int = 50  # per sampler
    samplers: tuple[str, ...] = ("kde", "kde-principal", "kde-shared")  # "NAME@30": from the best 30 % instead
    top_fraction: float = 0.3  # share of the training states, by validation accuracy, that samplers draw from
    bandwidth: float = 0.002  # standard deviation of the kernels, as published
    num_finetuned: int = 12  # models of every population that are fine-tuned
    finetune_epochs: tuple[int, ...] = (1, 5)  # epochs after which models are compared; published: 1, 5, 25, 50
    noise: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)  # noise baselines, in layer standard deviations
    mixtures: tuple[float, ...] = (0.1, 0.25)  # shares by which training states are moved to one of another model
    moves: tuple[float, ...] = ()  # shares of the way that embeddings of training states are moved to `normal` draws
    max_ensemble_size: int = 1  # published protocol: 30; 1 for no ensembles
    transfer: tuple[str, ...] = ()  # other image datasets
    changed: tuple[str, ...] = ()  # other architectures that take the same weights
    seed: int = 0

    @property
    def max_finetune_epochs(self) -> int:
        """Number of epochs that models are fine-tuned for."""
        return max(self.finetune_epochs)


SECTIONS: dict[str, type[JsonRecord]] = {
    "data": DataRecipe,
    "model": ModelRecipe,
    "learning": LearningRecipe,
    "evaluation": EvaluationRecipe,
}


@dataclass(frozen=True, kw_only=True)
class HyperRecipe:
    """Everything that determines a hyper-representation and its evaluation.

    Example:
        >>> from hyperrep import read_hyper_recipe
        >>> read_hyper_recipe("demo").model.bottleneck
        'tokens'
    """

    name: str
    data: DataRecipe
    model: ModelRecipe
    learning: LearningRecipe
    evaluation: EvaluationRecipe

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read the recipe of a training.json, which has no evaluation; raises FormatError."""
        if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
            raise FormatError(f"expected a recipe with a name, got {values!r}")
        return cls(
            name=values["name"],
            data=DataRecipe.from_json(values.get("data")),
            model=ModelRecipe.from_json(values.get("model")),
            learning=LearningRecipe.from_json(values.get("learning")),
            evaluation=EvaluationRecipe.from_json(values.get("evaluation") or {}),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the part that decides the weights: the evaluation is left out."""
        parts = {"data": self.data, "model": self.model, "learning": self.learning}
        return {"name": self.name, **{key: part.to_json() for key, part in parts.items()}, "evaluation": None}
