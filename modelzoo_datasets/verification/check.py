"""What a check says, and what all of them are asked."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..engines import Engine, get_engine
from ..errors import DeviceError
from ..progress import Progress
from ..seeds import derive_seed
from ..zoo import ZooInfo

_T = TypeVar("_T")


@dataclass(frozen=True)
class Check:
    """What was looked at, how many of them there were, and what is wrong: a line for each, with the remedy."""

    name: str
    n: int
    problems: list[str]
    notes: list[str] = field(default_factory=list)  # what is worth knowing, but not wrong

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; so too where there was nothing to look at."""
        return not self.problems


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be measured and trained again, with what."""

    engine: Engine | None  # None: the one that made the zoo
    threads: int | None
    images_root: Path
    states: int  # of each zoo
    retrain: int  # models of each zoo
    seed: int  # draws which
    parent: Path | None  # zoo folder of the parents of sparsified twins
    progress: Progress

    def engine_for(self, info: ZooInfo) -> Engine:
        """What measures a zoo; the usual engine where the one that made it is not to be had here."""
        if self.engine is not None:
            return self.engine
        try:
            return get_engine(info.engine, self.threads)
        except DeviceError:
            return get_engine("auto", self.threads)

    def drawn(self, population: Sequence[_T], n: int, *purpose: str) -> list[_T]:
        """At most n of them, in their order; the same for the same seed and purpose."""
        draws = random.Random(derive_seed(self.seed, "verify", *purpose))
        chosen = draws.sample(range(len(population)), min(n, len(population)))
        return [population[index] for index in sorted(chosen)]


def short(sha256: object) -> str:
    """As much of a hash as tells it from others."""
    return f"{str(sha256)[:12]}…"


def number(cell: Any) -> float:
    """A cell of a table as a number; NaN where nothing is recorded."""
    return math.nan if cell is None else float(cell)
