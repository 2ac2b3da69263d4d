"""The report: opens offline, says what the numbers say, equal values give equal bytes."""

import dataclasses
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from hyperrep.evaluation.control import measure_control
from hyperrep.evaluation.equal_work import compare_equal_work
from hyperrep.evaluation.judgment import judge_samples, measure_dispersion
from hyperrep.evaluation.result import (
    AMORTIZED,
    WHOLE,
    CurveResult,
    EqualWorkResult,
    EvaluationResult,
    PopulationResult,
)
from hyperrep.evaluation.significance import compare_populations
from hyperrep.probes import Probe
from hyperrep.recipe import EvaluationRecipe
from hyperrep.report import (
    accuracy_table,
    describe_probes,
    judgment_table,
    novelty_table,
    probe_table,
    render_report,
)
from hyperrep.report.figures import _draw_mean
from hyperrep.report.probe_figures import plot_probes
from hyperrep.report.tables import (
    accounting_table,
    control_table,
    ensemble_table,
    equal_work_table,
    significance_table,
    transfer_table,
)
from hyperrep.report.verdicts import _shorten, describe_judgment, write_verdicts
from modelzoo_datasets.cli import print_table

RECIPE = EvaluationRecipe(samplers=("kde",), finetune_epochs=(1, 2))
SUMMARY = {"pairs": 28, "left_out": 0, "mean": 0.8, "std": 0.1, "min": 0.5, "max": 0.9}


def population(
    name: str, start: float, end: float, n: int = 8, distance: float = 0.5, mirrors: str = ""
) -> dict[str, Any]:
    """n models whose accuracy rises from about `start` to about `end` in two epochs."""
    wiggle = 0.01 * np.sin(np.arange(n))
    curves = np.stack([start + wiggle, (start + end) / 2 + wiggle, end + wiggle], axis=1)
    ensemble = {"mean": [start, end], "std": [0.01, 0.0], "missed": list(range(int(100 * (1 - end)))), "images": 100}
    return {
        "name": name,
        "what": f"what {name} is",
        "sampled": name == "kde",
        "mirrors": mirrors,
        "partners": list(range(n)) if mirrors else [],
        "n": n,
        "zero_shot": curves[:, 0].tolist(),
        "curves": curves.tolist(),
        "distance": (distance + wiggle).tolist(),
        "error_similarity": (0.6 + wiggle).tolist(),
        "pairs": {"distance": SUMMARY, "agreement": SUMMARY},
        "ensembles": {"zero-shot": ensemble},
    }


def probe(name: str, kind: str, value: float) -> dict[str, Any]:
    """One row of probes: of a number, or of a category for `activation`."""
    empty = {f"{k}{end}": None for k in ("r2", "tau", "accuracy") for end in ("", "_low", "_high")}
    row = {"property": name, "representation": kind, **empty, "tau_ceiling": None, "majority": None, "models": 9}
    if name == "activation":
        return row | {"accuracy": value, "accuracy_low": value - 0.1, "accuracy_high": value + 0.1, "majority": 0.4}
    return row | {"r2": value, "r2_low": value - 0.1, "r2_high": value + 0.1, "tau_ceiling": 0.98}


def evaluation(sample: float, noise: float, averages: float = 0.3) -> dict[str, Any]:
    """An evaluation in which samples of kde score `sample` zero-shot and noise scores `noise`."""
    reconstruction = {"total": 0.8, "layers": [0.9, 0.7], "n": 4}
    populations = [
        population("zoo members", 0.8, 0.8),
        population("training members", 0.8, 0.8, distance=0.0),
        population("reconstructed unseen", 0.4, 0.7),
        population("reconstructed training", 0.7, 0.8),
        population("average of pairs", 0.5, 0.7),
        population("average of all", 0.6, 0.7, n=1),
        population("noise 0.2", 0.7, 0.7) | {"curves": []},
        population("noise 0.2 + REPAIR", 0.75, 0.7) | {"curves": []},
        population("PCA Gaussian", 0.3, 0.7) | {"curves": []},
        population("kde", sample, 0.75),
        population("noise like kde", noise, 0.7, mirrors="kde"),
        population("average like kde", averages, 0.7, n=5, mirrors="kde"),
        population("retrieval like kde", 0.8, 0.7, distance=0.0, mirrors="kde") | {"curves": []},
        population("scratch", 0.1, 0.5) | {"distance": [], "ensembles": {}},
    ]
    results = [PopulationResult.from_json(p) for p in populations]
    judged = {p["name"]: p for p in populations}
    elsewhere = {
        name: {"name": name, "n": 8, "curves": judged[name]["curves"]} for name in ("kde", "zoo members", "scratch")
    }
    transfer = {"mnist": elsewhere}
    changed = {"res-cnn": {"kde": elsewhere["kde"], "random init": elsewhere["scratch"]}}
    places = [
        {place: {name: CurveResult.from_json(v) for name, v in part.items()} for place, part in values.items()}
        for values in (transfer, changed)
    ]
    tests = compare_populations(results, *places, RECIPE, offset=1)
    return {
        "format": "modelzoo-evaluation-4",
        "protocol": {"fine_tune": [1, 2]},
        "offset": 1,
        "populations": populations,
        "transfer": transfer,
        "changed": changed,
        "comparisons": [row.to_json() for row in tests],
        "judgments": {name: judgment.to_json() for name, judgment in judge_samples(results, tests).items()},
        "probes": [probe("test_acc", "W", -0.5), probe("test_acc", "z", 0.9), probe("activation", "z", 0.7)],
        "reconstruction": {"train": reconstruction, "test": reconstruction | {"total": 0.5}},
        "embeddings": {
            "train": {"z": [[0.0, 1.0], [1.0, 0.0]], "test_acc": [0.5, 0.6]},
            "test": {"z": [[0.5, 1.0], [1.0, 0.2]], "test_acc": [0.4, 0.7]},
            "kde": {"z": [[0.1, 0.1]]},
        },
    }


def read(found: dict[str, Any]) -> EvaluationResult:
    return EvaluationResult.from_json(found)


def page(found: dict[str, Any]) -> str:
    table = pd.DataFrame({"model_id": ["a", "a", "b", "b"], "epoch": [0, 1, 0, 1], "test_acc": [0.1, 0.6, 0.1, 0.7]})
    return render_report("A <zoo>", {"seed": table, "hyp": table}, ["8×1", "2×8"], read(found), {"models": "2"})


@pytest.fixture(scope="module")
def text() -> str:
    """A page with all questions."""
    return page(evaluation(0.6, 0.4))


def test_the_page_holds_everything_it_shows(text: str) -> None:
    assert text.count("data:image/png;base64,") == 9
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "<script" not in text
    assert "A &lt;zoo&gt;" in text


def test_a_curve_is_drawn_at_the_epochs_that_there_are() -> None:
    axes = Figure().subplots()
    _draw_mean(axes, "scratch", [[0.1, None, None, 0.4], [0.2, None, None, 0.5]], 3)
    (line,) = axes.lines
    assert np.asarray(line.get_xdata()).tolist() == [0, 3]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.15, 0.45])


def test_questions_that_were_not_asked_have_no_place(text: str) -> None:
    found = evaluation(0.6, 0.4) | {"transfer": {}, "changed": {}}
    for measured in found["populations"]:
        measured["ensembles"] = {}
    shorter = page(found)
    assert shorter.count("data:image/png;base64,") == 6
    for heading in ("Transfer", "Changed", "Ensembles"):
        assert f"<h2>{heading}" not in shorter and f"<h2>{heading}" in text


def further(found: dict[str, Any], limit: int = 4) -> dict[str, Any]:
    """The same evaluation with members that got 1,000 image gradients, and a control test of one property."""
    results = [PopulationResult.from_json(p) for p in found["populations"]]
    curves = {AMORTIZED: population("a", 0.8, 0.9)["curves"], WHOLE: [[0.8 + 0.01 * e for e in range(limit + 1)]]}
    work = EqualWorkResult(
        gradients=1000,
        num_samples=8,
        epoch_gradients=100,
        curves={name: CurveResult(name=name, n=len(rows), curves=rows) for name, rows in curves.items()},
    )
    asked = np.linspace(0.6, 0.8, 100)
    control = {"test_acc": {"targeted": measure_control(asked.tolist(), (asked / 2 + 0.3).tolist()).to_json()}}
    rows = [*found["comparisons"], *(row.to_json() for row in compare_equal_work(work, results))]
    return found | {"equal_work": work.to_json(), "control": control, "comparisons": rows}


def test_equal_work_and_control_have_their_place(text: str) -> None:
    longer = page(further(evaluation(0.6, 0.4)))
    assert longer.count("data:image/png;base64,") == text.count("data:image/png;base64,") + 2
    for heading in ("Equal work", "Control"):
        assert f"<h2>{heading}" in longer and f"<h2>{heading}" not in text
    assert "Learning spent 1,000 image gradients" in longer


def test_equal_work_says_what_was_spent_and_what_was_cut() -> None:
    found = read(further(evaluation(0.6, 0.4)))
    assert found.equal_work is not None
    table = equal_work_table(found.equal_work, found.populations, (2,))
    assert table["models"].tolist() == ["kde", "kde", AMORTIZED, WHOLE]
    assert table["image gradients each"].tolist() == ["125", "325", "200", "400"]
    assert table["budget"].tolist() == ["", "", "125", "1,000, cut"]
    assert [value[:4] for value in table["accuracy"]] == ["60.1", "75.1", "90.1", "84.0"]
    whole = read(further(evaluation(0.6, 0.4), limit=10))
    assert whole.equal_work is not None
    assert equal_work_table(whole.equal_work, whole.populations, (2,))["budget"].iloc[-1] == "1,000"
    said = [sentence for sentence in write_verdicts(found) if sentence.startswith("At equal work")]
    assert said[0].startswith(
        f"At equal work, samples of kde lose to fine-tuned zoo members ({AMORTIZED}): 60.1 % against"
    )
    assert said[1] == f"At equal work, samples of kde score 60.1 %, fine-tuning of a zoo member ({WHOLE}) 84.0 %."


def test_control_is_a_line_per_property_and_sampler() -> None:
    table = control_table(read(further(evaluation(0.6, 0.4))).control)
    assert table.iloc[0].to_dict() == {
        "property": "test_acc",
        "sampler": "targeted",
        "n": "100",
        "asked": "0.600 to 0.800",
        "slope": "0.500 [0.50, 0.50]",
        "R²": "1.000 [1.00, 1.00]",
        "bias": "-0.050",
    }


def test_the_page_says_what_was_trained_how_and_at_what_cost() -> None:
    found = evaluation(0.6, 0.4)
    words = "none: the models of the zoo are sparsified twins"
    found["populations"][-1] |= {"n": 0, "zero_shot": [], "curves": [], "pairs": {}, "what": words}
    found["populations"][0]["cpu_seconds"] = 12.34
    found["transfer"]["mnist"]["kde"] |= {"source": "the recipe mnist-cnn-s/seed", "hyperparameters": {"lr": 3e-4}}
    text = page(found)
    assert f"<dt>scratch</dt><dd>{words}</dd>" in text
    assert "(12.3 CPU seconds)</dd>" in text
    assert '<p class="note">mnist: lr 0.0003, from the recipe mnist-cnn-s/seed.</p>' in text


def test_equal_values_give_equal_bytes(text: str) -> None:
    assert page(evaluation(0.6, 0.4)) == text


@pytest.mark.parametrize(
    ("sample", "noise", "averages", "kind", "null"),
    [
        (0.6, 0.4, 0.3, "new", "noise"),
        (0.6, 0.3, 0.4, "new", "average"),
        (0.5, 0.5, 0.3, "noise", "noise"),
        (0.4, 0.6, 0.3, "noise", "noise"),
        (0.6, 0.4, 0.6, "averages", "average"),
    ],
)
def test_samples_are_called_by_the_null_that_they_beat_least(
    sample: float, noise: float, averages: float, kind: str, null: str
) -> None:
    found = read(evaluation(sample, noise, averages))
    judgment = found.judgments["kde"]
    assert (judgment.kind, judgment.null) == (kind, f"{null} like kde")
    rows = [row for row in found.tests if (row.question, row.rival) == ("zero-shot", judgment.null)]
    assert (judgment.difference, judgment.low, judgment.n) == (rows[0].difference, rows[0].low, rows[0].n)
    assert judgment.distance == pytest.approx(0.5, abs=0.01)
    said = next(s for s in write_verdicts(found) if s.startswith(("Samples of kde are new", "Samples of kde are no")))
    scores = f"they score {100 * rows[0].mean:.1f} %, and {null}, the strongest null, {100 * rows[0].rival_mean:.1f} %"
    if kind == "new":
        assert said.startswith(
            "Samples of kde are new: they beat every null. At matched novelty, 0.50 layer standard deviations from the "
            f"nearest training state, {scores} (difference +"
        )
    else:
        assert f"are no better than {kind}: at matched novelty, 0.50 " in said and f"state, {scores} (" in said
    row = judgment_table(found.populations, found.judgments).iloc[0]
    assert (row["samples"], row["strongest null"].split(", ")[1], row["they are"]) == ("kde", null, kind)


def test_what_scores_as_the_nearest_training_states_at_no_distance_are_copies() -> None:
    found = evaluation(0.8, 0.4)
    for p in found["populations"]:
        if p["name"] == "kde":
            p["distance"] = [0.01] * 8
    results = [PopulationResult.from_json(p) for p in found["populations"]]
    judgment = judge_samples(results, read(found).tests)["kde"]
    assert judgment.kind == "copies"
    assert describe_judgment("kde", judgment) == (
        "Samples of kde are copies: they are 0.010 layer standard deviations from the nearest training state."
    )


def test_dispersion_is_that_of_the_samples_over_that_of_the_members() -> None:
    found = evaluation(0.6, 0.4)
    for p in found["populations"]:
        if p["name"] == "kde":
            p["pairs"] = {"distance": SUMMARY | {"mean": 0.6}, "agreement": SUMMARY | {"mean": 0.95}}
    by_name = {p["name"]: PopulationResult.from_json(p) for p in found["populations"]}
    assert measure_dispersion(by_name["kde"], by_name) == pytest.approx((0.6 / 0.8, 0.05 / 0.2))
    del by_name["zoo members"], by_name["training members"]
    assert measure_dispersion(by_name["kde"], by_name) == (None, None)


def test_the_words_are_whole_sentences() -> None:
    said = write_verdicts(read(evaluation(0.6, 0.4)))
    assert said[0].startswith("Reconstructed held-out models keep 50% of the accuracy of the models themselves (40.")
    assert said[2] == (
        "Samples of kde (n=8) are 0.50 layer standard deviations from the nearest training state, share 60% of their "
        "errors (IoU) with the most similar one, and score 60.1 % zero-shot; the training states next to them score "
        "80.1 %; they are 1.00 times as far apart as zoo members, and disagree 1.00 times as often."
    )
    assert said[3].startswith(
        "Fine-tuned samples of kde next to noise at matched distance: above it after 1 epoch (67.6 %"
    )
    assert said[4] == (
        "Fine-tuned samples of kde next to training from scratch: above it after 1 epoch (67.6 % against 30.1 %) and "
        "above it after 2 epochs (75.1 % against 50.1 %)."
    )
    assert said[6] == (
        "Counted as in the paper, with 1 more epochs for scratch, samples of kde next to it: above it after 1 epoch "
        "(67.6 % against 50.1 %)."
    )
    assert said[7].startswith("Samples of kde fine-tuned on mnist next to zoo members: below it after 1 epoch")
    assert said[9].startswith("Samples of kde fine-tuned in the architecture res-cnn next to random init: above it")
    assert said[10].startswith(
        "Ensembles of samples of kde (zero-shot, 2 and 2 models) lose to ensembles of zoo members"
    )
    assert said[10].endswith("paired t-test, 100 images).")


def test_no_difference_is_never_said_without_its_interval_and_n() -> None:
    """Equality is no result of a test: with few models, large differences are not shown either."""
    said = write_verdicts(read(evaluation(0.6, 0.65)))  # equal after one epoch
    assert not [sentence for sentence in said if re.search(r"\b(equals?|level with)\b", sentence)]
    clauses = [
        part for sentence in said for part in re.findall(r"no difference shown after[^()]*\(([^()]*)\)", sentence)
    ]
    assert clauses
    for clause in clauses:
        assert re.search(r"95 % interval [+-][\d.]+ to [+-][\d.]+, p .*n=8 and 8$", clause), clause


@pytest.mark.parametrize(
    ("sentence", "shorter"),
    [
        ("Samples of samples are new.", "The samples are new."),
        ("Fine-tuned samples of samples next to noise.", "The fine-tuned samples next to noise."),
        ("Ensembles of samples of samples beat it.", "Ensembles of the samples beat it."),
        ("Samples of kde are new.", "Samples of kde are new."),
    ],
)
def test_samples_without_a_name_are_the_samples(sentence: str, shorter: str) -> None:
    assert _shorten(sentence) == shorter


def test_without_nulls_it_is_said_that_there_are_none() -> None:
    found = evaluation(0.6, 0.4)
    results = [PopulationResult.from_json(p) for p in found["populations"]]
    judgment = judge_samples(results, [])["kde"]
    assert judgment.kind == "unknown"
    assert describe_judgment("kde", judgment) == (
        "Samples of kde: there is no null at matched novelty, 0.50 layer standard deviations from the nearest training "
        "state, to compare them with."
    )


def test_tables_give_mean_and_standard_deviation_in_percent(capsys: pytest.CaptureFixture[str]) -> None:
    given = [PopulationResult.from_json(p) for p in (population("one", 0.5, 0.7, n=1), population("kde", 0.5, 0.7))]
    table = accuracy_table(given, (2,)).set_index("population")
    values = 50 + np.sin(np.arange(8))
    assert table.loc["kde", "zero-shot"] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    assert table.loc["kde", "2 epochs"] == f"{values.mean() + 20:.1f} ± {values.std(ddof=1):.1f}"
    assert table.loc["one", "zero-shot"] == "50.0"
    assert table.loc["one", "distance"] == "0.50"
    novelty = novelty_table(given).set_index("population")
    assert novelty.loc["kde", "pairwise agreement"] == "0.800 ± 0.100"
    print_table(table.reset_index())
    print_table(probe_table([Probe(**probe("epoch", "W", 0.5))]))
    shown = capsys.readouterr().out
    assert table.loc["kde", "zero-shot"] in shown
    assert "…" not in shown
    assert "0.500 [0.40, 0.60]" in shown


def test_probes_of_numbers_and_categories_stand_in_one_table() -> None:
    table = probe_table(read(evaluation(0.6, 0.4)).probes).set_index(["property", "from"])
    assert table.loc[("test_acc", "z"), "R² pooled"] == "0.900 [0.80, 1.00]"
    assert table.loc[("activation", "z"), "accuracy"] == "0.700 [0.60, 0.80]"
    assert table.loc[("activation", "z"), "majority class"] == "0.400"
    assert table.loc[("test_acc", "z"), "tau"] == "-" and table.loc[("activation", "z"), "R² pooled"] == ""
    assert "R² in an epoch" not in table, "probes of earlier releases have none"


def test_r2_within_an_epoch_comes_first_and_says_which_rows_beat_the_epoch() -> None:
    within = {"r2_within": 0.6, "r2_within_low": 0.5, "r2_within_high": 0.7, "epochs": [8, 9], "ceiling_within": 0.75}
    number = probe("test_acc", "answers", 0.97) | within | {"tied": 0.25, "max_weight": 5.0, "left_out": 3}
    rows = [
        number
        | {"gain": 0.2, "gain_low": 0.1, "gain_high": 0.3, "tau_untied": 0.5, "ceiling": 0.99, "ceiling_from": "size"},
        number | {"representation": "W", "r2_within": -4e13, "gain": 0.1, "gain_low": -0.1, "gain_high": 0.3},
        number | {"representation": "hyper-parameters, epoch"},
        probe("epoch", "W", 0.9),
        probe("activation", "W", 0.5),
    ]
    probes = [Probe.from_json(row) for row in rows]
    table = probe_table(probes).set_index(["property", "from"])
    assert [*table.columns][:2] == ["R² in an epoch", "ceiling"]
    assert [*table["R² in an epoch"]] == ["0.600 [0.50, 0.70]", "< -10", "0.600 [0.50, 0.70]", "", ""]
    assert [*table["beats epoch"]] == ["yes", "no", "", "", ""]
    first = table.loc[("test_acc", "answers")]
    assert (first["ceiling"], first["pooled ceiling"], first["tied"]) == ("0.750", "0.990", "0.250")
    assert first["tau, none stuck"] == "0.500"
    lines = describe_probes(probes)
    assert lines[0] == (
        "R² in an epoch: around the mean of each epoch, mean over epochs 8, 9; epoch does not vary within one"
    )
    assert lines[-1] == "3 states with a weight beyond 5 are left out" and len(lines) == 5
    one = dataclasses.replace(probes[0], epochs=[9])
    assert describe_probes([one])[0] == "R² in an epoch: of epoch 9, the only one"
    assert describe_probes([probes[3]]) == ["no property varies within an epoch"]
    assert plot_probes(probes) != plot_probes([dataclasses.replace(p, ceiling_within=None) for p in probes])
    assert plot_probes(probes) != plot_probes([dataclasses.replace(p, r2_within=None) for p in probes])


def test_the_two_counts_of_epochs_stand_beside_each_other() -> None:
    found = evaluation(0.6, 0.4)
    table = accounting_table(read(found).populations, (1,), 1)
    assert table is not None and table["epochs"].tolist() == ["0", "1"]
    assert [v[:4] for v in table.loc[1, ["accuracy", "scratch, same epochs", "scratch, 1 more"]]] == [
        "67.6",
        "30.1",
        "50.1",
    ]
    assert accounting_table([PopulationResult.from_json(population("zoo members", 0.8, 0.8))], (1,), 1) is None


def test_further_questions_have_their_tables() -> None:
    found = read(evaluation(0.6, 0.4))
    transfer = transfer_table(found.transfer, (1, 2)).set_index(["where", "population"])
    assert transfer.loc[("mnist", "scratch"), "1 epoch"].startswith("30.1")
    ensembles = ensemble_table(found.populations).set_index("population")
    assert ensembles.loc["kde", "2"] == "75.0 ± 0.0" and ensembles.loc["kde", "1"] == "60.0 ± 1.0"
    tests = significance_table(found.tests)
    first = tests.iloc[0]
    assert (first["against"], first["difference"], first["95 %"], first["n"]) == (
        "noise like kde",
        "+20.0",
        "[+20.0, +20.0]",
        "8",
    )
