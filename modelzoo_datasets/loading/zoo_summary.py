"""The summary that a zoo prints: six lines of text, and the same as HTML with a picture of accuracy over epochs."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd

_MAX_WIDTH = 100  # characters of the line of columns
_ACCURACIES = ("test_acc", "val_acc", "train_acc")  # the first one that the table has is drawn
_WIDTH, _HEIGHT, _MARGIN = 260, 110, 24  # pixels of the picture, and of the room for its labels


def count_states(table: pd.DataFrame) -> str:
    """Return how many models, epochs and states a table has, e.g. `20 models x 3 epochs (0 to 2)`."""
    if not len(table):
        return "no states"
    models, epochs = table["model_id"].nunique(), np.unique(table["epoch"])
    span = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    at_most = "" if models * len(epochs) == len(table) else "up to "
    return f"{_count(models, 'model')} x {at_most}{_count(len(epochs), 'epoch')} ({span})"


def list_columns(names: Sequence[str]) -> str:
    """Return the names in one line; if they are too many, the first ones and the number of the others."""
    line, shown = "", 0
    for name in names:
        longer = f"{line}, {name}" if line else name
        if len(longer) > _MAX_WIDTH:
            break
        line, shown = longer, shown + 1
    return line if shown == len(names) else f"{line} and {len(names) - shown} more"


def render_text(title: str, rows: Mapping[str, str]) -> str:
    """Return a title and one indented line per row."""
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in rows.items())])


def render_html(title: str, rows: Mapping[str, str], picture: str) -> str:
    """Return the rows as an HTML table with a picture below."""
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<div><strong>{escape(title)}</strong><table>{cells}</table>{picture}</div>"


def draw_accuracy(table: pd.DataFrame) -> str:
    """Draw the accuracy over the epochs as an SVG: the median over the models, in a band from 10 to 90 percent.

    Returns:
        The SVG element; an empty string if the table has fewer than two epochs or no accuracies.
    """
    name = next((name for name in _ACCURACIES if name in table), None)
    if name is None:
        return ""
    values = pd.to_numeric(table[name], errors="coerce")
    groups = values.groupby(table["epoch"])
    low, median, high = (groups.quantile(q).dropna() for q in (0.1, 0.5, 0.9))
    if len(median) < 2:
        return ""
    epochs, bottom, top = median.index.to_numpy(), float(low.min()), float(high.max())
    x = _MARGIN + (epochs - epochs[0]) / (epochs[-1] - epochs[0]) * (_WIDTH - 2 * _MARGIN)

    def to_points(curve: pd.Series) -> list[str]:
        y = _HEIGHT - _MARGIN - (curve.to_numpy() - bottom) / ((top - bottom) or 1) * (_HEIGHT - 2 * _MARGIN)
        return [f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)]

    band = " ".join(to_points(low) + to_points(high)[::-1])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{name} over epochs" font-size="10" font-family="sans-serif">'
        f'<polygon points="{band}" fill="#4c78a8" fill-opacity="0.25"/>'
        f'<polyline points="{" ".join(to_points(median))}" fill="none" stroke="#4c78a8" stroke-width="1.5"/>'
        f'<text x="{_MARGIN}" y="{_MARGIN - 8}">{name}, median and 10 to 90 %: {bottom:.3g} to {top:.3g}</text>'
        f'<text x="{_MARGIN}" y="{_HEIGHT - 8}">epoch {epochs[0]}</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 8}" text-anchor="end">{epochs[-1]}</text></svg>'
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
