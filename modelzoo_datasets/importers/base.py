"""The common form of all formats: models with hyper-parameters and metrics, and their states.

This module imports nothing heavy, so that a command can check the name of a format. P numbers of a state, Q numbers
stored beside the state of a sparsified twin.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, RecipeError, unknown
from ..recipes import Training

if TYPE_CHECKING:
    from torch import Tensor

    from ..architectures import Architecture

_FORMATS = ("model-zoos", "small-cnn-zoo", "weightclip", "safetensors")
Metrics = Mapping[str, float]  # METRICS and SPARSITY; a metric that was not recorded has no key


def check_source(source: Path, format: str) -> None:
    """Check that a format is known and that there is something to import.

    Args:
        source: Folder, zip or tar archive of the originals.
        format: Name of their format.

    Raises:
        RecipeError: The format is unknown.
        FormatError: There is no such folder or archive.
    """
    if format not in _FORMATS:
        raise RecipeError(unknown("format", format, _FORMATS))
    if not (source.is_dir() or source.is_file()):
        raise FormatError(
            f"there is no folder or archive {source}; pass a folder, zip or tar archive of a published zoo"
        )


class Skipped(Exception):
    """One file is not read, or is malformed; the message is the reason, the same for all files of a kind."""


@dataclass
class SkipReport:
    """A count of everything that an import skips: reasons in the order of their first appearance, with a first place.

    Nothing is skipped in silence.
    """

    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, reason: str, where: str, count: int = 1) -> None:
        """Count something that was skipped.

        Args:
            reason: Why, in words that fit all of its kind.
            where: The file or model.
            count: Number of files or models.
        """
        before, first = self.reasons.get(reason, (0, where))
        self.reasons[reason] = (before + count, first)

    def lines(self) -> list[str]:
        """Return one line per reason."""
        return [f"skipped {count:,}: {reason} (first: {first})" for reason, (count, first) in self.reasons.items()]


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
    # Hyper-parameters that models of this package do not have, for zoo.json.
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportedState:
    """One state: weights (P,) and, for sparsified twins, unpruned weights and log sigma² (Q,)."""

    epoch: int
    weights: "Tensor"
    variational: "Tensor | None" = None


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


class ModelSource(ABC):
    """The models of one zoo in a source, ready to be read."""

    source: str  # name of the folder or archive, without its path
    skipped: SkipReport  # everything that was skipped so far
    identity: Identity
    architecture: "Architecture"  # shared by all models
    models: Sequence[ImportedModel]  # in an order that does not depend on the file system

    @abstractmethod
    def read_states(self, models: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        """Yield (index, readable states, epochs ascending) of these models; unreadable states are counted."""
