"""Statistics of populations: fast against slow double loops, the properties the mathematics promises, refusals."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from modelzoo_datasets.analysis import (
    accuracy_spread,
    agreement,
    cka,
    layer_statistics,
    summarize_pairs,
    weight_distances,
)
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import ArgumentError
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.layout import Layout, Slot


def outputs_of(models: int, images: int, classes: int) -> Tensor:
    """Outputs that share a signal, so that their alignment is neither 0 nor 1, in columns far from centred."""
    draws = keyed_generator(0, "outputs")
    signal = torch.randn(images, classes, generator=draws)
    own = torch.randn(models, images, classes, generator=draws)
    return signal + own * torch.linspace(0.1, 2, models)[:, None, None] + 5


def by_double_loop(values: Tensor, compare: Callable[[np.ndarray, np.ndarray], float]) -> Tensor:
    """Every pair by itself, in float64."""
    rows = values.double().numpy()
    return torch.tensor([[compare(a, b) for b in rows] for a in rows], dtype=torch.float64)


def cka_of_two(x: np.ndarray, y: np.ndarray) -> float:
    """The definition with centred Gram matrices, by the letter (1905.00414, section 3)."""
    centring = np.eye(len(x)) - 1 / len(x)
    k, m = (centring @ a @ a.T @ centring for a in (x, y))
    return float(np.sum(k * m) / (np.linalg.norm(k) * np.linalg.norm(m)))


def cosine_of_two(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def test_agreement_is_what_comparing_every_image_finds() -> None:
    predictions = torch.randint(-2, 5, (13, 57), generator=keyed_generator(0, "predictions"))
    expected = by_double_loop(predictions, lambda a, b: sum(int(x == y) for x, y in zip(a, b, strict=True)) / 57)
    found = agreement(predictions)
    assert torch.equal(found, expected)
    assert torch.equal(found, found.mT) and torch.equal(found.diagonal(), torch.ones(13, dtype=torch.float64))


def test_agreement_knows_classes_apart_but_not_by_name() -> None:
    predictions = torch.randint(10, (6, 40), generator=keyed_generator(1, "predictions"))
    renamed = torch.randperm(10, generator=keyed_generator(2, "names"))[predictions]
    assert torch.equal(agreement(predictions), agreement(renamed))
    assert agreement(torch.tensor([[0, 1, 2], [1, 2, 0]]))[0, 1] == 0


@pytest.mark.parametrize("batch_size", [1, 3, 13, 100])
def test_the_block_size_does_not_change_agreement_or_distances_by_a_bit(batch_size: int) -> None:
    predictions = torch.randint(4, (13, 57), generator=keyed_generator(0, "predictions"))
    assert torch.equal(agreement(predictions, batch_size=batch_size), agreement(predictions))
    weights = torch.randn(13, 40, generator=keyed_generator(0, "weights"))
    for blocks, whole in zip(weight_distances(weights, batch_size=batch_size), weight_distances(weights), strict=True):
        assert torch.equal(blocks, whole)


# Many images of few classes, few images of many classes: each of the two forms is the cheaper one in one case.
@pytest.mark.parametrize(("images", "classes"), [(60, 3), (9, 12)])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_cka_is_its_definition(images: int, classes: int, batch_size: int | None) -> None:
    outputs = outputs_of(7, images, classes)
    found = cka(outputs, batch_size=batch_size)
    torch.testing.assert_close(found, by_double_loop(outputs, cka_of_two), rtol=1e-10, atol=0)
    assert torch.equal(found, found.mT)
    assert torch.equal(found.diagonal(), torch.ones(7, dtype=torch.float64))
    assert 0 < found.min() < 0.9


@pytest.mark.parametrize(("images", "classes"), [(60, 5), (9, 12)])
def test_cka_sees_neither_rotation_nor_scale_nor_shift_of_outputs(images: int, classes: int) -> None:
    outputs = outputs_of(5, images, classes).double()
    rotation, _ = torch.linalg.qr(
        torch.randn(classes, classes, generator=keyed_generator(3, "map"), dtype=torch.float64)
    )
    moved = outputs.clone()
    moved[0] = 1e-200 * outputs[0] @ rotation  # whose squares are too small for float64
    moved[1] = -1e200 * outputs[1]
    moved[2] = outputs[2] + torch.arange(classes)
    torch.testing.assert_close(cka(moved), cka(outputs), rtol=1e-10, atol=0)
    copies = cka(torch.stack([scale * outputs[0] @ rotation for scale in range(1, 40)]))
    assert copies.min() > 1 - 1e-12 and copies.max() == 1, "rounding goes beyond 1"


def test_cka_sees_a_stretched_output() -> None:
    outputs = outputs_of(2, 60, 3)
    outputs[1] = outputs[0] * torch.tensor([1.0, 1.0, 9.0])
    assert cka(outputs)[0, 1] < 0.99


@pytest.mark.parametrize(("images", "classes"), [(60, 3), (9, 12)])
def test_a_constant_model_has_no_cka_and_leaves_the_others_alone(images: int, classes: int) -> None:
    outputs = outputs_of(6, images, classes).double()
    constant = outputs.clone()
    constant[2] = torch.linspace(0.1, 0.7, classes, dtype=torch.float64)  # whose means over images are rounded
    found, expected = cka(constant, batch_size=4), cka(outputs, batch_size=4)
    others = [0, 1, 3, 4, 5]
    assert found[2].isnan().all() and found[:, 2].isnan().all()
    assert torch.equal(found[others][:, others], expected[others][:, others])


def test_distances_are_what_a_double_loop_finds() -> None:
    weights = torch.randn(9, 40, generator=keyed_generator(4, "weights")) * torch.linspace(0.1, 3, 9)[:, None]
    l2, cosine = weight_distances(weights)
    torch.testing.assert_close(l2, by_double_loop(weights, lambda a, b: math.dist(a, b)), rtol=1e-13, atol=0)
    torch.testing.assert_close(cosine, by_double_loop(weights, cosine_of_two), rtol=0, atol=1e-14)


def test_identical_models_are_at_distance_exactly_zero_and_near_ones_are_not() -> None:
    weights = torch.randn(4, 1000, generator=keyed_generator(5, "weights")) + 100  # cancellation would show
    weights[2] = weights[0]
    weights[3] = weights[1]
    weights[3, 0] = weights[1, 0].nextafter(torch.tensor(1e3))
    l2, cosine = weight_distances(weights, batch_size=3)
    assert l2[0, 2] == 0 and cosine[0, 2] == 0
    assert not l2.diagonal().any() and not cosine.diagonal().any()
    assert l2[1, 3].item() == (weights[3, 0].double() - weights[1, 0].double()).abs().item()
    assert 0 < cosine[1, 3] < 1e-12


def test_distances_obey_the_triangle_and_do_not_see_the_order_of_weights_or_models() -> None:
    weights = torch.randn(8, 30, generator=keyed_generator(6, "weights"))
    l2, cosine = weight_distances(weights)
    for i, j, k in itertools.permutations(range(8), 3):
        assert l2[i, k] <= l2[i, j] + l2[j, k] + 1e-12
    order = torch.randperm(30, generator=keyed_generator(7, "order"))
    models = torch.randperm(8, generator=keyed_generator(8, "order"))
    for found, expected in zip(weight_distances(weights[models][:, order]), (l2, cosine), strict=True):
        torch.testing.assert_close(found, expected[models][:, models], rtol=1e-13, atol=0)


def test_cosine_distance_knows_direction_alone() -> None:
    weights = torch.randn(1, 30, generator=keyed_generator(9, "weights"))
    cosine = weight_distances(torch.cat([weights, 7 * weights, -2 * weights, torch.zeros(1, 30)]))[1]
    assert cosine[0, 1].item() == pytest.approx(0, abs=1e-14) and cosine[0, 2].item() == pytest.approx(2)
    assert cosine[3].isnan().all() and cosine[:3, :3].isfinite().all()


def test_functions_leave_what_they_are_given_and_take_no_models_at_all() -> None:
    outputs, weights = outputs_of(4, 20, 3), torch.randn(4, 30, generator=keyed_generator(10, "weights"))
    before = outputs.clone(), weights.clone()
    cka(outputs.double()), cka(outputs), weight_distances(weights), weight_distances(weights.double())
    assert torch.equal(outputs, before[0]) and torch.equal(weights, before[1])
    matrices = agreement(torch.zeros(0, 5, dtype=torch.int64)), cka(outputs[:0]), *weight_distances(weights[:0])
    assert all(matrix.shape == (0, 0) for matrix in matrices)


def test_the_summary_of_pairs_is_that_of_the_pairs_listed_by_hand() -> None:
    matrix = agreement(torch.randint(3, (6, 20), generator=keyed_generator(11, "predictions")))
    matrix[1, 4] = matrix[4, 1] = float("nan")
    pairs = [matrix[i, j].item() for i, j in itertools.combinations(range(6), 2) if (i, j) != (1, 4)]
    found = summarize_pairs(matrix)
    assert (found["pairs"], found["left_out"]) == (14, 1)
    assert (found["min"], found["max"]) == (min(pairs), max(pairs))
    assert found["mean"] == pytest.approx(np.mean(pairs)) and found["std"] == pytest.approx(np.std(pairs, ddof=1))


def test_the_summary_of_too_few_pairs_is_nan() -> None:
    one = summarize_pairs(torch.tensor([[0.0, 3.0], [3.0, 0.0]]))
    assert (one["pairs"], one["mean"], one["min"], one["max"]) == (1, 3, 3, 3) and math.isnan(one["std"])
    none = summarize_pairs(torch.full((3, 3), float("nan")))
    assert (none["pairs"], none["left_out"]) == (0, 3)
    assert all(math.isnan(none[key]) for key in ("mean", "std", "min", "max"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_models_that_are_not_finite_are_refused_and_counted(bad: float) -> None:
    values = torch.zeros(5, 7)
    values[1, 3] = values[4, 0] = values[4, 6] = bad
    told = "^2 of 5 models have weights that are not finite; leave them out$"
    with pytest.raises(ArgumentError, match=told):
        weight_distances(values)
    with pytest.raises(ArgumentError, match=told):
        layer_statistics(values, Layout((Slot("0.weight", (7,), 0),)))
    with pytest.raises(ArgumentError, match=told.replace("weights", "outputs")):
        cka(values[:, None])


def test_shapes_and_types_that_mean_something_else_are_refused() -> None:
    told = r"^predictions must be integers of shape \(models, images\), got torch.float32 \(2, 3\)$"
    with pytest.raises(ArgumentError, match=told):
        agreement(torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match=r"got torch.int64 \(2, 0\)$"):
        agreement(torch.zeros(2, 0, dtype=torch.int64))
    with pytest.raises(ArgumentError, match=r"^outputs must be of shape \(models, images, classes\), got \(2, 3\)$"):
        cka(torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match=r"^weights must be of shape \(models, weights\), got \(3,\)$"):
        weight_distances(torch.zeros(3))
    with pytest.raises(ArgumentError, match=r"^a matrix of pairs must be square, got \(2, 3\)$"):
        summarize_pairs(torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match=r"^expected weights of shape \(models, 7\), got \(2, 6\)$"):
        layer_statistics(torch.zeros(2, 6), Layout((Slot("0.weight", (7,), 0),)))
    with pytest.raises(ArgumentError, match="^a table of states has columns epoch, test_acc, ggap; ggap missing$"):
        accuracy_spread(pd.DataFrame({"epoch": [0], "test_acc": [0.1]}))


def linear_percentile(values: list[float], percent: int) -> float:
    place = (len(values) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def test_layer_statistics_are_those_of_each_tensor_of_the_state_dicts() -> None:
    layout = Layout.from_module(get_architecture("cnn-s").module("tanh"))
    weights = torch.randn(5, layout.size, generator=keyed_generator(12, "weights"))
    table = layer_statistics(weights, layout)
    states = [layout.unpack(row) for row in weights]
    assert [f"{row.layer}.{row.kind}" for row in table.itertuples()] == list(states[0])
    for row, name in zip(table.to_dict("records"), states[0], strict=True):
        own = [state[name].double().flatten().tolist() for state in states]
        values = sorted(itertools.chain.from_iterable(own))
        assert row["size"] == len(own[0]) and (row["min"], row["max"]) == (values[0], values[-1])
        assert row["mean"] == pytest.approx(np.mean(values)) and row["std"] == pytest.approx(np.std(values))
        for percent in (1, 25, 50, 75, 99):
            assert row[f"p{percent}"] == pytest.approx(linear_percentile(values, percent))
        assert row["mean_spread"] == pytest.approx(np.std([np.mean(v) for v in own], ddof=1))
        assert row["std_spread"] == pytest.approx(np.std([np.std(v) for v in own], ddof=1))


def test_a_tensor_too_large_for_one_block_has_the_same_statistics() -> None:
    size = 2**19 + 1  # of which no two fit a block
    weights = torch.randn(3, size, generator=keyed_generator(13, "weights")) * torch.tensor([[1.0], [2.0], [3.0]]) + 10
    (row,) = layer_statistics(weights, Layout((Slot("0.weight", (size,), 0),))).to_dict("records")
    values = weights.double().numpy()
    assert (row["mean"], row["std"]) == pytest.approx((values.mean(), values.std()), rel=1e-12)
    assert [row[f"p{p}"] for p in (1, 50, 99)] == pytest.approx(np.percentile(values, (1, 50, 99)), rel=1e-12)
    assert row["std_spread"] == pytest.approx(values.std(axis=1).std(ddof=1), rel=1e-12)


def test_buffers_have_no_row_and_one_model_no_spread() -> None:
    layout = Layout((Slot("a.weight", (2,), 0), Slot("a.running_mean", (2,), 2, buffer=True)))
    weights = torch.tensor([[3.0, 1.0, 60.0, 50.0]])
    (row,) = layer_statistics(weights, layout).to_dict("records")
    assert (row["layer"], row["kind"], row["mean"], row["std"], row["max"]) == ("a", "weight", 2, 1, 3)
    assert math.isnan(row["mean_spread"]) and math.isnan(row["std_spread"])
    assert weights.tolist() == [[3, 1, 60, 50]], "the statistics sorted what they were given"


def test_accuracy_spread_is_that_of_each_epoch_whatever_the_order_and_what_is_missing() -> None:
    draws = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [
        {"model_id": f"m{m}", "epoch": epoch, "test_acc": draws.random(), "ggap": draws.normal()}
        for m, epoch in itertools.product(range(9), (0, 5, 10))
    ]
    rows[4]["test_acc"] = float("nan")  # epoch 5
    rows[8]["ggap"] = None  # epoch 10
    table = accuracy_spread(pd.DataFrame(rows).sample(frac=1, random_state=draws))
    assert table["epoch"].tolist() == [0, 5, 10] and table["models"].tolist() == [9, 8, 9]
    for row in table.to_dict("records"):
        states = [r for r in rows if r["epoch"] == row["epoch"]]
        accuracy = sorted(r["test_acc"] for r in states if not math.isnan(r["test_acc"]))
        ggap = [r["ggap"] for r in states if r["ggap"] is not None]
        assert (row["min"], row["max"]) == (accuracy[0], accuracy[-1])
        assert row["mean"] == pytest.approx(np.mean(accuracy)) and row["std"] == pytest.approx(np.std(accuracy, ddof=1))
        for percent in (25, 50, 75):
            assert row[f"p{percent}"] == pytest.approx(linear_percentile(accuracy, percent))
        assert row["ggap_mean"] == pytest.approx(np.mean(ggap))
        assert row["ggap_std"] == pytest.approx(np.std(ggap, ddof=1))


def test_an_epoch_without_metrics_keeps_its_row() -> None:
    states = pd.DataFrame({"epoch": [0, 1, 1], "test_acc": [None, 0.5, 0.7], "ggap": [None, None, 0.1]})
    untrained, first = accuracy_spread(states).to_dict("records")
    assert untrained["models"] == 0 and math.isnan(untrained["mean"]) and math.isnan(untrained["p50"])
    assert first["models"] == 2 and first["mean"] == pytest.approx(0.6) and math.isnan(first["ggap_std"])
