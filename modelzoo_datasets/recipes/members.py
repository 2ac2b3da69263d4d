"""One model of a zoo as a value."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..seeds import derive_seed
from .hyperparameters import Training


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of a zoo: its identity and everything that its weights depend on."""

    index: int  # position in the grid, counted from 1
    model_id: str
    seed: int
    split: str  # train, validation or test, determined by the recipe
    training: Training
    parent_id: str | None = None  # for a sparsified twin: the model with whose last state its training begins
    state_epochs: tuple[int, ...] | None = None  # ascending epochs of the states, if an imported model lacks some
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # values of additional columns

    @property
    def epochs(self) -> Sequence[int]:
        """The epochs with a state: from 0 to the last, or the published ones."""
        return range(self.training.epochs + 1) if self.state_epochs is None else self.state_epochs


def iterate_splits(seed: int, config: str) -> Iterator[str]:
    """Yield the splits of consecutive models without end: exactly 14 train, 3 validation and 3 test of every 20.

    The split of a model does not depend on which other models are trained.
    """
    for block in itertools.count():
        splits = ["train"] * 14 + ["validation"] * 3 + ["test"] * 3
        random.Random(derive_seed(seed, config, "split", block)).shuffle(splits)
        yield from splits
