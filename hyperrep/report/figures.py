"""Figures of an evaluation: accuracy against novelty, the latent space, fine-tuning, transfer, ensembles and probes.

Every function returns the bytes of a PNG; equal values give equal bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelzoo_datasets.extras import translate_import_errors
from modelzoo_datasets.plots import COLORS, new_figure, to_png

from ..evaluation import (
    AMORTIZED,
    GAUSSIAN,
    MEMBERS,
    REPAIR,
    RETRIEVAL,
    TRAINING_MEMBERS,
    Control,
    Curves,
    EmbeddingPoints,
    EqualWorkResult,
    Places,
    PopulationResult,
)
from ..trainer import ReconstructionResult

with translate_import_errors("figures", "report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

_COLORS = {
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
_MARKERS = {
    "zoo members": "s",
    "training members": "P",
    "reconstructed unseen": "^",
    "reconstructed training": "v",
    "average of all": "*",
    "normal": "D",
    "interpolation": "X",
}
# Kinds of nulls: prefixes of their names -> label and color of their band.
_NULLS = {
    ("noise ",): ("noise", COLORS[5]),
    ("mixture ", "average ", "average of pairs"): ("averages", COLORS[1]),
    (GAUSSIAN,): ("Gaussian in PCA codes", "#999933"),
}
_MOVES, _MOVES_COLOR = "move ", "#00BFC4"
_NUM_BINS = 12  # bins per band


def plot_frontier(populations: Sequence[PopulationResult], score: str = "") -> bytes:
    """Plot zero-shot accuracy against novelty: distance to, and error overlap with, the nearest training state.

    Nulls are bands: the middle 80 % of all of their models, solid lines with REPAIR. A sampler that has learned
    anything lies above all of them.

    Args:
        populations: the results.
        score: name of the function whose scores stand in place of accuracies; they know of no errors.
    """
    keys = ["distance"] if score else ["distance", "error_overlap"]
    figure, axes = new_figure(len(keys))
    shown = [p for p in populations if p.distance]
    for axis, key in zip(axes, keys, strict=True):
        for prefixes, (label, color) in _NULLS.items():
            for is_repaired in (False, True):
                nulls = [p for p in shown if p.name.startswith(prefixes) and (REPAIR in p.name) == is_repaired]
                _draw_band(axis, nulls, key, label + REPAIR * is_repaired, color, "-" if is_repaired else ":")
        _draw_moves(axis, shown, key)
        for population in shown:
            if not population.name.startswith((*sum(_NULLS, ()), _MOVES, RETRIEVAL)):
                _draw_population(axis, population, key)
        if not score:
            axis.set_ylim(*_choose_limits(shown))
    xlabel = "distance to the nearest training state\n(layer standard deviations)"
    axes[0].set(xlabel=xlabel, ylabel=f"zero-shot {score or 'accuracy'}")
    _scale_distance(axes[0], shown)
    if not score:
        axes[1].set(xlabel="error overlap (IoU) with the most similar training state", xlim=(0, 1.02))
    return _save(figure, axes[0])


def _choose_limits(populations: Sequence[PopulationResult]) -> tuple[float, float]:
    """Return the range of accuracies of samples and zoo members; nulls may leave it."""
    means = [float(np.mean(p.zero_shot)) for p in populations if p.is_sample or p.name in (MEMBERS, TRAINING_MEMBERS)]
    low, high = min(means, default=0.0), max(means, default=1.0)
    margin = 0.15 * (high - low) + 0.03
    return max(0.0, low - margin), min(1.0, high + margin)


def _draw_band(ax: Axes, populations: Sequence[PopulationResult], key: str, label: str, color: str, line: str) -> None:
    """Draw the median and the middle 80 % of the accuracies of nulls, over bins of equally many models."""
    if not populations:
        return
    x = np.concatenate([np.asarray(getattr(p, key)) for p in populations])
    y = np.concatenate([np.asarray(p.zero_shot) for p in populations])
    bins = [part for part in np.array_split(np.argsort(x, kind="stable"), min(_NUM_BINS, len(x))) if len(part)]
    middle = [float(np.median(x[part])) for part in bins]
    low, median, high = np.array([np.quantile(y[part], (0.1, 0.5, 0.9)) for part in bins]).T
    ax.plot(middle, median, color=color, linestyle=line, linewidth=1.5, marker=".", markersize=3, label=label)
    ax.fill_between(middle, low, high, color=color, alpha=0.12, linewidth=0)


def _draw_moves(ax: Axes, populations: Sequence[PopulationResult], key: str) -> None:
    """Draw the means of training states that the decoder moves, from the training models on."""
    points = [p for p in populations if p.name.startswith(_MOVES)]
    if points:
        points = sorted(
            [p for p in populations if p.name == TRAINING_MEMBERS] + points, key=lambda p: float(np.mean(p.distance))
        )
        x, y = ([float(np.mean(getattr(p, k))) for p in points] for k in (key, "zero_shot"))
        ax.plot(x, y, color=_MOVES_COLOR, marker=".", linewidth=2, label="training states moved by the decoder")


def _scale_distance(ax: Axes, populations: Sequence[PopulationResult]) -> None:
    """Set a symmetric log scale: distances span copies, which are at 0, to random networks."""
    positive = [d for p in populations for d in p.distance if d > 0]
    ax.set_xscale("symlog", linthresh=max(0.02, float(np.quantile(positive, 0.02))) if positive else 0.1)
    ax.set_xlim(left=-0.005)
    ticks = [0, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    ax.set_xticks([tick for tick in ticks if tick <= 1.5 * max(positive, default=1)])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def _draw_population(ax: Axes, population: PopulationResult, key: str) -> None:
    """Draw mean and spread of a population; of samples every model too."""
    color, marker = choose_style(population.name)
    x, y = np.asarray(getattr(population, key)), np.asarray(population.zero_shot)
    if population.is_sample:
        ax.scatter(x, y, s=10, color=color, alpha=0.35, linewidths=0)
    spread = {"xerr": x.std(), "yerr": y.std()} if len(x) > 1 else {}
    label = f"{population.name} (n={population.n})"
    ax.errorbar(
        x.mean(), y.mean(), **spread, fmt=marker, color=color, label=label, markersize=7, elinewidth=0.8, capsize=2
    )


def choose_style(name: str) -> tuple[str, str]:
    """Return color and marker of a population; a matched null has the color of its sampler and a cross."""
    kind, matched, samples = name.partition(" like ")
    if matched:
        return choose_style(samples)[0], "x" if kind.startswith("noise") else "+"
    if name.startswith(_MOVES):
        return _MOVES_COLOR, "."
    base, _, share = name.removesuffix(REPAIR).partition("@")
    return _COLORS.get(base, COLORS[2]), "." if share.startswith("100") else _MARKERS.get(base, "o")


def plot_embeddings(embeddings: Mapping[str, EmbeddingPoints]) -> bytes:
    """Plot the two widest axes of the latent space: zoo states colored by accuracy, samples as in the other figures."""
    figure, (ax,) = new_figure(1, width=9.0)
    zoo = {"train": ("o", "training states"), "test": ("^", "unseen states")}
    accuracy = {split: _read_accuracies(embeddings[split]) for split in zoo}
    known = np.concatenate(list(accuracy.values()))
    known = known[np.isfinite(known)]
    style: dict[str, Any] = {"s": 10, "alpha": 0.4, "linewidths": 0, "plotnonfinite": True}
    scale = {"vmin": known.min(), "vmax": known.max()} if len(known) else {}
    for split, (marker, label) in zoo.items():
        z = np.asarray(embeddings[split].z)
        shade: dict[str, Any] = {"c": accuracy[split]} if len(known) else {"color": "#999999"}
        dots = ax.scatter(z[:, 0], z[:, 1], marker=marker, label=label, **shade, **scale, **style)
    if len(known):
        figure.colorbar(dots, ax=ax, label="test accuracy")
    for name in (name for name in embeddings if name not in zoo):
        z, (color, marker) = np.asarray(embeddings[name].z), choose_style(name)
        style = {"color": color, "marker": marker, "edgecolors": "black", "linewidths": 0.3}
        ax.scatter(z[:, 0], z[:, 1], s=22, label=f"samples: {name}", **style)
    ax.set(xlabel="first principal axis of z", ylabel="second principal axis of z")
    return _save(figure, ax)


def _read_accuracies(points: EmbeddingPoints) -> np.ndarray:
    """Return the test accuracy of each point, NaN where it is not recorded."""
    return np.array(points.test_acc or [np.nan] * len(points.z), dtype=float)


def plot_finetuning(populations: Sequence[PopulationResult], epochs: int) -> bytes:
    """Plot mean test accuracy over epochs of training, one standard deviation shaded; the right panel is enlarged."""
    figure, (whole, enlarged) = new_figure(2)
    ends = []
    for population in populations:
        ends.append(_draw_mean(whole, population.name, population.curves, epochs))
        _draw_mean(enlarged, population.name, population.curves, epochs)
    ends = [end for end in ends if np.isfinite(end)]
    whole.set(xlabel="epochs of training", ylabel="test accuracy", ylim=(0, 1))
    enlarged.set(xlabel="epochs of training", ylim=(min(ends, default=0) - 0.05, max(ends, default=1) + 0.03))
    return _save(figure, whole)


def plot_transfer(places: Places, epochs: int) -> bytes:
    """Plot fine-tuning on other images or in other architectures, one panel each."""
    figure, axes = new_figure(len(places), width=4.4)
    for ax, (place, results) in zip(axes, places.items(), strict=True):
        for name, result in results.items():
            _draw_mean(ax, name, result.curves, epochs)
        ax.set(title=place, xlabel="epochs of training there", ylim=(0, 1))
    axes[0].set_ylabel("test accuracy")
    return _save(figure, axes[0])


def _draw_mean(ax: Axes, name: str, curves: Curves, epochs: int) -> float:
    """Draw the mean curve of a population; return its last value, NaN where these epochs are not recorded."""
    values = np.asarray(curves, dtype=float)[:, : epochs + 1]  # None becomes NaN
    known = np.flatnonzero(~np.isnan(values).all(axis=0))  # a zoo need not have all epochs
    if not len(known):
        return np.nan
    mean, spread = np.nanmean(values[:, known], axis=0), np.nanstd(values[:, known], axis=0)
    color, marker = choose_style(name)
    style = {"x": "--", "+": ":"}.get(marker, "-")
    ax.plot(known, mean, color=color, linestyle=style, label=f"{name} (n={len(values)})")
    ax.fill_between(known, mean - spread, mean + spread, color=color, alpha=0.1, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return float(mean[-1])


def plot_ensembles(populations: Sequence[PopulationResult]) -> bytes:
    """Plot test accuracy of ensembles by the number of members, zero-shot and fine-tuned."""
    kinds = [kind for kind in ("zero-shot", "tuned") if any(kind in p.ensembles for p in populations)]
    figure, axes = new_figure(max(1, len(kinds)))
    for ax, kind in zip(axes, kinds, strict=True):
        for population in populations:
            ensemble = population.ensembles.get(kind)
            if ensemble and len(ensemble.mean) > 1:
                color, marker = choose_style(population.name)
                sizes, mean, spread = range(1, len(ensemble.mean) + 1), np.array(ensemble.mean), np.array(ensemble.std)
                ax.plot(sizes, mean, color=color, marker=marker, markersize=3, label=population.name)
                ax.fill_between(sizes, mean - spread, mean + spread, color=color, alpha=0.12, linewidth=0)
        ax.set(title=kind, xlabel="models in the ensemble")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("test accuracy of the mean logits")
    return _save(figure, axes[0])


def plot_equal_work(work: EqualWorkResult, populations: Sequence[PopulationResult]) -> bytes:
    """Plot accuracy against image gradients: samples, which begin with their share of learning, and members."""
    figure, (ax,) = new_figure(1, width=9.0)
    share = work.count_budget(AMORTIZED)
    for samples in (p for p in populations if p.is_sample and p.curves):
        color, marker = choose_style(samples.name)
        _draw_work(
            ax, samples.curves, share, work.epoch_gradients, color, f"{samples.name} (n={samples.n})", f"{marker}-"
        )
    for (name, result), style in zip(work.curves.items(), ("-", "--"), strict=True):
        _draw_work(ax, result.curves, 0, work.epoch_gradients, COLORS[7], f"{name} (n={result.n})", style)
    ax.set_xscale("symlog", linthresh=work.epoch_gradients)
    ax.set(xlabel="image gradients per model, after the training of the zoo", ylabel="test accuracy", ylim=(0, 1))
    return _save(figure, ax)


def _draw_work(ax: Axes, curves: Curves, start: int, step: int, color: str, label: str, style: str) -> None:
    """Draw the mean of curves that begin at a number of image gradients and rise by a step per epoch."""
    mean = np.asarray(curves, dtype=float).mean(axis=0)
    ax.plot(start + step * np.arange(len(mean)), mean, style, color=color, label=label, markersize=5)


def plot_control(control: Control) -> bytes:
    """Plot measured against asked values, one panel per property; full control is the diagonal."""
    figure, axes = new_figure(len(control), width=4.4)
    for ax, (name, results) in zip(axes, control.items(), strict=True):
        for i, (sampler, result) in enumerate(results.items()):
            ax.scatter(result.requests, result.measured, s=9, color=COLORS[i], alpha=0.6, linewidths=0, label=sampler)
        ends = [min(result.requests), max(result.requests)]
        ax.plot(ends, ends, color="black", linewidth=0.8, label="full control")
        ax.set(title=name, xlabel="asked")
    axes[0].set_ylabel("measured")
    return _save(figure, axes[0])


def _save(figure: Figure, ax: Axes) -> bytes:
    """Return a figure as PNG, with the legend of one panel beside all panels."""
    figure.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return to_png(figure)


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
