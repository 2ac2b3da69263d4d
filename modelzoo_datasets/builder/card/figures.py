"""The pictures of a card: what the population of each config is like."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...analysis import MEASURES, accuracy_spread
from ...plots import (
    plot_accuracy_boxes,
    plot_accuracy_by_hyperparameter,
    plot_layer_ranges,
    plot_similarity_histograms,
    plot_sparsity_curves,
)
from ...recipes import Training

_TITLES = {
    "accuracy": "Test accuracy over epochs, all models",
    "hyper-parameters": "Test accuracy after the last epoch by hyper-parameter, all others mixed; one dot per model",
    "similarity": "How alike pairs of models are after their last epoch",
    "layers": "Weights after the last epoch, tensor by tensor",
    "sparsity": "Sparsification: accuracy, share of weights at zero and generalization gap, median and quartiles",
}
_LABELS = {"agreement": "agreement", "cka": "CKA", "l2": "l2 distance", "cosine": "cosine distance"}
ORIGIN = "origin"  # column of what an imported model was called, which is no setting
_HYPER_PARAMETERS = tuple(field.name for field in dataclasses.fields(Training))


def pictures(
    found: tuple[dict[str, Any], pd.DataFrame] | None, rows: pd.DataFrame, more: Sequence[str] = ()
) -> dict[str, tuple[str, bytes]]:
    """Name -> (title, PNG) of one config; what cannot be drawn, as pairs of one model, is not there.

    Args:
        found: statistics of the population and its pairs, None where they were not computed.
        rows: one per published state.
        more: columns of hyper-parameters beside those that all zoos have.
    """
    drawn: dict[str, bytes] = {}
    statistics, pairs = found or ({}, pd.DataFrame())
    spread = pd.DataFrame(statistics.get("epochs") or accuracy_spread(rows)).astype("float64")
    if spread["p50"].notna().any():
        drawn["accuracy"] = plot_accuracy_boxes(spread)
        last = last_states(rows)
        if varied := varied_columns(last, more):
            drawn["hyper-parameters"] = plot_accuracy_by_hyperparameter(last, varied)
    if len(pairs):
        drawn["similarity"] = plot_similarity_histograms({_LABELS[name]: pairs[name].to_numpy() for name in MEASURES})
    if statistics.get("layers"):
        drawn["layers"] = plot_layer_ranges(pd.DataFrame(statistics["layers"]))
    if "sparsity" in rows:
        drawn["sparsity"] = plot_sparsity_curves(rows)
    return {name: (_TITLES[name], picture) for name, picture in drawn.items()}


def last_states(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every model the row of its last epoch."""
    return rows[rows["epoch"] == rows.groupby("model_id")["epoch"].transform("max")]


def varied_columns(rows: pd.DataFrame, more: Sequence[str] = ()) -> list[str]:
    """The hyper-parameters of which there is more than one value."""
    names = [name for name in (*_HYPER_PARAMETERS, *more) if name in rows and name != ORIGIN]
    return [name for name in names if rows[name].nunique(dropna=False) > 1]
