"""The pictures of a card: what the population of each config is like."""

from typing import Any

import pandas as pd

from ..population import MEASURES
from ..report.population_plots import accuracy_boxes, layer_ranges, similarity_histograms, sparsity_curves

_TITLES = {
    "accuracy": "Test accuracy over epochs, all models",
    "similarity": "How alike pairs of models are after their last epoch",
    "layers": "Weights after the last epoch, tensor by tensor",
    "sparsity": "Sparsification: accuracy, share of weights at zero and generalization gap, median and quartiles",
}
_LABELS = {"agreement": "agreement", "cka": "CKA", "l2": "l2 distance", "cosine": "cosine distance"}


def pictures(statistics: dict[str, Any], pairs: pd.DataFrame, rows: pd.DataFrame) -> dict[str, tuple[str, bytes]]:
    """Name -> (title, PNG) of one config; what cannot be drawn, as pairs of one model, is not there."""
    drawn: dict[str, bytes] = {}
    if spread := statistics["epochs"]:
        drawn["accuracy"] = accuracy_boxes(pd.DataFrame(spread).astype("float64"))
    if len(pairs):
        drawn["similarity"] = similarity_histograms({_LABELS[name]: pairs[name].to_numpy() for name in MEASURES})
    if statistics["layers"]:
        drawn["layers"] = layer_ranges(pd.DataFrame(statistics["layers"]))
    if "sparsity" in rows:
        drawn["sparsity"] = sparsity_curves(rows)
    return {name: (_TITLES[name], picture) for name, picture in drawn.items()}
