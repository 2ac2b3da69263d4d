"""Recipes of hyper-representations: what is trained on which states, and the protocol that judges the samples.

Fields are named in the field's words. Files keep the keys of the first release (`ALIASES`), which TOML recipes may use
as well, so that every training.json and evaluation.json of any release stays readable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from modelzoo_datasets.errors import FormatError

from .json_record import JsonRecord
from .sampler_names import DEFAULT_SAMPLER, DEFAULT_TOP_FRACTION

# Values of the fields that are words.
CHOICES = {
    "bottleneck": ("tokens", "dense"),
    "permute": ("none", "second", "both"),
    "reconstruct": ("first", "both"),
    "mixture": ("ensemble", "logits"),
}


@dataclass(frozen=True, kw_only=True)
class DataRecipe(JsonRecord):
    """Training states: a config of the dataset and a range of epochs.

    Attributes:
        config: Config of the dataset.
        epochs: First and last epoch of the trajectories, both included.
        align: Align the units of all models to a common reference, by weight matching.
        signs: Align signs too; only for networks with odd activations (tanh).
    """

    config: str
    epochs: tuple[int, int]
    align: bool = True
    signs: bool = False  # keeps the functions only where the activation is odd


@dataclass(frozen=True, kw_only=True)
class ModelRecipe(JsonRecord):
    """Sizes of the auto-encoder (2209.14733, section 3).

    Attributes:
        width: Embedding dimension of the transformers.
        blocks: Blocks of the encoder, and as many of the decoder.
        heads: Attention heads; width must be a multiple of them.
        feedforward: Width of the feed-forward layers.
        bottleneck: dense: all tokens to one latent vector; tokens: each token to its own part of it.
        latent: dense: size of the latent vector; tokens: share of a token's length that its part has.
        projection: Width of the head used only inside the contrastive loss.
        center: Subtract the mean of the training states before encoding.
        statistics: Append s(W), the statistics of the layers, to the latent vector.
        token_scale: Factor of the token part of the latent vector.
        pooled_dim: Further latent numbers, from mean and standard deviation of each layer's tokens.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"unit": "token_scale", "pooled": "pooled_dim"}

    width: int
    blocks: int
    heads: int
    feedforward: int
    bottleneck: str  # published: dense
    latent: float
    projection: int = 64
    center: bool = True
    statistics: bool = False
    token_scale: float = 1.0  # a ridge probe hardly penalizes what is large
    pooled_dim: int = 0


@dataclass(frozen=True, kw_only=True)
class LearningRecipe(JsonRecord):
    """Loss, augmentation and optimization.

    Attributes:
        epochs: Epochs of training.
        batch_size: States per step.
        lr: Peak learning rate of the one-cycle schedule.
        weight_decay: Decoupled weight decay of AdamW.
        layerwise: Divide errors by the standard deviation of their layer.
        contrastive_weight: Share of the contrastive loss; the reconstruction loss has the rest.
        temperature: Temperature of the contrastive loss.
        permute: Which of the two views gets a random permutation of units.
        reconstruct: Which views are decoded.
        mixup: Largest share of the way by which a state is moved to another one.
        layer_weights: Factors of the layers' errors, one per layer; all 1 by default.
        noise_std: Gaussian noise on a view, in standard deviations of the layer.
        erase_prob: Probability that a block of a view is set to zero.
        functional_weight: Factor of the functional loss: decoded networks predict what the original ones predict.
        mixed_functional_weight: Factor of the functional loss of networks decoded from draws around embeddings.
        mixture: Target of those networks: mixed logits, or the mean prediction of the batch.
        num_queries: Images per step for the functional losses.
        statistics_weight: Factor of the loss by which the pooled part begins with s(W).
        seed: Seed of all randomness.
    """

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
    lr: float
    weight_decay: float
    layerwise: bool = True
    contrastive_weight: float = 0.05
    temperature: float = 0.1
    permute: str = "both"
    reconstruct: str = "both"  # "first" leaves the second to the contrastive loss
    mixup: float = 0.0
    layer_weights: tuple[float, ...] = ()
    noise_std: float = 0.0
    erase_prob: float = 0.0
    functional_weight: float = 0.0
    mixed_functional_weight: float = 0.0
    mixture: str = "logits"  # "logits" are mixed as the embeddings are
    num_queries: int = 64
    statistics_weight: float = 0.0
    seed: int = 0

    @property
    def needs_images(self) -> bool:
        """True if a loss runs networks on images."""
        return self.functional_weight > 0 or self.mixed_functional_weight > 0

    def count_image_gradients(self, num_states: int) -> int:
        """Return how often training computes the gradient of one network on one image, over all epochs.

        Args:
            num_states: Number of training states; the last, smaller batch of an epoch is left out.
        """
        networks = (self.functional_weight > 0) + (self.mixed_functional_weight > 0)  # decoded per state
        return self.epochs * (num_states - num_states % self.batch_size) * networks * self.num_queries

    @property
    def has_two_views(self) -> bool:
        """True if a loss needs a second view of each state."""
        return self.contrastive_weight > 0 or self.reconstruct == "both"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe(JsonRecord):
    """Protocol that judges samples; an empty list, or an ensemble of 1, leaves its question out.

    Attributes:
        num_samples: Samples per sampler.
        samplers: Names of samplers; NAME@30 draws from the best 30 % of the training states.
        top_fraction: Share of the training states, best validation accuracy first, that samplers draw from.
        bandwidth: Standard deviation of the kernels of density estimates.
        num_finetuned: Models of every population that are fine-tuned.
        finetune_epochs: Epochs of fine-tuning after which models are compared.
        noise: Noise baselines, in layer standard deviations.
        mixtures: Shares by which training states are moved to one of another model.
        moves: Shares of the way by which embeddings are moved to draws of the sampler normal.
        max_ensemble_size: Largest ensemble; 1 for none.
        transfer: Targets to fine-tune on: names of image datasets, or zoos as DATASET or DATASET/CONFIG.
        changed: Other architectures that take the same weights.
        max_equal_epochs: Largest number of epochs that zoo members are fine-tuned for at equal work; 0 for none.
        num_control: Requests per property of the control test; 0 for none.
        seed: Seed of all randomness.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {
        "samples": "num_samples",
        "quality": "top_fraction",
        "compared": "num_finetuned",
        "fine_tune": "finetune_epochs",
        "ensemble": "max_ensemble_size",
    }

    num_samples: int = 50
    samplers: tuple[str, ...] = (DEFAULT_SAMPLER, "kde", "kde-principal", "kde-shared")
    top_fraction: float = DEFAULT_TOP_FRACTION
    bandwidth: float = 0.002  # published
    num_finetuned: int = 12
    finetune_epochs: tuple[int, ...] = (1, 5)  # published: 1, 5, 25, 50
    noise: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)
    mixtures: tuple[float, ...] = (0.1, 0.25)
    moves: tuple[float, ...] = ()
    max_ensemble_size: int = 1  # published: 30
    transfer: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    max_equal_epochs: int = 100
    num_control: int = 100
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
class HyperRecipe(JsonRecord):
    """Everything that determines a hyper-representation and its evaluation.

    Example:
        >>> from hyperrep import read_hyper_recipe
        >>> read_hyper_recipe("demo").model.bottleneck
        'tokens'
    """

    IGNORES_UNKNOWN: ClassVar[bool] = True

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
        return super().from_json({**values, "evaluation": values.get("evaluation") or {}})

    def to_json(self) -> dict[str, Any]:
        """Return the part that decides the weights: the evaluation is left out."""
        return {**super().to_json(), "evaluation": None}
