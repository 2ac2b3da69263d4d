"""Property prediction on small zoos: every property that varies, beside what needs no weights."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tiny_learning import ridge_r2

from hyperrep import HyperRepresentation
from hyperrep.data import drop_untrained
from hyperrep.probes.linear import predict_boosted, predict_softmax
from hyperrep.probes.property_prediction import Probe, _make_hyperparameter_features, probe_properties
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.seeds import keyed_generator

LINEAR = ["W", "s(W)", "z"]


@pytest.fixture(scope="module")
def of_seed(rep: HyperRepresentation, learned: dict[str, Zoo]) -> dict[tuple[str, str], Probe]:
    """Of a zoo whose models differ in their seeds alone."""
    return {(row.property, row.representation): row for row in probe_properties(rep, learned)}


@pytest.fixture(scope="module")
def hyp(tiny_dataset: Path) -> dict[str, Zoo]:
    """Of activations and dropouts mixed."""
    zoo = drop_untrained(load_zoo(tiny_dataset, "hyp"))
    models = sorted(zoo.table["model_id"].unique())  # two of each kind: one to learn from, one to be tested on
    halves = {"train": models[::2], "test": models[1::2]}
    return {split: zoo.select(zoo.table["model_id"].isin(chosen)) for split, chosen in halves.items()}


def test_a_seed_zoo_has_three_properties_and_each_is_told_from_everything(
    of_seed: dict[tuple[str, str], Probe],
) -> None:
    alone = [*LINEAR, "hyper-parameters"]
    rest = ["s(W), boosted", "training mean"]
    expected = [(name, kind) for name in ("test_acc", "ggap") for kind in (*alone, "hyper-parameters, epoch", *rest)]
    assert [*of_seed] == [*expected, *(("epoch", kind) for kind in (*alone, *rest))]
    for row in of_seed.values():
        assert (row.states, row.models) == (6, 3)
        assert row.accuracy is None and row.r2 is not None and row.r2 <= 1


def test_scores_are_those_of_ridge_on_these_features(
    rep: HyperRepresentation, learned: dict[str, Zoo], of_seed: dict[tuple[str, str], Probe]
) -> None:
    for name in ("test_acc", "ggap", "epoch"):
        targets = {s: torch.tensor(part.table[name].to_numpy(float)) for s, part in learned.items()}
        for kind, features in (
            ("W", {split: part.weights for split, part in learned.items()}),
            ("z", {split: rep.encode(part.weights) for split, part in learned.items()}),
        ):
            assert of_seed[name, kind].r2 == pytest.approx(ridge_r2(features, targets))
        mean = float(targets["train"].mean())
        y = targets["test"].numpy()
        assert of_seed[name, "training mean"].r2 == pytest.approx(1 - ((y - mean) ** 2).mean() / y.var())
        assert of_seed[name, "training mean"].tau is None


def test_where_nothing_but_the_seed_varies_hyper_parameters_say_next_to_nothing(
    learned: dict[str, Zoo],
    of_seed: dict[tuple[str, str], Probe],
) -> None:
    nothing = {split: torch.zeros(len(part), 1) for split, part in learned.items()}
    epochs = {
        s: torch.tensor([[e, e == 1, e == 2] for e in part.table["epoch"].tolist()]) for s, part in learned.items()
    }
    targets = {s: torch.tensor(part.table["test_acc"].to_numpy(float)) for s, part in learned.items()}
    assert of_seed["test_acc", "hyper-parameters"].r2 == pytest.approx(ridge_r2(nothing, targets))
    assert of_seed["test_acc", "hyper-parameters, epoch"].r2 == pytest.approx(ridge_r2(epochs, targets))


def test_categories_stand_beside_the_share_of_the_most_frequent(rep: HyperRepresentation, hyp: dict[str, Zoo]) -> None:
    found = {(row.property, row.representation): row for row in probe_properties(rep, hyp)}
    assert {name for name, _ in found} == {"test_acc", "ggap", "dropout", "activation"}  # one epoch, one optimizer
    share = hyp["test"].table["activation"].value_counts(normalize=True).max()
    for kind in (*LINEAR, "hyper-parameters", "hyper-parameters, epoch", "s(W), boosted", "most frequent"):
        row = found["activation", kind]
        assert row.majority == share and row.r2 is None
        assert row.accuracy is not None and 0 <= row.accuracy <= 1
    assert found["dropout", "s(W)"].r2 is not None


def test_another_zoo_is_tested_on_with_what_was_fitted_here(
    rep: HyperRepresentation, learned: dict[str, Zoo], hyp: dict[str, Zoo]
) -> None:
    found = {(r.property, r.representation): r for r in probe_properties(rep, {**learned, "test": hyp["test"]})}
    targets = {"train": learned["train"], "validation": learned["validation"], "test": hyp["test"]}
    y = {split: torch.tensor(part.table["ggap"].to_numpy(float)) for split, part in targets.items()}
    x = {split: part.weights for split, part in targets.items()}
    assert found["ggap", "W"].r2 == pytest.approx(ridge_r2(x, y))
    assert found["ggap", "W"].models == hyp["test"].table["model_id"].nunique()


def test_states_without_the_property_or_with_weights_that_are_not_finite_are_left_out(
    rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    table = learned["test"].table.copy()
    table.loc[1, "ggap"] = float("nan")
    table.loc[0, "finite"] = False
    weights = learned["test"].weights.clone()
    weights[0, 5] = float("nan")
    damaged = dataclasses.replace(learned["test"], table=table, weights=weights)
    found = {(r.property, r.representation): r for r in probe_properties(rep, {**learned, "test": damaged})}
    assert found["test_acc", "z"].states == 5
    assert found["ggap", "z"].states == 4


def test_what_is_not_defined_is_missing(rep: HyperRepresentation, learned: dict[str, Zoo]) -> None:
    """Of one epoch alone the variance that R² divides by is zero."""
    last = learned["test"].select(learned["test"].table["epoch"] == 2)
    rows = [row for row in probe_properties(rep, {**learned, "test": last}) if row.property == "epoch"]
    assert rows and all((row.r2, row.r2_low, row.r2_high) == (None, None, None) for row in rows)


def test_what_cannot_be_probed_is_told_in_one_line(rep: HyperRepresentation, learned: dict[str, Zoo]) -> None:
    one = learned["test"].select(learned["test"].table["model_id"] == learned["test"].table["model_id"].iloc[0])
    with pytest.raises(FormatError) as caught:
        probe_properties(rep, {**learned, "test": one})
    assert str(caught.value) == (
        "probes need at least 2 training and 2 test models, got 14 and 1; take a zoo of more models"
    )
    other = dataclasses.replace(learned["test"], architecture=dataclasses.replace(rep.architecture, name="mlp"))
    with pytest.raises(FormatError) as caught:
        probe_properties(rep, {**learned, "test": other})
    assert str(caught.value) == "this hyper-representation is of cnn-s, the zoo holds models of mlp"


def classes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes on three sides of a plane in 40 dimensions, of very different scales."""
    draws = keyed_generator(seed, "classes")
    y = torch.randint(3, (n,), generator=draws)
    x = torch.randn(n, 40, generator=draws)
    x[:, :2] += 6 * torch.tensor([[0.0, 1.0], [0.9, -0.5], [-0.9, -0.5]])[y]
    return x * torch.logspace(-4, 2, 40), y


def test_the_softmax_classifier_and_the_trees_find_classes_whatever_the_scale() -> None:
    sizes = {"train": 150, "validation": 60, "test": 90}
    parts = {split: classes(n, seed) for seed, (split, n) in enumerate(sizes.items())}
    x, y = ({split: part[i] for split, part in parts.items()} for i in (0, 1))
    for method in (predict_softmax, predict_boosted):
        assert float((method(x, y) == y["test"]).double().mean()) > 0.9
    wide = {split: torch.cat([part, torch.zeros(len(part), 300)], dim=1) for split, part in x.items()}
    assert torch.equal(predict_softmax(wide, y), predict_softmax(x, y)), "constant features change nothing"
    without = {split: y[split] for split in ("train", "test")}
    assert float((predict_softmax({s: x[s] for s in without}, without) == y["test"]).double().mean()) > 0.85


def test_trees_regress_what_is_not_linear() -> None:
    draws = keyed_generator(0, "trees")
    x = {split: torch.rand(400, 3, generator=draws) for split in ("train", "test")}
    y = {split: (part[:, 0] > 0.5).double() * (part[:, 1] > 0.5) for split, part in x.items()}
    predicted = predict_boosted(x, y)
    assert float((predicted - y["test"]).square().mean() / y["test"].var()) < 0.1


def test_the_table_of_a_zoo_is_not_changed(rep: HyperRepresentation, learned: dict[str, Zoo]) -> None:
    before = {split: part.table.copy() for split, part in learned.items()}
    probe_properties(rep, learned)
    for split, part in learned.items():
        pd.testing.assert_frame_equal(part.table, before[split])
    assert np.isfinite(learned["train"].weights.numpy()).all()


def test_hyperparameters_may_be_recorded_for_some_models_or_for_none() -> None:
    frame = pd.DataFrame({"lr": [0.1, None, 0.001], "optimizer": ["adam", "sgd", None]})
    tables = {"train": frame, "test": frame[["lr"]].iloc[:2]}
    features = _make_hyperparameter_features("epoch", tables)
    lr = [-1.0, -2.0, -3.0]  # the missing one is the mean of the others
    assert features["train"].tolist() == [[lr[0], 1, 0], [lr[1], 0, 1], [lr[2], 0, 0]]
    assert features["test"].tolist() == [[lr[0], 0, 0], [lr[1], 0, 0]]
