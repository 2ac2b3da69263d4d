"""One model of a zoo, as a value."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..seeds import derive_seed
from .hyperparameters import Training


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of a zoo: its identity and all that its weights depend on."""

    index: int  # place in the grid, from 1
    model_id: str
    seed: int
    split: str  # train, validation or test: a property of the model, decided with the recipe
    training: Training
    parent_id: str | None = None  # of a sparsified twin: the model whose last state it starts from
    state_epochs: tuple[int, ...] | None = None  # epochs of its states, ascending, where an imported model lacks some
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # what else its population has a column for

    @property
    def epochs(self) -> Sequence[int]:
        """Epochs after which there is a state: 0 to the last one, or those that were published."""
        return range(self.training.epochs + 1) if self.state_epochs is None else self.state_epochs


def iterate_splits(seed: int, config: str) -> Iterator[str]:
    """70/15/15 of every 20 consecutive models, without end: exact, and the same whichever models are trained."""
    for block in itertools.count():
        splits = ["train"] * 14 + ["validation"] * 3 + ["test"] * 3
        random.Random(derive_seed(seed, config, "split", block)).shuffle(splits)
        yield from splits
