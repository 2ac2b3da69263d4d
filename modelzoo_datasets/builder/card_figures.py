"""The figures of a card: what the population of each config looks like."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..analysis import MEASURES, accuracy_spread
from ..plots import (
    plot_accuracy_boxes,
    plot_accuracy_by_hyperparameter,
    plot_layer_ranges,
    plot_similarity_histograms,
    plot_sparsity_curves,
)
from ..recipes import Training

_TITLES = {
    "accuracy": "Test accuracy over epochs, all models",
    "hyper-parameters": "Test accuracy after the last epoch by hyperparameter (one dot per model, the others vary)",
    "similarity": "Similarity of pairs of models after their last epoch",
    "layers": "Weights after the last epoch by tensor",
    "sparsity": "Sparsification: accuracy, share of zero weights and generalization gap, median and quartiles",
}
_LABELS = {"agreement": "agreement", "cka": "CKA", "l2": "l2 distance", "cosine": "cosine distance"}
ORIGIN = "origin"  # column with the original name of an imported model, which is not a hyperparameter
_HYPERPARAMETERS = tuple(field.name for field in dataclasses.fields(Training))


def draw_figures(
    statistics: dict[str, Any], pairs: pd.DataFrame, rows: pd.DataFrame, extra_columns: Sequence[str] = ()
) -> dict[str, tuple[str, bytes]]:
    """Draw the figures of one config, as far as there is data for them.

    Args:
        statistics: Statistics of the population, empty if they were not computed.
        pairs: Similarities of pairs of models, empty if they were not computed.
        rows: One row per published state.
        extra_columns: Columns of hyperparameters beside those of all zoos.

    Returns:
        The title and the PNG of each figure by name.
    """
    figures: dict[str, bytes] = {}
    spread = pd.DataFrame(statistics.get("epochs") or accuracy_spread(rows)).astype("float64")
    if spread["p50"].notna().any():
        figures["accuracy"] = plot_accuracy_boxes(spread)
        last = select_last_states(rows)
        if varied := find_varied_columns(last, extra_columns):
            figures["hyper-parameters"] = plot_accuracy_by_hyperparameter(last, varied)
    if len(pairs):
        figures["similarity"] = plot_similarity_histograms({_LABELS[name]: pairs[name].to_numpy() for name in MEASURES})
    if statistics.get("layers"):
        figures["layers"] = plot_layer_ranges(pd.DataFrame(statistics["layers"]))
    if "sparsity" in rows:
        figures["sparsity"] = plot_sparsity_curves(rows)
    return {name: (_TITLES[name], png) for name, png in figures.items()}


def select_last_states(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each model's last epoch."""
    return rows[rows["epoch"] == rows.groupby("model_id")["epoch"].transform("max")]


def find_varied_columns(rows: pd.DataFrame, extra_columns: Sequence[str] = ()) -> list[str]:
    """Return the columns of hyperparameters that have more than one value.

    Args:
        rows: One row per model.
        extra_columns: Columns of hyperparameters beside those of all zoos.
    """
    names = [name for name in (*_HYPERPARAMETERS, *extra_columns) if name in rows and name != ORIGIN]
    return [name for name in names if rows[name].nunique(dropna=False) > 1]
