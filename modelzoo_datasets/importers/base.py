"""What every format is read into: models with their facts and metrics, and their states one model after the other.

P numbers of a state, Q numbers that are kept beside the state of a twin.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..architectures import Architecture
from ..recipes import Training
from .skip_report import SkipReport

Metrics = Mapping[str, float]  # METRICS and SPARSITY; what was not recorded is missing


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """One model, as far as it is known before its weights are read."""

    origin: str  # where it lies in its source: what twins name their parents by
    seed: int
    training: Training
    metrics: Mapping[int, Metrics]  # by epoch
    epochs: tuple[int, ...]  # of the states that there should be, ascending
    parent: str | None = None  # origin of the parent of a sparsified twin
    split: str | None = None  # where the original has splits of its own
    more: Mapping[str, Any] = field(default_factory=dict)  # hyper-parameters that no model here has, for zoo.json


@dataclass(frozen=True)
class ImportedState:
    """One state: weights (P,) and, of twins, unpruned weights and log sigma² (Q,)."""

    epoch: int
    weights: Tensor
    variational: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the user says of originals, or else what they say of themselves."""

    name: str | None = None  # RECIPE/CONFIG
    images: str | None = None
    architecture: str | None = None
    inside: str | None = None  # the folder of one zoo, where a source holds several
    splits: Path | None = None  # CSV of splits that others published for these originals


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which zoo the originals are."""

    recipe: str
    config: str
    images: str
    parent_config: str | None = None  # of twins
    columns: Mapping[str, str] | None = None  # of a population of any kind: columns of its own, by model -> kind
    measured: Sequence[str] = ()  # and what it has measured of states beside the usual
    measured_otherwise: Sequence[str] = ()  # splits or metrics that were recorded of something else than here


class ModelSource(Protocol):
    """Originals of one zoo that are ready to be read."""

    @property
    def source(self) -> str:
        """The name of what they lie in, without its path."""
        ...

    @property
    def identity(self) -> Identity:
        """Which zoo they are."""
        ...

    @property
    def architecture(self) -> Architecture:
        """Of all of them."""
        ...

    @property
    def models(self) -> Sequence[ImportedModel]:
        """In an order that does not depend on the file system."""
        ...

    @property
    def refusals(self) -> SkipReport:
        """What was skipped so far."""
        ...

    def states(self, chosen: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        """(index, its readable states, epochs ascending) of these models, in any order; what is refused is counted."""
        ...
