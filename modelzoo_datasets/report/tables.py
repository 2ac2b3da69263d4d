"""Tables as text: the same rows in the terminal and in the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

SHOWN_EPOCHS = (0, 1, 5)  # zero-shot, and after so much fine-tuning


def accuracy_table(populations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per population: n, test accuracy (percent, mean ± standard deviation), distance to training states."""
    return pd.DataFrame([_row(population) for population in populations])


def _row(population: Mapping[str, Any]) -> dict[str, str]:
    curves = np.asarray(population["curves"], dtype=float)
    row = {"population": population["name"], "n": str(population["n"])}
    row["zero-shot"] = _spread([100 * a for a in population["zero_shot"]], 1)
    for epoch in SHOWN_EPOCHS[1:]:
        if epoch < curves.shape[1]:
            row[f"{epoch} epoch{'s' if epoch > 1 else ''}"] = _spread(100 * curves[:, epoch], 1)
    row["n tuned"] = str(len(curves))
    row["distance"] = _spread(population["distance"], 2)
    return row


def _spread(values: Any, digits: int) -> str:
    if len(values) == 0:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def probe_table(probes: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """One row per property, one column per representation: R² on test models."""
    return pd.DataFrame([{"property": name} | {k: f"{v:.3f}" for k, v in row.items()} for name, row in probes.items()])


def print_table(table: pd.DataFrame, title: str | None = None) -> None:
    """Print to stdout, numbers to the right."""
    shown = Table(title=title, title_justify="left", pad_edge=False)
    for i, name in enumerate(table.columns):
        shown.add_column(str(name), justify="left" if i == 0 else "right", no_wrap=True)
    for row in table.itertuples(index=False):
        shown.add_row(*("" if _missing(cell) else str(cell) for cell in row))
    # A pipe has no width, and a narrow terminal must not cut numbers: long lines are better than lost columns.
    console = Console()
    console.width = max(console.width, 120)
    console.print(shown)


def _missing(cell: object) -> bool:
    return isinstance(cell, float) and math.isnan(cell)
