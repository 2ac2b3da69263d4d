"""Pictures of an evaluation: accuracy against novelty, the latent space, fine-tuning here and elsewhere, ensembles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from modelzoo_datasets.plots import COLORS, new_figure, to_png

_COLOUR_OF = {
    "kde": COLORS[0],
    "kde-principal": COLORS[3],
    "kde-shared": COLORS[4],
    "uniform": "#F0E442",
    "neighbour": "#8B4513",
    "gan": "#6A3D9A",
    "normal": "#D81B60",
    "interpolation": "#66A61E",
    "zoo members": COLORS[7],
    "training members": "#6E6E6E",
    "average of pairs": COLORS[1],
    "average of all": COLORS[1],
    "scratch": COLORS[6],
    "random init": COLORS[6],
}
_MARK_OF = {
    "zoo members": "s",
    "training members": "P",
    "reconstructed unseen": "^",
    "reconstructed training": "v",
    "average of all": "*",
    "normal": "D",
    "interpolation": "X",
}
# Populations of one kind at several distances: how their names begin, and their colour.
_CURVES = {
    "noise ": ("training states with noise", COLORS[5]),
    "mixture ": ("mixtures of two training states", COLORS[1]),
    "move ": ("training states moved by the decoder", "#00BFC4"),
}


def frontier(populations: Sequence[Mapping[str, Any]]) -> bytes:
    """Zero-shot accuracy against novelty: how far from the nearest training state, and how alike in errors with one.

    Noise, averages and moves of training states are curves, which begin at the training models themselves; a sampler
    that has learned anything lies above noise and averages.
    """
    figure, (near, alike) = new_figure(2)
    shown = [p for p in populations if p["distance"] and not p["mirrors"]]
    for axis, key in ((near, "distance"), (alike, "error_similarity")):
        for prefix in _CURVES:
            _draw_curve(axis, shown, key, prefix)
        for population in shown:
            if not population["name"].startswith(tuple(_CURVES)):
                _draw_population(axis, population, key)
        axis.set_ylim(0, 1)
    near.set(xlabel="distance to the nearest training state\n(layer standard deviations)", ylabel="zero-shot accuracy")
    _symlog(near, shown)
    alike.set(xlabel="errors shared with the most similar training state\n(intersection over union)", xlim=(0, 1.02))
    figure.legend(*near.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return to_png(figure)


def _symlog(ax: Axes, shown: Sequence[Mapping[str, Any]]) -> None:
    """Distances from copies to random networks need a logarithm, and copies are at 0."""
    positive = [d for p in shown for d in p["distance"] if d > 0]
    ax.set_xscale("symlog", linthresh=max(0.02, float(np.quantile(positive, 0.02))) if positive else 0.1)
    ax.set_xlim(left=-0.005)
    ticks = [0, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    ax.set_xticks([tick for tick in ticks if tick <= 1.5 * max(positive, default=1)])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def _draw_curve(ax: Axes, populations: Sequence[Mapping[str, Any]], key: str, prefix: str) -> None:
    """Means of populations of one kind, from the training models on."""
    last = ["average of pairs"] if prefix == "mixture " else []
    chosen = [p for p in populations if p["name"].startswith(prefix) or p["name"] in ("training members", *last)]
    if len(chosen) > 1:
        chosen.sort(key=lambda p: float(np.mean(p["distance"])))
        x, y = ([float(np.mean(p[k])) for p in chosen] for k in (key, "zero_shot"))
        label, colour = _CURVES[prefix]
        ax.plot(x, y, color=colour, marker=".", linewidth=2, label=label)


def _draw_population(ax: Axes, population: Mapping[str, Any], key: str) -> None:
    """Samples one by one and their mean; of other populations the mean with its spread."""
    colour, mark = colour_and_mark(population["name"])
    x, y = np.asarray(population[key]), np.asarray(population["zero_shot"])
    if population["sampled"]:
        ax.scatter(x, y, s=10, color=colour, alpha=0.35, linewidths=0)
    spread = {"xerr": x.std(), "yerr": y.std()} if len(x) > 1 else {}
    label = f"{population['name']} (n={population['n']})"
    ax.errorbar(
        x.mean(), y.mean(), **spread, fmt=mark, color=colour, label=label, markersize=7, elinewidth=0.8, capsize=2
    )


def colour_and_mark(name: str) -> tuple[str, str]:
    """How a population is drawn in every picture; what mirrors a sampler has its colour and a cross."""
    for prefix in ("noise like ", "average like "):
        if name.startswith(prefix):
            return colour_and_mark(name.removeprefix(prefix))[0], "x" if prefix[0] == "n" else "+"
    for prefix, (_, colour) in _CURVES.items():
        if name.startswith(prefix):
            return colour, "."
    base = name.partition("@")[0]
    return _COLOUR_OF.get(base, COLORS[2]), "D" if "@" in name else _MARK_OF.get(name, "o")


def embedding_map(found: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The two widest axes of the latent space: zoo states coloured by accuracy, samples as in the other pictures."""
    figure, (ax,) = new_figure(1, width=9.0)
    zoo = {"train": ("o", "training states"), "test": ("^", "unseen states")}
    accuracy = np.concatenate([found[split]["test_acc"] for split in zoo])
    scale: dict[str, Any] = {"vmin": accuracy.min(), "vmax": accuracy.max(), "s": 10, "alpha": 0.4, "linewidths": 0}
    for split, (mark, label) in zoo.items():
        z = np.asarray(found[split]["z"])
        dots = ax.scatter(z[:, 0], z[:, 1], c=found[split]["test_acc"], marker=mark, label=label, **scale)
    figure.colorbar(dots, ax=ax, label="test accuracy")
    for name in (name for name in found if name not in zoo):
        z, (colour, mark) = np.asarray(found[name]["z"]), colour_and_mark(name)
        style: dict[str, Any] = {"color": colour, "marker": mark, "edgecolors": "black", "linewidths": 0.3}
        ax.scatter(z[:, 0], z[:, 1], s=22, label=f"samples: {name}", **style)
    ax.set(xlabel="first principal axis of z", ylabel="second principal axis of z")
    figure.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return to_png(figure)


def fine_tuning_curves(populations: Sequence[Mapping[str, Any]], epochs: int) -> bytes:
    """Mean test accuracy over epochs of training, one standard deviation shaded; its upper end again, enlarged."""
    figure, (whole, enlarged) = new_figure(2)
    ends = []
    for population in populations:
        ends.append(_draw_mean(whole, population["name"], population, epochs))
        _draw_mean(enlarged, population["name"], population, epochs)
    whole.set(xlabel="epochs of training", ylabel="test accuracy", ylim=(0, 1))
    enlarged.set(xlabel="epochs of training", ylim=(min(ends, default=0) - 0.05, max(ends, default=1) + 0.03))
    figure.legend(*whole.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return to_png(figure)


def elsewhere_curves(places: Mapping[str, Mapping[str, Mapping[str, Any]]], epochs: int) -> bytes:
    """The same in other places, one panel per image dataset or architecture."""
    figure, axes = new_figure(len(places), width=4.4)
    for ax, (place, judged) in zip(axes, places.items(), strict=True):
        for name, found in judged.items():
            _draw_mean(ax, name, found, epochs)
        ax.set(title=place, xlabel="epochs of training there", ylim=(0, 1))
    axes[0].set_ylabel("test accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return to_png(figure)


def _draw_mean(ax: Axes, name: str, population: Mapping[str, Any], epochs: int) -> float:
    """One population's curve; returns its last mean."""
    curves = np.asarray(population["curves"], dtype=float)[:, : epochs + 1]  # what is missing becomes NaN
    known = np.flatnonzero(~np.isnan(curves).all(axis=0))  # epochs: a zoo need not have all
    mean, spread = np.nanmean(curves[:, known], axis=0), np.nanstd(curves[:, known], axis=0)
    colour, mark = colour_and_mark(name)
    style = {"x": "--", "+": ":"}.get(mark, "-")
    ax.plot(known, mean, color=colour, linestyle=style, label=f"{name} (n={len(curves)})")
    ax.fill_between(known, mean - spread, mean + spread, color=colour, alpha=0.1, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return float(mean[-1])


def ensemble_curves(populations: Sequence[Mapping[str, Any]]) -> bytes:
    """Test accuracy of ensembles by the number of members, zero-shot and fine-tuned."""
    kinds = [kind for kind in ("zero-shot", "tuned") if any(kind in p["ensembles"] for p in populations)]
    figure, axes = new_figure(max(1, len(kinds)))
    for ax, kind in zip(axes, kinds, strict=True):
        for population in populations:
            found = population["ensembles"].get(kind)
            if found and len(found["mean"]) > 1:
                colour, mark = colour_and_mark(population["name"])
                sizes, mean, spread = range(1, len(found["mean"]) + 1), *map(np.asarray, (found["mean"], found["std"]))
                ax.plot(sizes, mean, color=colour, marker=mark, markersize=3, label=population["name"])
                ax.fill_between(sizes, mean - spread, mean + spread, color=colour, alpha=0.12, linewidth=0)
        ax.set(title=kind, xlabel="models in the ensemble")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("test accuracy of the mean logits")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return to_png(figure)
