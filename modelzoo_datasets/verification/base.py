"""The records that all checks share: the result of a check, the options, and the target.

A target is the states of one zoo, in a zoo folder or as one config of a dataset folder. P numbers of a state.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from torch import Tensor

from ..engines import Engine, get_engine
from ..errors import DeviceError
from ..progress import Progress
from ..recipes import Member
from ..seeds import derive_seed
from ..zoo import ZooInfo

_BATCH_BYTES = 1_000_000_000  # this many bytes of weights are held in memory
_T = TypeVar("_T")
Key = tuple[str, int]  # identifies a state: model_id, epoch


@dataclass(frozen=True)
class Check:
    """The result of one check: how many things it looked at, and a line for each problem with its remedy."""

    name: str
    n: int
    problems: list[str]
    notes: list[str] = field(default_factory=list)  # worth knowing, but not wrong

    @property
    def has_passed(self) -> bool:
        """True if there are no problems, also if there was nothing to look at."""
        return not self.problems


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of a verification: how much to measure and train again, and with what."""

    engine: Engine | None  # None: the engine that made the zoo
    threads: int | None
    images_root: Path
    states: int  # to measure, of each zoo
    retrain: int  # models to train, of each zoo
    seed: int  # chooses the states and models
    parent: Path | None  # zoo folder of the parents of sparsified twins
    progress: Progress

    def select_engine(self, info: ZooInfo) -> Engine:
        """Return the engine that measures a zoo: if the one that made it is not available, the usual one."""
        if self.engine is not None:
            return self.engine
        try:
            return get_engine(info.engine, self.threads)
        except DeviceError:
            return get_engine("auto", self.threads)

    def sample(self, population: Sequence[_T], n: int, *purpose: str) -> list[_T]:
        """Choose at most n items in their order, the same ones for the same seed and purpose."""
        generator = random.Random(derive_seed(self.seed, "verify", *purpose))
        indices = generator.sample(range(len(population)), min(n, len(population)))
        return [population[index] for index in sorted(indices)]


@dataclass(frozen=True)
class StoredState:
    """One state as its file holds it."""

    model_id: str
    epoch: int
    weights: Tensor | None  # (P,); None if it cannot be read
    variational: Mapping[str, Tensor] | None = None  # only for twins in a zoo folder
    problem: str | None = None  # why it cannot be read or is no state of this zoo, with the remedy


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The states that the tables list, and functions that read them."""

    info: ZooInfo
    members: Mapping[str, Member]  # the models of the recipe, by id
    table: pd.DataFrame  # one row per state
    readers: Sequence[Callable[[], Iterator[StoredState]]]  # each reads a part of the states, in a thread of its own
    read_weights: Callable[[str, int], Tensor]  # (model_id, epoch) -> (P,); raises FormatError
    find_path: Callable[[str, int], Path | None]  # (model_id, epoch) -> its file, None for an unknown state
    suggest_repair: Callable[[str], str]  # model_id -> what to do if its states are damaged

    @property
    def name(self) -> str:
        """The name of the zoo, RECIPE/CONFIG."""
        return self.info.name

    @property
    def is_twins(self) -> bool:
        """True for a zoo of sparsified twins."""
        return self.info.recipe.parent is not None

    @property
    def is_imported(self) -> bool:
        """True if the models were trained elsewhere, so that unrecorded values are missing."""
        return self.info.import_info is not None

    @property
    def incomparable(self) -> Sequence[str]:
        """The splits and metrics that were recorded elsewhere on other data than here."""
        return self.info.import_info.incomparable_metrics if self.info.import_info is not None else ()

    @property
    def is_measurable(self) -> bool:
        """False for a population whose architecture or images are unknown here, or whose tensors have another order."""
        return self.info.find_architecture().stored_layout is None and self.info.images_sha256 != ""

    @property
    def batch_size(self) -> int:
        """The number of states to hold in memory."""
        return max(1, _BATCH_BYTES // (4 * self.info.layout.size))

    @cached_property
    def rows(self) -> dict[Key, dict[str, Any]]:
        """The row of every state that the recipe knows, in the order of the table."""
        rows: dict[Key, dict[str, Any]] = {}
        for row in self.table.to_dict("records"):
            member = self.members.get(row["model_id"])
            if member is not None and row["epoch"] in member.epochs:
                rows.setdefault((row["model_id"], row["epoch"]), {str(k): v for k, v in row.items()})
        return rows

    @cached_property
    def last_epochs(self) -> dict[str, int]:
        """The last epoch of every model."""
        last: dict[str, int] = {}
        for model_id, epoch in self.rows:
            last[model_id] = max(epoch, last.get(model_id, 0))
        return last

    def locate(self, model_id: str, epoch: int) -> str:
        """Name a state with its file, such as 'seed-00001 epoch 2 (FILE)'."""
        path = self.find_path(model_id, epoch)
        return f"{model_id} epoch {epoch}" + (f" ({path})" if path is not None else "")

    def read_last_weights(self, model_id: str) -> Tensor | None:
        """Read the last state (P,) of a model, None if there is no such model; raises FormatError if unreadable."""
        epoch = self.last_epochs.get(model_id)
        return None if epoch is None else self.read_weights(model_id, epoch)


def shorten_hash(sha256: object) -> str:
    """Return the first 12 digits of a hash."""
    return f"{str(sha256)[:12]}…"


def to_number(cell: Any) -> float:
    """Return a cell of a table as a number, NaN for a missing value."""
    return math.nan if cell is None else float(cell)
