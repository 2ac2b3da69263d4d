"""The target of a verification: the states of one zoo, in a zoo folder or as one config of a dataset folder.

P numbers of a state.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from torch import Tensor

from ..recipes import Member
from ..zoo import ZooInfo

_BATCH_BYTES = 1_000_000_000  # this many bytes of weights are held in memory
Key = tuple[str, int]  # identifies a state: model_id, epoch


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
    locate: Callable[[str, int], str]  # (model_id, epoch) -> text such as 'seed-00001 epoch 2 (FILE)'
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
    def extra_columns(self) -> Sequence[str]:
        """The columns that an imported population has beside the usual ones, one value per model."""
        return tuple(self.info.recipe.columns)

    @property
    def is_measurable(self) -> bool:
        """False for an imported population whose architecture or images are unknown here."""
        if self.info.import_info is None or not self.info.import_info.is_any_architecture:
            return True
        return self.info.find_architecture().tensors is None and self.info.images_sha256 != ""

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

    def read_last_weights(self, model_id: str) -> Tensor | None:
        """Read the last state (P,) of a model, None if there is no such model; raises FormatError if unreadable."""
        epoch = self.last_epochs.get(model_id)
        return None if epoch is None else self.read_weights(model_id, epoch)
