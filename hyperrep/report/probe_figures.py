"""The figure of probes: scores by property and features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelzoo_datasets.plots import COLORS, new_figure, to_png

from ..probes import BOOSTED, Probe


def plot_probes(probes: Sequence[Probe]) -> bytes:
    """Plot R² within an epoch, R² of what does not vary within one, and accuracy of categories, with 95 % intervals.

    Trees have the color of the linear probe of the same features, hatched. A dashed line is the ceiling. Bars below
    zero are cut at zero and labeled with their value.
    """
    properties = list(dict.fromkeys(probe.property for probe in probes))
    kinds = list(dict.fromkeys(probe.representation for probe in probes))
    features = list(dict.fromkeys(kind.removesuffix(BOOSTED) for kind in kinds))
    by_key = {(probe.property, probe.representation): probe for probe in probes}
    figure, (ax,) = new_figure(1, width=max(7.0, 0.24 * len(kinds) * len(properties)))
    width = 0.86 / max(1, len(kinds))
    for i, kind in enumerate(kinds):
        rows = [(x, by_key[name, kind]) for x, name in enumerate(properties) if (name, kind) in by_key]
        positions = np.array([x + width * (i - (len(kinds) - 1) / 2) for x, _ in rows])
        scores = np.array([_select_score(probe) for _, probe in rows], dtype=float)
        style: dict[str, Any] = {
            "color": COLORS[features.index(kind.removesuffix(BOOSTED)) % len(COLORS)],
            "hatch": "///" if kind.endswith(BOOSTED) else "",
            "edgecolor": "white",
            "linewidth": 0,
        }
        ax.bar(positions, np.clip(scores[:, 0], 0, 1), 0.92 * width, label=kind, **style)
        low, high = np.clip(scores[:, 1:], 0, 1).T
        ax.vlines(positions, low, high, color="black", linewidth=0.8)
        for x, value, top in zip(positions, scores[:, 0], high, strict=True):
            text = "-" if np.isnan(value) else f"{value:z.2f}" if value > -10 else "< -10"
            ax.text(x, top + 0.02, text, fontsize=7, rotation=90, ha="center", va="bottom")
    for x, name in enumerate(properties):
        ceiling = next(probe for probe in probes if probe.property == name).ceiling_within
        if ceiling is not None:
            ax.hlines(ceiling, x - 0.45, x + 0.45, color="black", linestyle="--", linewidth=0.8)
    ax.set_xticks(np.arange(len(properties)), [_label_property(name, by_key) for name in properties])
    ax.set(ylabel="R² within an epoch\non test models", ylim=(0, 1.25))
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return to_png(figure)


def _label_property(name: str, by_key: Mapping[tuple[str, str], Probe]) -> str:
    """Return the name of a property, and of its score where that is not R² within an epoch."""
    probe = next(probe for (own, _), probe in by_key.items() if own == name)
    return name if probe.epochs else f"{name}\n({'R² pooled' if probe.majority is None else 'accuracy'})"


def _select_score(probe: Probe) -> tuple[float | None, float | None, float | None]:
    """Return the headline of a probe and its interval; a missing end becomes the score itself."""
    if probe.majority is not None:
        value, low, high = probe.accuracy, probe.accuracy_low, probe.accuracy_high
    elif probe.epochs:
        value, low, high = probe.r2_within, probe.r2_within_low, probe.r2_within_high
    else:
        value, low, high = probe.r2, probe.r2_low, probe.r2_high
    return value, value if low is None else low, value if high is None else high
