"""How long work says how far it is: a function that the caller passes in; the command line draws bars with it."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # what is being done, done so far, in all


def silent(what: str, done: int, total: int) -> None:
    """Say nothing."""
