"""Pictures of populations: equal values give equal bytes, and only what they are said to show changes them."""

import io

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

from modelzoo_datasets.analysis import accuracy_spread, agreement, layer_statistics, weight_distances
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.plots.population_plots import (
    COLORS,
    plot_accuracy_boxes,
    plot_layer_ranges,
    plot_similarity_histograms,
    plot_sparsity_curves,
)
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.layout import Layout


@pytest.fixture
def states() -> pd.DataFrame:
    """Twelve twins over four epochs of sparsification."""
    draws = np.random.default_rng(0)
    epoch = np.tile(np.arange(4), 12)
    return pd.DataFrame(
        {
            "model_id": np.repeat([f"m{i}" for i in range(12)], 4),
            "epoch": epoch,
            "test_acc": 0.9 - 0.02 * epoch + draws.normal(0, 0.01, 48),
            "sparsity": 0.2 * epoch + draws.uniform(0, 0.1, 48),
            "ggap": draws.normal(0, 0.01, 48),
        }
    )


def pixels_of(picture: bytes, colour: str) -> int:
    """How many pixels of the PNG have a palette colour, unmixed."""
    pixels = (matplotlib.image.imread(io.BytesIO(picture))[:, :, :3] * 255).round().astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels == wanted).all(axis=2).sum())


def test_boxes_show_epochs_in_order_and_skip_those_without_accuracy(states: pd.DataFrame) -> None:
    picture = plot_accuracy_boxes(accuracy_spread(states))
    assert plot_accuracy_boxes(accuracy_spread(states).iloc[::-1]) == picture
    empty = pd.DataFrame({"epoch": [9], "test_acc": [None], "ggap": [None]})
    assert plot_accuracy_boxes(accuracy_spread(pd.concat([states, empty.astype(float)]))) == picture
    better = accuracy_spread(states).assign(max=1.0)
    assert plot_accuracy_boxes(better) != picture
    legend = pixels_of(plot_accuracy_boxes(accuracy_spread(empty)), COLORS[3])
    assert pixels_of(picture, COLORS[3]) > 2 * legend  # the line of the mean


def pairs_of(matrix: torch.Tensor) -> np.ndarray:
    """What is above the diagonal."""
    return matrix.numpy()[np.triu_indices(len(matrix), k=1)]


def test_histograms_show_the_pairs_whatever_their_order() -> None:
    draws = keyed_generator(0, "models")
    shares = pairs_of(agreement(torch.randint(3, (12, 30), generator=draws)))
    l2, cosine = (pairs_of(matrix) for matrix in weight_distances(torch.randn(12, 20, generator=draws)))
    picture = plot_similarity_histograms({"agreement": shares, "l2": l2, "cosine": cosine})
    assert picture == plot_similarity_histograms({"agreement": shares[::-1], "l2": l2[::-1], "cosine": cosine[::-1]})
    assert picture != plot_similarity_histograms({"agreement": shares, "l2": l2, "cosine": 2 * cosine})


def test_histograms_leave_out_pairs_that_are_nan() -> None:
    shares = pairs_of(agreement(torch.randint(3, (12, 30), generator=keyed_generator(0, "models"))))
    missing = np.full(5, np.nan)
    picture = plot_similarity_histograms({"agreement": shares})
    assert plot_similarity_histograms({"agreement": np.concatenate([missing, shares])}) == picture
    assert (
        plot_similarity_histograms({"agreement": missing}) == plot_similarity_histograms({"agreement": []}) != picture
    )


def test_layer_ranges_have_a_colour_for_weights_and_one_for_biases() -> None:
    layout = Layout.from_module(get_architecture("cnn-s").module("tanh"))
    table = layer_statistics(torch.randn(5, layout.size, generator=keyed_generator(0, "weights")), layout)
    picture = plot_layer_ranges(table)
    assert picture == plot_layer_ranges(table.copy()) != plot_layer_ranges(table.assign(max=9.0))
    assert pixels_of(picture, COLORS[0]) and pixels_of(picture, COLORS[1])
    assert not pixels_of(plot_layer_ranges(table[table["kind"] == "weight"]), COLORS[1])


def _rows_with(picture: bytes, colour: str) -> int:
    """In how many rows of pixels, below the legend, some have a palette colour mixed half and half with white."""
    pixels = (matplotlib.image.imread(io.BytesIO(picture))[60:, :, :3] * 255).round().astype(int)
    mixed = [(int(colour[i : i + 2], 16) + 255) / 2 for i in (1, 3, 5)]
    return int((abs(pixels - mixed).max(axis=2) < 3).any(axis=1).sum())


def test_boxes_stay_visible_beside_weights_that_grew_a_thousandfold() -> None:
    layout = Layout.from_module(get_architecture("cnn-s").module("tanh"))
    weights = torch.randn(5, layout.size, generator=keyed_generator(0, "weights"))
    usual = _rows_with(plot_layer_ranges(layer_statistics(weights, layout)), COLORS[0])
    weights[0, :9] *= 10_000
    assert usual > 20
    assert _rows_with(plot_layer_ranges(layer_statistics(weights, layout)), COLORS[0]) > usual / 2


def test_many_tensors_still_fit_one_picture() -> None:
    layout = Layout.from_module(get_architecture("cnn-s").module("tanh"))
    table = layer_statistics(torch.randn(2, layout.size, generator=keyed_generator(0, "weights")), layout)
    width = matplotlib.image.imread(io.BytesIO(plot_layer_ranges(pd.concat([table] * 9)))).shape[1]
    assert width <= 18 * 120


def test_sparsity_curves_show_three_panels_and_skip_what_is_missing(states: pd.DataFrame) -> None:
    picture = plot_sparsity_curves(states)
    assert plot_sparsity_curves(states.iloc[::-1]) == picture
    gaps = pd.DataFrame({"epoch": [2, 7], "test_acc": [None] * 2, "sparsity": [None] * 2, "ggap": [None] * 2})
    assert plot_sparsity_curves(pd.concat([states, gaps.astype(float)])) == picture
    for column in ("test_acc", "sparsity", "ggap"):
        assert plot_sparsity_curves(states.assign(**{column: states[column] / 2})) != picture
