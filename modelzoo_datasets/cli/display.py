"""The display of a command: progress bars and log lines on stderr, tables on stdout."""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..progress import NO_PROGRESS, Progress, Task

if TYPE_CHECKING:
    import pandas as pd
    import rich.progress

LOGGERS = ("modelzoo_datasets", "hyperrep")


class BarProgress:
    """A display with one rich progress bar per task."""

    def __init__(self, bars: "rich.progress.Progress") -> None:
        """Draw on these bars; a task with the description of an earlier task replaces the bar of that task."""
        self._bars = bars
        self._ids: dict[str, rich.progress.TaskID] = {}

    def start(self, description: str, total: int | None, *, initial: int = 0) -> "BarTask":
        """Draw a bar; see `Progress.start`."""
        if description in self._ids:
            self._bars.remove_task(self._ids[description])
        self._ids[description] = self._bars.add_task(description, total=total, completed=initial)
        return BarTask(self._bars, self._ids[description])


class BarTask(Task):
    """A task that is shown as one bar."""

    def __init__(self, bars: "rich.progress.Progress", task_id: "rich.progress.TaskID") -> None:
        """Advance the bar with this id."""
        self._bars, self._id = bars, task_id

    def update(self, n: int = 1) -> None:
        """Advance the bar by `n` steps."""
        self._bars.advance(self._id, n)

    def __exit__(self, *error: object) -> None:
        """Stop the clock of the bar."""
        self._bars.stop_task(self._id)


@contextmanager
def show_progress(quiet: bool) -> Iterator[Progress]:
    """Give a display of progress bars; nothing is shown if `quiet` is set or stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield NO_PROGRESS
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield BarProgress(bars)


class _LineHandler(logging.Handler):
    """Print each record as one line on stderr; warnings begin with the name of the command, as errors do."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())
        # sys.stderr is looked up here, since progress bars replace it while they are shown.
        print(line if record.levelno < logging.WARNING else f"{self._command}: {line}", file=sys.stderr)


@contextmanager
def log_lines(command: str) -> Iterator[None]:
    """Print the log of both packages on stderr, from level INFO on; `hide_information` leaves warnings only."""
    handler = _LineHandler(command)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def hide_information(quiet: bool) -> bool:
    """Log only warnings from here on if --quiet is set; return whether it is."""
    if quiet:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
    return quiet


def print_table(table: "pd.DataFrame", title: str | None = None) -> None:
    """Print a table to stdout, with the first column aligned left, all others right, and missing numbers empty."""
    from rich.console import Console
    from rich.table import Table

    printed = Table(title=title, title_justify="left", pad_edge=False)
    for i, name in enumerate(table.columns):
        printed.add_column(str(name), justify="left" if i == 0 else "right", no_wrap=True)
    for row in table.itertuples(index=False):
        printed.add_row(*("" if isinstance(cell, float) and math.isnan(cell) else str(cell) for cell in row))
    # A pipe has no width, and a narrow terminal must not truncate numbers: long lines are better than lost columns.
    console = Console()
    console.width = 10**4
    console.width = max(console.measure(printed).maximum, 160)
    console.print(printed)
