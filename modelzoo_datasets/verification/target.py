"""What is verified: the states of one zoo, in a zoo folder or as one config of a dataset folder.

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

_BYTES_AT_ONCE = 1_000_000_000  # of weights in memory
Key = tuple[str, int]  # of a state: model_id, epoch


@dataclass(frozen=True)
class Found:
    """One state as its file holds it."""

    model_id: str
    epoch: int
    weights: Tensor | None  # (P,); None where it cannot be read
    variational: Mapping[str, Tensor] | None = None  # of a twin in a zoo folder
    problem: str | None = None  # why it cannot be read, or is no state of this zoo; with the remedy


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The states that tables say are there, and how to read them."""

    info: ZooInfo
    members: Mapping[str, Member]  # of the recipe, by id
    table: pd.DataFrame  # one row per state
    parts: Sequence[Callable[[], Iterator[Found]]]  # all states, to be read in parts by different threads
    weights: Callable[[str, int], Tensor]  # (model_id, epoch) -> (P,)
    where: Callable[[str, int], str]  # in words, such as 'seed-00001 epoch 2 (FILE)'
    remedy: Callable[[str], str]  # for the states of a model

    @property
    def name(self) -> str:
        """As the recipe names it."""
        return self.info.name

    @property
    def twins(self) -> bool:
        """Whether these are sparsified twins."""
        return self.info.recipe.parent is not None

    @property
    def imported(self) -> bool:
        """Whether these were trained elsewhere: then what was not recorded there is missing."""
        return self.info.imported is not None

    @property
    def measured_otherwise(self) -> Sequence[str]:
        """Splits and metrics that were recorded elsewhere of something else than is measured here."""
        return self.info.imported.measured_otherwise if self.info.imported is not None else ()

    @property
    def own_columns(self) -> Sequence[str]:
        """What a population of any kind has a column for beside the usual, by model."""
        return tuple(self.info.recipe.columns)

    @property
    def measurable(self) -> bool:
        """Whether there is something to measure with: of populations of any kind there may be nothing."""
        if self.info.imported is None or not self.info.imported.any_architecture:
            return True
        return self.info.find_architecture().tensors is None and self.info.images_sha256 != ""

    @property
    def at_once(self) -> int:
        """How many states to have in memory."""
        return max(1, _BYTES_AT_ONCE // (4 * self.info.layout.size))

    @cached_property
    def rows(self) -> dict[Key, dict[str, Any]]:
        """What is recorded of every state that the recipe knows of, in the order of the table."""
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

    def last_weights(self, model_id: str) -> Tensor | None:
        """The last state (P,) of a model, None if there is no such model; raises FormatError if it is unreadable."""
        epoch = self.last_epochs.get(model_id)
        return None if epoch is None else self.weights(model_id, epoch)
