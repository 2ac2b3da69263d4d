"""Figures of reports as PNG bytes; equal values give equal bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# The palette of Okabe and Ito, which color-blind readers can distinguish.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#000000")


def accuracy_over_epochs(zoos: Mapping[str, pd.DataFrame]) -> bytes:
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
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(loc="lower right")
    return to_png(figure)


def probe_bars(probes: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot R² of numbers and accuracy of categories per property and representation, with 95 % intervals over models.

    Bars below zero are clipped at zero and labeled.
    """
    properties = list(dict.fromkeys(probe["property"] for probe in probes))
    kinds = list(dict.fromkeys(probe["representation"] for probe in probes))
    by_key = {(probe["property"], probe["representation"]): probe for probe in probes}
    figure, (ax,) = new_figure(1, width=max(7.0, 2.6 * len(properties)))
    width = 0.86 / max(1, len(kinds))
    for i, kind in enumerate(kinds):
        rows = [(place, by_key[name, kind]) for place, name in enumerate(properties) if (name, kind) in by_key]
        places = np.array([place + width * (i - (len(kinds) - 1) / 2) for place, _ in rows])
        scores = np.array([_score(probe) for _, probe in rows], dtype=float)
        ax.bar(places, np.clip(scores[:, 0], 0, 1), 0.92 * width, label=kind, color=COLORS[i % len(COLORS)])
        low, high = np.clip(scores[:, 1:], 0, 1).T
        ax.vlines(places, low, high, color="black", linewidth=0.8)
        for place, value, top in zip(places, scores[:, 0], high, strict=True):
            text = "-" if np.isnan(value) else f"{value:z.2f}" if value > -10 else "< -10"
            ax.text(place, top + 0.02, text, fontsize=7, rotation=90, ha="center", va="bottom")
    ax.set_xticks(np.arange(len(properties)), properties)
    ax.set(ylabel="R² (accuracy of categories)\non test models", ylim=(0, 1.25))
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return to_png(figure)


def _score(probe: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return a score and the ends of its interval; a missing end becomes the score itself."""
    name = "r2" if probe["majority"] is None else "accuracy"
    value = probe[name]
    low, high = (value if probe[f"{name}_{end}"] is None else probe[f"{name}_{end}"] for end in ("low", "high"))
    return value, low, high


def reconstruction_bars(scores: Mapping[str, Mapping[str, Any]], layers: Sequence[str]) -> bytes:
    """Plot R² of the reconstruction per layer, for training models and unseen models."""
    figure, (ax,) = new_figure(1)
    for i, (split, label) in enumerate((("train", "training models"), ("test", "unseen models"))):
        values = [*scores[split]["layers"], scores[split]["total"]]
        places = np.arange(len(values)) + 0.4 * (i - 0.5)
        bars = ax.bar(places, np.clip(values, 0, 1), 0.38, label=label, color=COLORS[i])
        ax.bar_label(bars, [f"{v:.2f}" for v in values], fontsize=8)
    ax.set_xticks(np.arange(len(layers) + 1), [*layers, "all"])
    ax.set(ylabel="R² of the reconstruction", ylim=(0, 1.1))
    figure.legend(loc="outside upper center", ncols=2)
    return to_png(figure)


def new_figure(panels: int, width: float = 5.5) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes in one row; `width` is in inches per panel."""
    figure = Figure(figsize=(width * panels, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes without the version of the software."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
