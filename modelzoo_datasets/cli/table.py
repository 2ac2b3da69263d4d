"""Tables on the terminal."""

import math

import pandas as pd
from rich.console import Console
from rich.table import Table


def print_table(table: pd.DataFrame, title: str | None = None) -> None:
    """Print a table to stdout, with the first column aligned left and all others right."""
    printed = Table(title=title, title_justify="left", pad_edge=False)
    for i, name in enumerate(table.columns):
        printed.add_column(str(name), justify="left" if i == 0 else "right", no_wrap=True)
    for row in table.itertuples(index=False):
        printed.add_row(*("" if _is_missing(cell) else str(cell) for cell in row))
    # A pipe has no width, and a narrow terminal must not truncate numbers: long lines are better than lost columns.
    console = Console()
    console.width = max(console.width, 160)
    console.print(printed)


def _is_missing(cell: object) -> bool:
    return isinstance(cell, float) and math.isnan(cell)
