"""Figures of R²: property prediction and reconstruction. Every function returns the bytes of a PNG."""

from collections.abc import Mapping, Sequence

import numpy as np

from modelzoo_datasets.plots import COLORS, new_figure, to_png

from ..evaluation import ReconstructionResult
from ..probes import Probe


def plot_probes(probes: Sequence[Probe]) -> bytes:
    """Plot R² of numbers and accuracy of categories by property and representation, with 95 % intervals over models.

    Bars below zero are cut at zero and labeled with their value.
    """
    properties = list(dict.fromkeys(probe.property for probe in probes))
    kinds = list(dict.fromkeys(probe.representation for probe in probes))
    by_key = {(probe.property, probe.representation): probe for probe in probes}
    figure, (ax,) = new_figure(1, width=max(7.0, 2.6 * len(properties)))
    width = 0.86 / max(1, len(kinds))
    for i, kind in enumerate(kinds):
        rows = [(x, by_key[name, kind]) for x, name in enumerate(properties) if (name, kind) in by_key]
        positions = np.array([x + width * (i - (len(kinds) - 1) / 2) for x, _ in rows])
        scores = np.array([_select_score(probe) for _, probe in rows], dtype=float)
        ax.bar(positions, np.clip(scores[:, 0], 0, 1), 0.92 * width, label=kind, color=COLORS[i % len(COLORS)])
        low, high = np.clip(scores[:, 1:], 0, 1).T
        ax.vlines(positions, low, high, color="black", linewidth=0.8)
        for x, value, top in zip(positions, scores[:, 0], high, strict=True):
            text = "-" if np.isnan(value) else f"{value:z.2f}" if value > -10 else "< -10"
            ax.text(x, top + 0.02, text, fontsize=7, rotation=90, ha="center", va="bottom")
    ax.set_xticks(np.arange(len(properties)), properties)
    ax.set(ylabel="R² (accuracy of categories)\non test models", ylim=(0, 1.25))
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return to_png(figure)


def _select_score(probe: Probe) -> tuple[float | None, float | None, float | None]:
    """Return the score of a probe and its interval; a missing end becomes the score itself."""
    if probe.majority is None:
        value, low, high = probe.r2, probe.r2_low, probe.r2_high
    else:
        value, low, high = probe.accuracy, probe.accuracy_low, probe.accuracy_high
    return value, value if low is None else low, value if high is None else high


def plot_reconstruction(reconstruction: Mapping[str, ReconstructionResult], layers: Sequence[str]) -> bytes:
    """Plot R² of the reconstruction per layer, for training and held-out models."""
    figure, (ax,) = new_figure(1)
    for i, (split, label) in enumerate((("train", "training models"), ("test", "held-out models"))):
        values = [*reconstruction[split].layers, reconstruction[split].total]
        bars = ax.bar(
            np.arange(len(values)) + 0.4 * (i - 0.5), np.clip(values, 0, 1), 0.38, label=label, color=COLORS[i]
        )
        ax.bar_label(bars, [f"{v:.2f}" for v in values], fontsize=8)
    ax.set_xticks(np.arange(len(layers) + 1), [*layers, "all"])
    ax.set(ylabel="R² of the reconstruction", ylim=(0, 1.1))
    figure.legend(loc="outside upper center", ncols=2)
    return to_png(figure)
