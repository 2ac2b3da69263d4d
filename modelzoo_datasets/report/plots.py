"""The pictures of the report: plain values -> the bytes of a PNG; equal values give equal bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#000000")


def accuracy_over_epochs(zoos: Mapping[str, pd.DataFrame]) -> bytes:
    """Test accuracy of every model of every config (columns model_id, epoch, test_acc), with quartiles."""
    figure, axes = _figure(len(zoos))
    for ax, (name, table) in zip(axes, zoos.items(), strict=True):
        curves = table.pivot(index="epoch", columns="model_id", values="test_acc")
        ax.plot(curves.index, curves, color="#999999", linewidth=0.5, alpha=0.5)
        low, middle, high = (curves.quantile(q, axis=1) for q in (0.25, 0.5, 0.75))
        ax.fill_between(curves.index, low, high, color=COLOURS[0], alpha=0.3, label="quartiles")
        ax.plot(curves.index, middle, color=COLOURS[0], linewidth=2, label="median")
        ax.set(title=f"{name}: {curves.shape[1]} models", xlabel="epoch", ylim=(0, 1))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(loc="lower right")
    return _png(figure)


def probe_bars(probes: Mapping[str, Mapping[str, float]]) -> bytes:
    """R² on test models for each property and representation; bars below zero are cut at zero and labelled."""
    figure, (ax,) = _figure(1)
    kinds = list(next(iter(probes.values())))
    for i, kind in enumerate(kinds):
        places = np.arange(len(probes)) + 0.27 * (i - (len(kinds) - 1) / 2)
        values = [row[kind] for row in probes.values()]
        bars = ax.bar(places, np.clip(values, 0, 1), 0.25, label=kind, color=COLOURS[i])
        ax.bar_label(bars, [f"{v:.2f}" for v in values], fontsize=8)
    ax.set_xticks(np.arange(len(probes)), list(probes))
    ax.set(ylabel="R² on test models", ylim=(0, 1.1))
    figure.legend(loc="outside upper center", ncols=len(kinds))
    return _png(figure)


def reconstruction_bars(found: Mapping[str, Mapping[str, Any]], layers: Sequence[str]) -> bytes:
    """R² of reconstruction per layer, of training and of unseen models."""
    figure, (ax,) = _figure(1)
    for i, (split, label) in enumerate((("train", "training models"), ("test", "unseen models"))):
        values = [*found[split]["layers"], found[split]["total"]]
        places = np.arange(len(values)) + 0.4 * (i - 0.5)
        bars = ax.bar(places, np.clip(values, 0, 1), 0.38, label=label, color=COLOURS[i])
        ax.bar_label(bars, [f"{v:.2f}" for v in values], fontsize=8)
    ax.set_xticks(np.arange(len(layers) + 1), [*layers, "all"])
    ax.set(ylabel="R² of the reconstruction", ylim=(0, 1.1))
    figure.legend(loc="outside upper center", ncols=2)
    return _png(figure)


def fine_tuning_curves(populations: Sequence[Mapping[str, Any]]) -> bytes:
    """Mean test accuracy over epochs of training, one standard deviation shaded; its upper end again, enlarged."""
    figure, (whole, enlarged) = _figure(2)
    means = []
    for population in populations:
        curves = np.asarray(population["curves"], dtype=float)
        epochs, mean, spread = np.arange(curves.shape[1]), curves.mean(axis=0), curves.std(axis=0, ddof=1)
        colour, mark = _style(population["name"])
        label = f"{population['name']} (n={len(curves)})"
        for ax in (whole, enlarged):
            ax.plot(epochs, mean, label=label, color=colour, linestyle="--" if mark == "x" else "-")
            ax.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.1, linewidth=0)
        means.append(mean[-1])
    whole.set(xlabel="epochs of training", ylabel="test accuracy", ylim=(0, 1))
    enlarged.set(xlabel="epochs of training", ylim=(min(means) - 0.05, max(means) + 0.03))
    figure.legend(*whole.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return _png(figure)


def accuracy_against_distance(populations: Sequence[Mapping[str, Any]]) -> bytes:
    """Zero-shot accuracy against the distance to the nearest training state, one mark per model."""
    figure, (ax,) = _figure(1, width=8.5)
    for population in (p for p in populations if p["distance"]):
        colour, mark = _style(population["name"])
        size = 70 if population["n"] == 1 else 22
        label = f"{population['name']} (n={population['n']})"
        values = population["distance"], population["zero_shot"]
        ax.scatter(*values, s=size, marker=mark, color=colour, label=label, alpha=0.8, linewidths=1.0)
    ax.set(
        xlabel="distance to the nearest training state (layer standard deviations)",
        ylabel="zero-shot test accuracy",
        ylim=(0, 1),
    )
    ax.set_xlim(left=0)
    figure.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return _png(figure)


def _style(name: str) -> tuple[str, str]:
    """Colour and mark of a population: a sampler and the noise that mirrors it share a colour, noise is a cross."""
    samplers = {"kde": COLOURS[0], "kde-principal": COLOURS[3], "kde-shared": COLOURS[4]}
    others = {
        "zoo members": (COLOURS[7], "s"),
        "reconstructed unseen": (COLOURS[2], "^"),
        "reconstructed training": (COLOURS[2], "v"),
        "average of pairs": (COLOURS[1], "D"),
        "average of all": (COLOURS[1], "*"),
        "scratch": (COLOURS[6], "o"),
    }
    sampler = name.removeprefix("noise like ")
    if sampler in samplers:
        return samplers[sampler], "o" if sampler == name else "x"
    return others.get(name, (COLOURS[5], "o"))


def embedding_map(found: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The two widest axes of the latent space: zoo states coloured by accuracy, samples on top."""
    figure, (ax,) = _figure(1, width=7.0)
    marks = {"train": ("o", "training states"), "test": ("^", "unseen states")}
    accuracy = np.concatenate([found[split]["test_acc"] for split in marks])
    for split, (marker, label) in marks.items():
        z = np.asarray(found[split]["z"])
        dots = ax.scatter(
            z[:, 0],
            z[:, 1],
            c=found[split]["test_acc"],
            marker=marker,
            s=16,
            label=label,
            vmin=accuracy.min(),
            vmax=accuracy.max(),
        )
    figure.colorbar(dots, ax=ax, label="test accuracy")
    samples = [name for name in found if "test_acc" not in found[name]]
    for name, marker in zip(samples, "+x*", strict=False):
        z = np.asarray(found[name]["z"])
        ax.scatter(z[:, 0], z[:, 1], marker=marker, s=24, color="#D55E00", label=f"samples: {name}", linewidth=0.8)
    ax.set(xlabel="first principal axis of z", ylabel="second principal axis of z")
    ax.legend(fontsize=8)
    return _png(figure)


def _figure(panels: int, width: float = 5.5) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * panels, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
