"""Arithmetic on one thread: sums come in one order, so that equal inputs give equal bits on any number of cores."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread within, as many as before afterwards; usable as a decorator too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
