"""Control test: its line is that of the definition, and targeted draws and retrieval follow what was asked for."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from hyperrep import HyperRepresentation
from hyperrep.evaluation.control import (
    TARGETED,
    ControlTest,
    evaluate_control,
    measure_control,
    measure_properties,
)
from hyperrep.evaluation.metrics import Evaluator
from hyperrep.evaluation.populations import RETRIEVAL
from hyperrep.evaluation.result import ControlResult
from hyperrep.model import draw_embeddings
from modelzoo_datasets.errors import ArgumentError
from modelzoo_datasets.seeds import keyed_generator


@pytest.fixture(scope="module")
def control(bench: Evaluator) -> ControlTest:
    return ControlTest(evaluator=bench)


def test_full_control_is_slope_one_and_an_offset_is_bias() -> None:
    asked = np.linspace(0.2, 0.8, 100)
    result = measure_control(asked.tolist(), (asked + 0.1).tolist())
    assert (result.slope, result.r2, result.bias) == pytest.approx((1, 1, 0.1))
    assert (result.slope_low, result.slope_high, result.r2_low) == pytest.approx((1, 1, 1), abs=1e-6)
    halved = measure_control(asked.tolist(), (0.5 * asked).tolist())
    assert halved.slope == pytest.approx(0.5) and halved.bias == pytest.approx(-0.25)
    ignored = measure_control(asked.tolist(), [0.7] * 100)
    assert (ignored.slope, ignored.r2, ignored.r2_low) == pytest.approx((0, 0, 0))


def test_the_line_is_that_of_least_squares() -> None:
    draws = np.random.default_rng(0)
    asked = draws.random(40)
    measured = 0.3 * asked + 0.2 * draws.normal(size=40)
    result = measure_control(asked.tolist(), measured.tolist())
    slope, start = np.polyfit(asked, measured, 1)
    errors = measured - start - slope * asked
    assert result.slope == pytest.approx(slope)
    assert result.r2 == pytest.approx(1 - errors.var() / measured.var())
    # 97.5 % quantile of t with 38 degrees of freedom, from a table.
    margin = 2.0244 * math.sqrt(errors @ errors / 38 / ((asked - asked.mean()) ** 2).sum())
    assert result.slope_high - result.slope == pytest.approx(margin, rel=1e-4)
    assert result.slope - result.slope_low == pytest.approx(margin, rel=1e-4)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    draws, hits = np.random.default_rng(1), np.zeros(2)
    truth = 0.5**2 / (0.5**2 + 1)  # of both normal, slope 0.5 and errors of variance 1
    for _ in range(400):
        asked = draws.normal(size=100)
        result = measure_control(asked.tolist(), (0.5 * asked + draws.normal(size=100)).tolist())
        hits += [result.slope_low <= 0.5 <= result.slope_high, result.r2_low <= truth <= result.r2_high]
    assert ((hits / 400 >= 0.92) & (hits / 400 <= 0.98)).all()


def test_what_cannot_be_compared_is_refused_and_what_is_not_finite_is_left_out() -> None:
    asked = [0.0, 1.0, 2.0, 3.0, float("nan"), 5.0]
    result = measure_control(asked, [0.0, 1.0, 2.0, 3.0, 4.0, float("inf")])
    assert result.requests == [0, 1, 2, 3] and result.slope == pytest.approx(1)
    with pytest.raises(
        ArgumentError, match="^a control test needs at least 4 requests with finite results, not all equal; got 3$"
    ):
        measure_control(asked[:3], asked[:3])
    with pytest.raises(ArgumentError, match="got 6$"):
        measure_control([1.0] * 6, [*asked[:4], 4.0, 5.0])
    with pytest.raises(ArgumentError, match="^expected one measured value per request"):
        measure_control(asked, asked[:5])


def test_requests_span_the_members_of_the_last_epoch(control: ControlTest) -> None:
    requests, states = control.spread_requests(11), control.evaluator.states
    assert {*states.zoo.table["epoch"].iloc[states.last.tolist()]} == {2} and len(states.last) * 2 == len(states.zoo)
    recalls = [name for name in control.truth if name.startswith("test_recall_")]
    (widest,) = {*requests} - {"test_acc", "test_loss"}
    spans = {name: np.nanquantile(control.truth[name], (0.05, 0.95)) for name in control.truth}
    for name, values in requests.items():
        assert values[[0, -1]].tolist() == pytest.approx(spans[name]) and len(values) == 11
        assert values.diff().tolist() == pytest.approx([(values[-1] - values[0]).item() / 10] * 10)
    assert np.ptp(spans[widest]) == max(np.ptp(spans[name]) for name in recalls)
    assert np.ptp(spans["sparsity"]) == 0, "no request for what is the same in all members"


def test_sparsity_is_the_share_of_zeros_in_matrices(control: ControlTest) -> None:
    states = control.evaluator.states
    weights = states.weights[states.last[:2]].clone()
    first = states.zoo.layout.layers[0]
    first.weight.select(weights)[1] = 0
    assert first.bias is not None
    first.bias.select(weights)[0] = 0  # biases do not count
    total = sum(layer.weight.size for layer in states.zoo.layout.layers)
    measured = measure_properties(weights, control.evaluator, "test")
    assert measured["sparsity"].tolist() == pytest.approx([0, first.weight.size / total])


def test_states_are_chosen_on_other_images_than_samples_are_measured_on(control: ControlTest) -> None:
    states, images = control.evaluator.states, control.evaluator.images
    networks = [control.evaluator.network] * len(states.last)
    for values, split in ((control.conditions, "validation"), (control.truth, "test")):
        metrics = control.evaluator.engine.evaluate("cnn-s", images, states.weights[states.last], networks, split)
        assert torch.equal(values["test_acc"], metrics.accuracy) and torch.equal(values["test_loss"], metrics.loss)


def test_a_targeted_draw_is_made_from_the_nearest_states_alone(
    control: ControlTest, rep: HyperRepresentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[Tensor] = []

    def note(name: str, z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
        sources.append(z)
        return draw_embeddings(name, z, n, bandwidth, generator)

    monkeypatch.setattr("hyperrep.evaluation.control.draw_embeddings", note)
    monkeypatch.setattr("hyperrep.evaluation.control._NUM_NEAREST", 3)
    loss, embeddings = control.conditions["test_loss"], rep.embeddings[control.evaluator.states.last]
    asked = torch.tensor([loss.min() - 1, loss.max() + 1, loss[4]])
    draws = control.draw_targeted(rep, "test_loss", asked, keyed_generator(0, "draws"))
    order = loss.argsort()
    expected = [order[:3], order[-3:].flip(0), (loss - loss[4]).abs().argsort()[:3]]
    for z, rows in zip(sources, expected, strict=True):
        assert torch.equal(z, embeddings[rows])
    assert draws.shape == (3, rep.layout.size) and draws.isfinite().all()


def test_foreign_samples_are_judged_by_a_table_of_requests(control: ControlTest) -> None:
    states = control.evaluator.states
    copies = states.weights[states.last]
    asked = pd.DataFrame({name: control.truth[name].numpy() for name in ("test_loss", "test_acc")})
    asked.loc[0, "test_acc"] = np.nan
    result = control.judge("copies", copies, asked)
    assert [*result] == ["test_loss", "test_acc"] and all(
        [*value] == ["copies", RETRIEVAL] for value in result.values()
    )
    assert result["test_loss"]["copies"].slope == pytest.approx(1)
    assert result["test_loss"]["copies"].r2 == pytest.approx(1)
    assert len(result["test_acc"]["copies"].requests) == len(result["test_loss"]["copies"].requests) - 1
    nearest = (control.conditions["test_loss"] - control.truth["test_loss"].unsqueeze(1)).abs().argmin(dim=1)
    assert result["test_loss"][RETRIEVAL].measured == control.truth["test_loss"][nearest].tolist()


def test_tables_that_fit_no_samples_are_refused(control: ControlTest) -> None:
    copies = control.evaluator.states.weights[:5]
    with pytest.raises(ArgumentError, match="^expected a row of requests per sample, got 4 for 5 samples$"):
        control.judge("copies", copies, pd.DataFrame({"test_acc": [0.1] * 4}))
    with pytest.raises(ArgumentError, match="^unknown property 'test_los'; did you mean 'test_loss'?"):
        control.judge("copies", copies, pd.DataFrame({"test_los": [0.1] * 5}))


def test_the_protocol_asks_for_every_property(
    bench: Evaluator, rep: HyperRepresentation, caplog: pytest.LogCaptureFixture
) -> None:
    result = evaluate_control(rep, bench)
    assert {"test_acc", "test_loss"} < {*result} and "sparsity" not in result
    for results in result.values():
        assert [*results] == [TARGETED, RETRIEVAL]
        assert all(isinstance(one, ControlResult) and len(one.requests) == 5 for one in results.values())
    assert (
        evaluate_control(rep, dataclasses.replace(bench, recipe=dataclasses.replace(bench.recipe, num_control=0))) == {}
    )
    few = dataclasses.replace(bench, recipe=dataclasses.replace(bench.recipe, num_control=3))
    assert evaluate_control(rep, few) == {} and "the control test leaves out test_acc: " in caplog.text
