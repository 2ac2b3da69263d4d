"""Figures of a population as PNG bytes; equal values give equal bytes."""

import io
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..extras import translate_import_errors

with translate_import_errors("figures", "report"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

# The palette of Okabe and Ito, which color-blind readers can distinguish.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#000000")
_FAR = 50  # multiple of typical quartiles beyond which the axis becomes logarithmic
_PER_ROW = 3
_MAX_BOXES = 12  # for more distinct numbers, each model is a dot at its own value
_MAX_WORDS = 16  # for more distinct words, only the most frequent ones are drawn
_LABELS = {  # hyperparameters whose names do not explain themselves
    "init": "initialization",
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "dropout": "dropout probability",
    "batch_size": "batch size (images)",
    "epochs": "epochs of training",
    "schedule": "schedule of the learning rate",
    "augmentation": "augmentation of the images",
}


def new_figure(
    panels: int, width: float = 5.5, *, per_row: int | None = None, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure and the axes of its panels.

    Args:
        panels: The number of panels.
        width: The width of a panel in inches.
        per_row: Panels per row; all in one row by default.
        sharey: Whether all panels have the same vertical axis.
    """
    columns = min(panels, per_row or panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten()
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[panels:]:
        ax.set_visible(False)
    return figure, list(axes[:panels])


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes without the version of the software."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def plot_accuracy_over_epochs(zoos: Mapping[str, pd.DataFrame]) -> bytes:
    """Plot the test accuracy of every model over epochs, with quartiles; one panel per config.

    Args:
        zoos: The table of each config, with the columns `model_id`, `epoch` and `test_acc`.
    """
    figure, axes = new_figure(len(zoos))
    for ax, (name, table) in zip(axes, zoos.items(), strict=True):
        curves = table.pivot(index="epoch", columns="model_id", values="test_acc")
        ax.plot(curves.index, curves, color="#999999", linewidth=0.5, alpha=0.5)
        low, middle, high = (curves.quantile(q, axis=1) for q in (0.25, 0.5, 0.75))
        ax.fill_between(curves.index, low, high, color=COLORS[0], alpha=0.3, label="quartiles")
        ax.plot(curves.index, middle, color=COLORS[0], linewidth=2, label="median")
        ax.set(title=f"{name}: {curves.shape[1]} models", xlabel="epoch", ylim=(0, 1))
        _mark_whole_epochs(ax)
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(loc="lower right")
    return to_png(figure)


def plot_accuracy_boxes(spread: pd.DataFrame) -> bytes:
    """Plot test accuracy over epochs as boxes of quartiles, with whiskers to the worst and the best model.

    Args:
        spread: The result of `analysis.accuracy_spread`; epochs without accuracies have no box.
    """
    figure, (ax,) = new_figure(1, width=8.5)
    rows = spread.dropna(subset="p50").sort_values("epoch")
    places = rows["epoch"].to_numpy(dtype=float)
    boxes = [_make_box(row, low="min", high="max") for row in rows.to_dict("records")]
    width = 0.6 * min(np.diff(places), default=1.0)
    _draw_boxes(ax, boxes, places, width, COLORS[0])
    (mean,) = ax.plot(places, rows["mean"], color=COLORS[3], linewidth=1.2, label="mean")
    title = f"{int(rows['models'].max())} models" if len(rows) else "no models"
    ax.set(title=title, xlabel="epoch", ylabel="test accuracy", ylim=(0, 1))
    _mark_whole_epochs(ax)
    # The legend lies above the axes, because every corner can contain a box.
    handles = [_make_patch(COLORS[0], "median, quartiles, worst and best"), mean]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return to_png(figure)


def plot_similarity_histograms(measures: Mapping[str, Any]) -> bytes:
    """Plot a histogram over all unordered pairs of models per measure of similarity; NaN pairs are left out.

    Args:
        measures: The values of each measure, one per pair.
    """
    figure, axes = new_figure(len(measures), width=3.6)
    for i, (ax, (name, values)) in enumerate(zip(axes, measures.items(), strict=True)):
        pairs = np.asarray(values, dtype=float)
        pairs = pairs[~np.isnan(pairs)]
        mean = f", mean {pairs.mean():.3g}" if len(pairs) else ""
        ax.set(xlabel=name, title=f"{len(pairs):,} pairs{mean}")
        if len(pairs):
            # Few bins for few pairs: fractions of images are discrete, and many bins would show a comb.
            ax.hist(pairs, bins=int(np.clip(len(pairs) ** 0.5, 5, 50)), color=COLORS[i % len(COLORS)], alpha=0.8)
            ax.axvline(pairs.mean(), color="black", linestyle="--", linewidth=1)
    axes[0].set_ylabel("pairs of models")
    return to_png(figure)


def plot_layer_ranges(layers: pd.DataFrame) -> bytes:
    """Plot the weights of all models per tensor: quartiles, whiskers to percentiles 1 and 99, and extremes.

    Args:
        layers: The result of `analysis.layer_statistics`.
    """
    figure, (ax,) = new_figure(1, width=float(np.clip(0.25 * len(layers), 8.5, 18)))
    kinds = list(dict.fromkeys(layers["kind"]))
    for i, kind in enumerate(kinds):
        places = np.flatnonzero(layers["kind"] == kind)
        rows = layers.iloc[places].to_dict("records")
        boxes = [{**_make_box(row, low="p1", high="p99"), "fliers": [row["min"], row["max"]]} for row in rows]
        _draw_boxes(ax, boxes, places, 0.6, COLORS[i % len(COLORS)])
    names = [f"{row.layer}.{row.kind}".lstrip(".") for row in layers.itertuples()]
    slant = {"rotation": 90} if len(names) > 20 else {"rotation": 30, "ha": "right"}
    ax.set_xticks(np.arange(len(names)), names, fontsize=8, **slant)
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set(ylabel="value", xlim=(-0.7, len(names) - 0.3))
    _compress_far_ends(ax, layers)
    handles = [_make_patch(COLORS[i % len(COLORS)], kind) for i, kind in enumerate(kinds)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(kinds))
    return to_png(figure)


def plot_sparsity_curves(states: pd.DataFrame) -> bytes:
    """Plot test accuracy, sparsity and generalization gap over epochs of sparsification, with quartiles over models.

    Args:
        states: One row per state, with the columns `epoch`, `test_acc`, `sparsity` and `ggap`; missing values are
            skipped.
    """
    figure, axes = new_figure(3, width=4.4)
    panels = (("test_acc", "test accuracy"), ("sparsity", "share of weights at zero"), ("ggap", "generalization gap"))
    for i, (ax, (column, label)) in enumerate(zip(axes, panels, strict=True)):
        groups = states.astype({column: "float64"}).dropna(subset=column).groupby("epoch")[column]
        low, middle, high = (groups.quantile(q) for q in (0.25, 0.5, 0.75))
        ax.fill_between(middle.index, low, high, color=COLORS[i], alpha=0.3, linewidth=0, label="quartiles")
        ax.plot(middle.index, middle, color=COLORS[i], linewidth=2, label="median")
        ax.set(xlabel="epoch of sparsification", ylabel=label)
        _mark_whole_epochs(ax)
        ax.legend(fontsize=8)
    axes[1].set_ylim(0, 1)
    axes[2].axhline(0, color="black", linewidth=0.5)
    return to_png(figure)


def _compress_far_ends(ax: Axes, layers: pd.DataFrame) -> None:
    """Use a logarithmic axis beyond typical values, or extreme weights of few models would flatten all boxes."""
    middle = layers[["p25", "p75"]].abs().max(axis=1).median()
    low, high = layers["min"].min(), layers["max"].max()
    if middle > 0 and max(-low, high) > _FAR * middle:
        linear = 10 ** np.floor(np.log10(2 * middle))
        ax.set_yscale("symlog", linthresh=linear)
        ax.set(ylim=(2 * min(low, -linear), 2 * max(high, linear)), ylabel=f"value (logarithmic beyond ±{linear:g})")


def _mark_whole_epochs(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _make_patch(color: str, label: str) -> Patch:
    return Patch(facecolor=color, edgecolor="black", alpha=0.5, linewidth=0.5, label=label)


def _make_box(row: Mapping[Hashable, Any], low: str, high: str) -> dict[str, Any]:
    """Return the numbers of one box with the names of matplotlib."""
    quartiles = {"q1": row["p25"], "med": row["p50"], "q3": row["p75"]}
    return {**quartiles, "whislo": row[low], "whishi": row[high], "fliers": []}


def _draw_boxes(ax: Axes, boxes: list[dict[str, Any]], places: np.ndarray, width: float, color: str) -> None:
    ax.bxp(
        boxes,
        positions=places,
        widths=width,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": color, "alpha": 0.5, "linewidth": 0.5},
        medianprops={"color": "black"},
        whiskerprops={"linewidth": 0.8},
        capprops={"linewidth": 0.8},
        flierprops={"marker": "x", "markersize": 4, "markeredgecolor": color},
    )


def plot_accuracy_by_hyperparameter(last: pd.DataFrame, varied: Sequence[str]) -> bytes:
    """Plot test accuracy by the values of each hyperparameter: a box of quartiles over one dot per model.

    Args:
        last: One row per model, with `test_acc`; rows without a value are skipped.
        varied: Columns of `last` with more than one value.
    """
    figure, axes = new_figure(len(varied), width=4.6, per_row=_PER_ROW, sharey=True)
    known = last.assign(test_acc=pd.to_numeric(last["test_acc"], errors="coerce")).dropna(subset="test_acc")
    for i, (ax, name) in enumerate(zip(axes, varied, strict=True)):
        _draw_panel(ax, known, name, COLORS[i % len(COLORS)])
        ax.set_ylim(*_limit_accuracy(known["test_acc"]))
    for ax in axes[::_PER_ROW]:
        ax.set_ylabel("test accuracy")
    figure.suptitle(f"{len(known):,} models after their last epoch: median, quartiles, worst and best")
    return to_png(figure)


def _draw_panel(ax: Axes, models: pd.DataFrame, name: str, color: str) -> None:
    ax.grid(visible=False, axis="x")
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
