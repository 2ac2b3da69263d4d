"""The content of evaluation.json as typed records: no other module uses its keys.

n models of a population, E epochs of fine-tuning, B test images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import read_json

from ..json_record import JsonRecord
from ..probes import Probe
from ..recipe import EvaluationRecipe
from ..trainer import ReconstructionResult

EVALUATION_FORMAT = "modelzoo-evaluation-4"
# Formats 2 and 3 have no nulls with REPAIR, and no judgments; format 2 compares ensembles by one random order alone.
READABLE_FORMATS = (EVALUATION_FORMAT, "modelzoo-evaluation-3", "modelzoo-evaluation-2")
EVALUATION_FILE = "evaluation.json"
COPIES, AVERAGES, NEW, UNKNOWN = "copies", "averages", "new", "unknown"  # and "noise": kinds of samples
Curves = Sequence[Sequence[float | None]]  # (n, E + 1) test accuracies, epoch 0 is zero-shot; None: not recorded


def select_epoch(curves: Curves, epoch: int) -> list[float]:
    """Return the accuracies after an epoch, for the models whose curve reaches it."""
    values = (curve[epoch] for curve in curves if epoch < len(curve))
    return [value for value in values if value is not None]


@dataclass(frozen=True, kw_only=True)
class CurveResult(JsonRecord):
    """Fine-tuning of one population on other images or in another architecture."""

    name: str
    n: int
    curves: Curves
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)  # that the models were trained with
    source: str = ""  # where these are from


@dataclass(frozen=True, kw_only=True)
class EnsembleResult(JsonRecord):
    """Ensembles of one population, by their number of members."""

    mean: Sequence[float]  # accuracy for 1, 2, ... members, over random orders
    std: Sequence[float]
    diverged: int = 0  # models that diverged and are in no ensemble
    missed: Sequence[int]  # test images that the largest ensemble gets wrong in some order
    num_missed: Sequence[int] = ()  # in how many orders, for each of these images
    orders: int = 1  # random orders; earlier releases noted the images of the first one
    images: int  # B

    @property
    def hits(self) -> list[float]:
        """For every test image the share of orders whose largest ensemble is right; its mean is `mean[-1]`."""
        shares = np.ones(self.images)
        shares[list(self.missed)] -= np.array(self.num_missed or [1] * len(self.missed)) / self.orders
        values: list[float] = shares.tolist()
        return values


@dataclass(frozen=True, kw_only=True)
class PairSummary(JsonRecord):
    """A measure over all pairs of models of a population; None where there are too few models."""

    pairs: int
    left_out: int  # pairs without a value
    mean: float | None
    std: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True, kw_only=True)
class PopulationResult(JsonRecord):
    """All measurements of one population."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "what": "description",
        "sampled": "is_sample",
        "mirrors": "matched_to",
        "partners": "matched_index",
        "error_similarity": "error_overlap",
    }

    name: str
    description: str
    is_sample: bool
    matched_to: str = ""  # samples at whose distances this baseline was made
    matched_index: Sequence[int] = ()  # (n,) for each model, its counterpart among those samples
    n: int
    zero_shot: Sequence[float]  # (n,) test accuracies, fractions
    curves: Curves
    distance: Sequence[float] = ()  # (n,) to the nearest training state, in layer standard deviations
    nearest: Sequence[tuple[str, int]] = ()  # (n,) that state: model_id and epoch
    error_overlap: Sequence[float] = ()  # (n,) intersection over union of errors with the most similar training state
    pairs: Mapping[str, PairSummary] = field(default_factory=dict)  # "distance" and "agreement" -> summary
    ensembles: Mapping[str, EnsembleResult] = field(default_factory=dict)  # "zero-shot" and "tuned"
    cpu_seconds: float | None = None  # CPU time of the evaluation


@dataclass(frozen=True, kw_only=True)
class SignificanceResult(JsonRecord):
    """One test: is a population better than another, and by how much?"""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "one": "population",
        "other": "rival",
        "other_mean": "rival_mean",
        "m": "n_rival",
    }

    question: str  # zero-shot, fine-tuning, transfer, changed or ensembles
    where: str  # image dataset, architecture, or which counting of epochs
    population: str
    rival: str
    epoch: int
    mean: float  # accuracy, a fraction
    rival_mean: float
    word: str  # above, below or level with
    difference: float
    low: float | None  # 95 % interval of the difference; None for groups that are too small
    high: float | None
    p: float | None  # two-sided
    test: str  # paired or Welch
    n: int
    n_rival: int


@dataclass(frozen=True, kw_only=True)
class EmbeddingPoints(JsonRecord):
    """States or samples in the plane of the two widest principal axes of z."""

    z: Sequence[Sequence[float]]  # (n, 2)
    test_acc: Sequence[float | None] | None = None  # (n,) of zoo states; None: not recorded

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without accuracies where there are none."""
        return {key: value for key, value in super().to_json().items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Judgment(JsonRecord):
    """A judgment of the samples of one population."""

    kind: str  # copies, noise, averages, new; unknown without nulls
    distance: float  # median novelty
    null: str = ""  # the strongest null at equal novelty
    mean: float | None = None  # accuracy of the samples that it has counterparts for
    null_mean: float | None = None
    difference: float | None = None
    low: float | None = None  # 95 % interval of the difference
    high: float | None = None
    n: int = 0  # pairs
    weight_dispersion: float | None = None  # pairwise distance over that of zoo members
    prediction_dispersion: float | None = None  # pairwise disagreement over that of zoo members


AMORTIZED, WHOLE = "members, budget per sample", "best member, whole budget"


@dataclass(frozen=True, kw_only=True)
class EqualWorkResult(JsonRecord):
    """Training members that were fine-tuned with the image gradients that learning a sampler spent."""

    gradients: int  # image gradients that learning spent
    num_samples: int  # samples over which they are amortized
    epoch_gradients: int  # in one epoch of fine-tuning
    curves: Mapping[str, CurveResult] = field(default_factory=dict)  # AMORTIZED and WHOLE

    def count_budget(self, name: str) -> int:
        """Return the image gradients of each model of a row."""
        return self.gradients if name == WHOLE else -(-self.gradients // self.num_samples)

    def count_spent(self, name: str) -> int:
        """Return the image gradients that each model got; fewer than its budget where the protocol has a limit."""
        return (len(self.curves[name].curves[0]) - 1) * self.epoch_gradients


@dataclass(frozen=True, kw_only=True)
class ControlResult(JsonRecord):
    """The line through measured against asked values of one property; full control has slope 1, R² 1, bias 0."""

    requests: Sequence[float]  # (n,)
    measured: Sequence[float]  # (n,) of the samples
    slope: float
    slope_low: float  # 95 % interval
    slope_high: float
    r2: float
    r2_low: float
    r2_high: float
    bias: float  # mean of measured - requests


Control = Mapping[str, Mapping[str, ControlResult]]  # property -> sampler -> result
Places = Mapping[str, Mapping[str, CurveResult]]  # image dataset or architecture -> population -> its curves


@dataclass(frozen=True, kw_only=True)
class EvaluationResult(JsonRecord):
    """The evaluation of a hyper-representation: everything that its report shows."""

    ALIASES: ClassVar[Mapping[str, str]] = {"comparisons": "tests"}
    IGNORES_UNKNOWN: ClassVar[bool] = True

    protocol: EvaluationRecipe
    offset: int  # epochs for which the learned-from models were trained (published: 25)
    populations: Sequence[PopulationResult]
    transfer: Places
    changed: Places
    tests: Sequence[SignificanceResult]
    judgments: Mapping[str, Judgment] = field(default_factory=dict)  # name of samples -> what they are
    equal_work: EqualWorkResult | None = None
    control: Control = field(default_factory=dict)
    score: str = ""  # name of the function whose scores stand in place of accuracies, if there is one
    # Only a hyper-representation has these.
    probes: Sequence[Probe] = ()
    reconstruction: Mapping[str, ReconstructionResult] = field(default_factory=dict)  # split -> R²
    embeddings: Mapping[str, EmbeddingPoints] = field(default_factory=dict)  # train, test, each sampler -> points

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read evaluation.json of an evaluation folder.

        Raises:
            FormatError: the file is missing, of another format, or malformed.
        """
        path = folder / EVALUATION_FILE
        if not path.is_file():
            raise FormatError(
                f"{folder} has no {path.name}, so the evaluation has not finished; run modelzoo-hyperrep evaluate"
            )
        values = read_json(path)
        version = values.get("format") if isinstance(values, dict) else None
        if version not in READABLE_FORMATS:
            raise FormatError(
                f"{path} has format {version!r}, but this release reads {EVALUATION_FORMAT!r}; run the evaluation again"
            )
        try:
            return cls.from_json(values)
        except FormatError as error:
            raise FormatError(f"{path} is malformed ({error}); run the evaluation again") from error

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the keys of the file."""
        return {"format": EVALUATION_FORMAT, **super().to_json()}
