"""The content of a sample's config.json and of samples.json as typed records: no other module uses their keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.weights import Layout
from modelzoo_datasets.zoo import read_json

from ..json_record import JsonRecord

SAMPLE_FORMAT = "modelzoo-sample-1"
SAMPLES_FORMAT = "modelzoo-samples-2"


@dataclass(frozen=True, kw_only=True)
class Lineage(JsonRecord):
    """Origin of a sample: hyper-representation, sampler and its options, parent zoo; None for unknown values."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "promise": "description",
        "quality": "top_fraction",
        "zoo": "zoo_repo",
        "hyperrep": "hyperrep_repo",
    }

    sampler: str
    description: str  # what the sampler draws
    top_fraction: float
    bandwidth: float
    sigma: float  # option of the sampler `noise`
    share: float  # option of the sampler `move`
    seed: int
    zoo_repo: str | None = None
    zoo_config: str
    zoo_revision: str | None = None
    states_sha256: str  # hash of all states of the zoo
    hyperrep_repo: str | None = None
    hyperrep_revision: str | None = None
    hyperrep_sha256: str  # hash of its model.safetensors

    @property
    def option(self) -> str:
        """Name of the option that the sampler uses beside `top_fraction`; empty where it uses none."""
        options = {"noise": "sigma", "move": "share"}
        return options.get(self.sampler, "bandwidth" if self.sampler.startswith("kde") else "")


@dataclass(frozen=True, kw_only=True)
class NearestState(JsonRecord):
    """The training state that is nearest to a sample."""

    distance: float  # in layer standard deviations, root mean square over the weights, after alignment
    index: int | None  # number among the training states; known without the dataset
    model_id: str | None  # known with the dataset
    epoch: int | None
    measured_on_weights: bool  # False: measured on decoded training states


@dataclass(frozen=True, kw_only=True)
class SampleMetrics:
    """Measurements of a sample on the test images of the parent zoo."""

    images: str  # name of the image dataset
    zero_shot: float  # test accuracy, a fraction
    error_overlap: float  # intersection over union of the errors with the most similar training state
    tuned_epochs: int | None = None
    tuned: float | None = None  # test accuracy after so many epochs of fine-tuning

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self | None:
        """Read what `to_json` returned; None for an empty table, which means that nothing was measured."""
        if not values:
            return None
        epochs, tuned = next(iter((values.get("tuned") or {}).items()), (None, None))
        return cls(
            images=values["images"],
            zero_shot=values["zero_shot"],
            error_overlap=values["error_similarity"],
            tuned_epochs=None if epochs is None else int(epochs),
            tuned=tuned,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the keys of the file."""
        values: dict[str, Any] = {
            "images": self.images,
            "zero_shot": self.zero_shot,
            "error_similarity": self.error_overlap,
        }
        return values if self.tuned_epochs is None else {**values, "tuned": {str(self.tuned_epochs): self.tuned}}


@dataclass(frozen=True, kw_only=True)
class SampleInfo:
    """One sampled model: its architecture, its origin, its novelty and its measurements."""

    architecture: str
    activation: str
    dropout: float
    number: int  # among the samples of one call
    lineage: Lineage
    nearest: NearestState
    metrics: SampleMetrics | None  # None: not measured

    @property
    def name(self) -> str:
        """Name of the folder."""
        return f"{self.lineage.sampler}-{self.number:04d}"

    @classmethod
    def read(cls, folder: Path, source: str | Path) -> Self:
        """Read config.json of a sample; `source` is the name of the folder in messages.

        Raises:
            FormatError: the folder holds no sample of this format, or a malformed one.
        """
        path = folder / "config.json"
        values = read_json(path) if path.is_file() else None
        if not isinstance(values, dict) or values.get("format") != SAMPLE_FORMAT:
            raise FormatError(
                f"{source} is not a sampled model of format {SAMPLE_FORMAT!r}; modelzoo-hyperrep sample writes them"
            )
        try:
            return cls(
                **{name: values[name] for name in ("architecture", "activation", "dropout", "number")},
                lineage=Lineage.from_json(values["lineage"]),
                nearest=NearestState.from_json(values["nearest"]),
                metrics=SampleMetrics.from_json(values["measured"]),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{source}: config.json is malformed ({error!r}); draw the sample again") from error

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the keys of the file."""
        return {
            "format": SAMPLE_FORMAT,
            "architecture": self.architecture,
            "activation": self.activation,
            "dropout": self.dropout,
            "number": self.number,
            "lineage": self.lineage.to_json(),
            "nearest": self.nearest.to_json(),
            "measured": {} if self.metrics is None else self.metrics.to_json(),
        }

    def to_table_json(self, layout: Layout) -> dict[str, Any]:
        """Return samples.json: the values that all samples of one call share, and the layout of their weights."""
        return {
            "format": SAMPLES_FORMAT,
            "architecture": self.architecture,
            "activation": self.activation,
            "dropout": self.dropout,
            "lineage": self.lineage.to_json(),
            "layout": layout.to_json(),
        }
