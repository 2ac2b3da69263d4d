"""Print tables to the terminal."""

import math

import pandas as pd
from rich.console import Console
from rich.table import Table


def print_table(table: pd.DataFrame, title: str | None = None) -> None:
    """Print to stdout, numbers to the right."""
    shown = Table(title=title, title_justify="left", pad_edge=False)
    for i, name in enumerate(table.columns):
        shown.add_column(str(name), justify="left" if i == 0 else "right", no_wrap=True)
    for row in table.itertuples(index=False):
        shown.add_row(*("" if _missing(cell) else str(cell) for cell in row))
    # A pipe has no width, and a narrow terminal must not cut numbers: long lines are better than lost columns.
    console = Console()
    console.width = max(console.width, 160)
    console.print(shown)


def _missing(cell: object) -> bool:
    return isinstance(cell, float) and math.isnan(cell)
