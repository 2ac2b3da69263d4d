"""Figures of a grid: the accuracy of models after their last epoch by each varying hyperparameter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .population_plots import COLORS, to_png

_PER_ROW = 3
_MAX_BOXES = 12  # for more distinct numbers, each model is a dot at its own value
_MAX_WORDS = 16  # for more distinct words, only the most frequent ones are drawn
_LABELS = {  # of hyperparameters whose names do not explain themselves
    "init": "initialization",
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "dropout": "dropout probability",
    "batch_size": "batch size (images)",
    "epochs": "epochs of training",
    "schedule": "schedule of the learning rate",
    "augmentation": "augmentation of the images",
}


def plot_accuracy_by_hyperparameter(last: pd.DataFrame, varied: Sequence[str]) -> bytes:
    """Plot test accuracy by the values of each hyperparameter: a box of quartiles over one dot per model.

    Args:
        last: One row per model, with `test_acc`; rows without a value are skipped.
        varied: Columns of `last` with more than one value.
    """
    rows, width = -(-len(varied) // _PER_ROW), min(len(varied), _PER_ROW)
    figure = Figure(figsize=(4.6 * width, 3.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, width, squeeze=False, sharey=True)
    known = last.assign(test_acc=pd.to_numeric(last["test_acc"], errors="coerce")).dropna(subset="test_acc")
    for place, ax in enumerate(grid.flat):
        if place >= len(varied):
            ax.set_visible(False)
            continue
        _draw_panel(ax, known, varied[place], COLORS[place % len(COLORS)])
        ax.set_ylim(*_limit_accuracy(known["test_acc"]))
        if place % _PER_ROW == 0:
            ax.set_ylabel("test accuracy")
    figure.suptitle(f"{len(known):,} models after their last epoch: median, quartiles, worst and best")
    return to_png(figure)


def _draw_panel(ax: Axes, models: pd.DataFrame, name: str, color: str) -> None:
    ax.grid(alpha=0.3, axis="y")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel=_LABELS.get(name, name))
    column = models[name]
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > _MAX_BOXES:
        _draw_dots(ax, column.to_numpy(dtype=float), models["test_acc"].to_numpy(), color)
    else:
        _draw_boxes_and_dots(ax, _group_accuracies(models, name), color)


def _limit_accuracy(accuracy: pd.Series) -> tuple[float, float]:
    """Return the limits of the accuracy axis: from 0, or higher if all models are good."""
    low = float(accuracy.min()) if len(accuracy) else 0.0
    bottom = np.floor((low - 0.01) * 20) / 20 if low > 0.5 else 0.0
    return bottom, 1 + 0.02 * (1 - bottom)


def _group_accuracies(models: pd.DataFrame, name: str) -> Mapping[str, Any]:
    """Return the accuracies of each value: numbers ascending, words in order of appearance, missing values last."""
    column = models[name]
    values = column.dropna().unique().tolist()
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = sorted(values)
    elif len(values) > _MAX_WORDS:
        values = column.value_counts().index[:_MAX_WORDS].tolist()
    groups = {_format_value(value): models.loc[column == value, "test_acc"].to_numpy() for value in values}
    rest = models.loc[column.isna(), "test_acc"].to_numpy()
    return {**groups, "not recorded": rest} if len(rest) else groups


def _format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _draw_boxes_and_dots(ax: Axes, groups: Mapping[str, Any], color: str) -> None:
    places = np.arange(len(groups))
    for place, accuracies in zip(places, groups.values(), strict=True):
        # Deterministic jitter, so that equal values give equal bytes.
        sideways = place + 0.5 * (_scatter(len(accuracies)) - 0.5)
        _draw_points(ax, sideways, accuracies, color)
    ax.boxplot(
        list(groups.values()),
        positions=places,
        widths=0.62,
        whis=(0, 100),
        showfliers=False,
        manage_ticks=False,
        medianprops={"color": "black", "linewidth": 1.5},
        boxprops={"linewidth": 0.9},
    )
    crowded = max(map(len, groups)) * len(groups) > 28
    slant: dict[str, Any] = {"rotation": 30 if len(groups) <= 8 else 60, "ha": "right"} if crowded else {}
    ax.set_xticks(places, list(groups), fontsize=9, **slant)
    ax.set_xlim(-0.6, len(groups) - 0.4)


def _scatter(n: int) -> np.ndarray:
    """Return n numbers in [0, 1) with distant neighbors: multiples of the golden ratio."""
    return (np.arange(n) * 0.6180339887498949 + 0.5) % 1.0


def _draw_points(ax: Axes, places: np.ndarray, accuracies: np.ndarray, color: str) -> None:
    """Draw dots that shrink and fade with their number."""
    n = max(len(accuracies), 1)
    size, alpha = float(np.clip(3000 / n, 5, 30)), float(np.clip(60 / n, 0.25, 0.8))
    ax.scatter(places, accuracies, s=size, alpha=alpha, color=color, linewidths=0)


def _draw_dots(ax: Axes, values: np.ndarray, accuracies: np.ndarray, color: str) -> None:
    _draw_points(ax, values, accuracies, color)
    known = values[np.isfinite(values)]
    if known.min() > 0 and known.max() / known.min() > 100:
        ax.set_xscale("log")
