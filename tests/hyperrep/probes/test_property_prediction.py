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
from hyperrep.probes.bootstrap import Resampling, resample_r2_within
from hyperrep.probes.ceilings import compute_ceilings
from hyperrep.probes.features import (
    AnswerOptions,
    find_probe_images,
    make_features,
    make_hyperparameter_features,
    measure_hits,
)
from hyperrep.probes.linear import Decomposition, predict_boosted, predict_ridge, predict_softmax, reduce_features
from hyperrep.probes.property_prediction import Probe, _make_targets, probe_properties
from modelzoo_datasets.architectures import architecture_from_layout
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.seeds import keyed_generator

LINEAR = ["W", "s(W)", "z", "answers"]
HYPER = "hyper-parameters, epoch"


def with_trees(kinds: list[str]) -> list[str]:
    return [name for kind in kinds for name in (kind, f"{kind}, boosted")]


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
    kinds = [*with_trees([*alone, HYPER]), "training mean"]
    expected = [(name, kind) for name in ("test_acc", "ggap") for kind in kinds]
    assert [*of_seed] == [*expected, *(("epoch", kind) for kind in (*with_trees(alone), "training mean"))]
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


def test_the_headline_is_r2_within_the_epochs_beside_the_pooled_one(
    learned: dict[str, Zoo], of_seed: dict[tuple[str, str], Probe]
) -> None:
    table = learned["test"].table
    targets = _make_targets("test_acc", {split: part.table for split, part in learned.items()})
    predicted = predict_ridge({split: part.weights for split, part in learned.items()}, targets)
    row = of_seed["test_acc", "W"]
    slow = []
    for epoch in (1, 2):
        y, x = (v.numpy()[(table["epoch"] == epoch).to_numpy()] for v in (targets["test"], predicted))
        slow.append(1 - ((x - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert row.epochs == [1, 2] and row.r2_within == pytest.approx(np.mean(slow)) != row.r2
    epoch = of_seed["epoch", "W"]
    assert (epoch.r2_within, epoch.epochs, epoch.ceiling, epoch.gain) == (None, [], None, None)
    assert epoch.r2 is not None


def test_ceilings_are_those_of_the_images_that_are_measured_on(
    learned: dict[str, Zoo], of_seed: dict[tuple[str, str], Probe]
) -> None:
    table = learned["test"].table
    p, q, y = (table[name].to_numpy() for name in ("test_acc", "train_acc", "ggap"))
    noise = p * (1 - p) / 1000
    assert of_seed["test_acc", "z"].ceiling == pytest.approx(1 - noise.mean() / p.var())
    noise = noise + q * (1 - q) / 4200
    within = [max(0, 1 - noise[own].mean() / y[own].var()) for own in (table["epoch"] == 1, table["epoch"] == 2)]
    assert of_seed["ggap", "W"].ceiling_within == pytest.approx(np.mean(within))


def test_with_the_images_the_ceilings_are_measured(learned: dict[str, Zoo], images: Images) -> None:
    options = AnswerOptions(engine="torch", images=images)
    hits, test = measure_hits(learned["test"], options), learned["test"].table
    assert hits is not None and hits.double().mean(dim=1).tolist() == pytest.approx(test["test_acc"].tolist())
    rows = [row for row in probe_properties(None, learned, answers=options) if row.property == "test_acc"]
    expected = compute_ceilings("test_acc", test, {"test": 1000}, hits)
    assert {(r.ceiling, r.ceiling_within, r.ceiling_from) for r in rows} == {(*expected.values(),)}
    assert measure_hits(dataclasses.replace(learned["test"], images="others"), options) is None


def test_without_the_number_of_images_there_is_no_ceiling(learned: dict[str, Zoo]) -> None:
    zoo = {split: dataclasses.replace(part, images="nobody's", dataset="") for split, part in learned.items()}
    rows = probe_properties(None, zoo)
    assert {(row.ceiling, row.ceiling_within) for row in rows} == {(None, None)}


def test_a_row_beats_hyper_parameters_and_epoch_by_the_paired_difference(
    rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    """A zoo whose accuracies are a linear function of the epoch and of a weight that nothing else shows."""
    zoo = {}
    for split, part in learned.items():
        weights, draws = torch.zeros_like(part.weights), keyed_generator(0, "gain", split)
        weights[:, 7] = torch.randn(len(part), generator=draws)
        weights[:, 8] = torch.tensor(part.table["epoch"].to_numpy())
        table = part.table.assign(test_acc=0.5 + 0.1 * part.table["epoch"] + 0.05 * weights[:, 7].double().numpy())
        zoo[split] = dataclasses.replace(part, weights=weights, table=table)
    found = {row.representation: row for row in probe_properties(rep, zoo) if row.property == "test_acc"}
    assert found["W"].is_above_baseline() and not found["hyper-parameters"].is_above_baseline()
    rivals = [found[HYPER], found[f"{HYPER}, boosted"]]
    assert [row.is_above_baseline() for row in rivals] == [None, None]
    scores = [row.r2_within for row in (found["W"], *rivals)]
    assert None not in scores and found["W"].gain == pytest.approx(scores[0] - max(scores[1:]))

    test = zoo["test"].table
    sample = Resampling.from_models(list(test["model_id"]), keyed_generator(0, "bootstrap", "test_acc"))
    y = {split: torch.tensor(part.table["test_acc"].to_numpy()) for split, part in zoo.items()}
    hyper = {s: torch.tensor([[0.0, e, e == 1, e == 2] for e in part.table["epoch"]]) for s, part in zoo.items()}
    rival = predict_ridge if scores[1:].index(max(scores[1:])) == 0 else predict_boosted
    own, other = (
        resample_r2_within(predicted, y["test"], torch.tensor(test["epoch"].to_numpy()), sample)[1:].numpy()
        for predicted in (predict_ridge({s: part.weights for s, part in zoo.items()}, y), rival(hyper, y))
    )
    assert found["W"].gain_low == pytest.approx(np.nanpercentile(own - other, 2.5), abs=1e-3)


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
    for kind in (*with_trees([*LINEAR, "hyper-parameters", HYPER]), "most frequent"):
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
        "probes need at least 2 training and 2 test models with weights up to 5, got 14 and 1; take a zoo of more "
        "models, or a larger limit"
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
    features = make_hyperparameter_features("epoch", tables)
    lr = [-1.0, -2.0, -3.0]  # the missing one is the mean of the others
    assert features["train"].tolist() == [[lr[0], 1, 0], [lr[1], 0, 1], [lr[2], 0, 0]]
    assert features["test"].tolist() == [[lr[0], 0, 0], [lr[1], 0, 0]]


def test_states_beyond_the_weight_limit_are_left_out_and_counted(
    rep: HyperRepresentation, learned: dict[str, Zoo], caplog: pytest.LogCaptureFixture
) -> None:
    zoo = {}
    for split, part in learned.items():
        weights = part.weights.clone()
        weights[1, 3] = -1e9 if split == "test" else 6
        zoo[split] = dataclasses.replace(part, weights=weights)
    rows = {(row.property, row.representation): row for row in probe_properties(rep, zoo)}
    assert {(row.states, row.left_out, row.max_weight) for row in rows.values()} == {(5, 3, 5.0)}
    assert caplog.messages == ["3 of 40 states are left out of the probes: a weight is beyond 5"]
    ends = probe_properties(rep, zoo, max_weight=None)
    assert {(row.states, row.left_out, row.max_weight) for row in ends} == {(6, 0, None)}
    exploded = next(row.r2 for row in ends if (row.property, row.representation) == ("test_acc", "W"))
    kept = rows["test_acc", "W"].r2
    assert exploded is not None and kept is not None and exploded < -1e3 < kept


def test_without_a_hyper_representation_all_but_z_is_predicted_from(
    rep: HyperRepresentation, learned: dict[str, Zoo], of_seed: dict[tuple[str, str], Probe]
) -> None:
    rows = {(row.property, row.representation): row for row in probe_properties(None, learned)}
    assert rows == {key: row for key, row in of_seed.items() if not key[1].startswith("z")}


def test_answers_are_left_out_with_a_line_where_there_is_no_module(
    learned: dict[str, Zoo], caplog: pytest.LogCaptureFixture
) -> None:
    unknown = architecture_from_layout("theirs", learned["train"].layout)
    zoo = {split: dataclasses.replace(part, architecture=unknown) for split, part in learned.items()}
    features = make_features(zoo, None, AnswerOptions())
    assert [*features] == ["W", "s(W)"]
    (line,) = caplog.messages
    assert line.startswith("answers of the networks are left out, because they cannot be run: architecture 'theirs' is")


def test_each_network_answers_with_its_own_activation(hyp: dict[str, Zoo]) -> None:
    zoo, options = hyp["test"], AnswerOptions(engine="torch")
    answers = make_features(hyp, None, options)["answers"]["test"]
    inputs = find_probe_images(zoo, options).inputs("train")
    assert zoo.table["activation"].nunique() == 2
    with torch.no_grad():
        for i in range(len(zoo)):
            expected = zoo.model(i)(inputs).log_softmax(dim=1).flatten()
            torch.testing.assert_close(answers[i], expected, rtol=1e-4, atol=1e-4)


def test_training_images_are_answered_without_labels_and_no_other_images(
    learned: dict[str, Zoo], images: Images
) -> None:
    chosen = find_probe_images(learned["train"], AnswerOptions(source="training", images=images))
    assert [*chosen.splits] == ["train"]
    assert torch.equal(chosen.splits["train"].pixels, images.splits["train"].pixels[:128])
    assert not chosen.labels("train").any()
    assert (chosen.mean, chosen.std) == (images.mean, images.std)


def test_trees_see_few_features_as_they_are_and_the_leading_axes_of_many() -> None:
    draws = keyed_generator(0, "axes")
    few = {split: torch.randn(n, 256, generator=draws) for split, n in (("train", 90), ("test", 20))}
    assert reduce_features(few, Decomposition.from_features(few["train"])) is few
    many = {split: torch.cat([x, 9 * x[:, :1]], dim=1) for split, x in few.items()}
    reduced = reduce_features(many, Decomposition.from_features(many["train"]))
    assert {split: tuple(x.shape) for split, x in reduced.items()} == {"train": (90, 64), "test": (20, 64)}
    with_ones = torch.cat([many["train"], torch.ones(90, 1)], dim=1).double()
    _, values, _ = torch.linalg.svd(with_ones)
    torch.testing.assert_close(reduced["train"].norm(dim=0), values[:64])
