"""The lines that a package logs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def logged_lines(package: str) -> Iterator[list[str]]:
    """Give a list that grows by every warning of a package; for fixtures wider than pytest's `caplog`."""
    handler, logger = _Lines(), logging.getLogger(package)
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
