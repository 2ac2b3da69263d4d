"""The common form of all formats: models with hyper-parameters and metrics, and their states.

P numbers of a state, Q numbers stored beside the state of a sparsified twin.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..architectures import Architecture
from ..recipes import Training
from .skip_report import SkipReport

Metrics = Mapping[str, float]  # METRICS and SPARSITY; a metric that was not recorded has no key


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """One model: everything but its weights."""

    origin: str  # its place in the source; sparsified twins name their parents by it
    seed: int
    training: Training
    metrics: Mapping[int, Metrics]  # epoch -> metrics
    epochs: tuple[int, ...]  # epochs of the states, ascending
    parent: str | None = None  # sparsified twins: origin of the parent
    split: str | None = None  # None: the original has no splits
    more: Mapping[str, Any] = field(
        default_factory=dict
    )  # hyper-parameters that models of this package do not have, for zoo.json


@dataclass(frozen=True)
class ImportedState:
    """One state: weights (P,) and, for sparsified twins, unpruned weights and log sigma² (Q,)."""

    epoch: int
    weights: Tensor
    variational: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Statements of the user, which replace those of the files."""

    name: str | None = None  # RECIPE/CONFIG
    images: str | None = None
    architecture: str | None = None
    inside: str | None = None  # folder of one zoo in a source that holds several
    splits: Path | None = None  # CSV with published splits of the models


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Name and images of a zoo, and its special columns."""

    recipe: str
    config: str
    images: str
    parent_config: str | None = None  # sparsified twins: config of their parents
    columns: Mapping[str, str] | None = None  # format safetensors: further columns of the table of models -> kind
    measured: Sequence[str] = ()  # format safetensors: further metrics of states
    incomparable_metrics: Sequence[str] = ()  # splits or metrics that this package measures on other images


class ModelSource(Protocol):
    """The models of one zoo in a source, ready to be read."""

    skipped: SkipReport  # everything that was skipped so far

    @property
    def source(self) -> str:
        """Name of the folder or archive, without its path."""
        ...

    @property
    def identity(self) -> Identity:
        """Name and images of the zoo."""
        ...

    @property
    def architecture(self) -> Architecture:
        """Architecture of all models."""
        ...

    @property
    def models(self) -> Sequence[ImportedModel]:
        """All models, in an order that does not depend on the file system."""
        ...

    def read_states(self, models: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        """Yield (index, readable states, epochs ascending) of these models; unreadable states are counted."""
        ...
