"""Figures of reports as PNG bytes; equal values give equal bytes."""

import io
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# The palette of Okabe and Ito, which color-blind readers can distinguish.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#000000")


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
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(loc="lower right")
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
