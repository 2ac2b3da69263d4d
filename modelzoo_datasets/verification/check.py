"""The result of a check, and the options that all checks share."""

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


def shorten_hash(sha256: object) -> str:
    """Return the first 12 digits of a hash."""
    return f"{str(sha256)[:12]}…"


def to_number(cell: Any) -> float:
    """Return a cell of a table as a number, NaN for a missing value."""
    return math.nan if cell is None else float(cell)
