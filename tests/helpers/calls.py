"""What workers are asked to do in tests: here, so that they find it by name."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from modelzoo_datasets.errors import RecipeError


class Picky(Exception):
    """An error that cannot be sent: it cannot be made from its message alone."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def multiples(base: Tensor, factor: int) -> Iterator[Tensor]:
    """0, 1 and 2 times what is given."""
    for times in range(3):
        yield base * factor * times


def does(what: str) -> Iterator[int]:
    """Something endless, or something that goes wrong."""
    yield 0
    if what == "endless":
        yield from itertools.count(1)
    if what == "refuses":
        raise RecipeError("there is no such thing")
    if what == "picky":
        raise Picky("a pea", "the bed")
    if what == "exits":
        os._exit(3)


def writes(folder: Path, size: int) -> Iterator[Tensor]:
    """Many big tensors, each of which leaves a file when it is made."""
    for number in range(100):
        (folder / f"{os.getpid()}-{number}").touch()
        yield torch.zeros(size)
