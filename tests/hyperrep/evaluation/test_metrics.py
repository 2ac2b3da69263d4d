"""Judging a population measures what it says."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperrep import HyperRepresentation
from hyperrep.evaluation.metrics import Evaluator, _evaluate_ensembles, evaluate_population, evaluate_scratch
from hyperrep.evaluation.population import Population
from modelzoo_datasets.analysis import fine_tune
from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.seeds import derive_seed, keyed_generator


def distances(weights: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """(n, m): root mean square of the differences in layer standard deviations, one pair at a time."""
    rows = [[((a - b) / scale).double().square().mean().sqrt() for b in others] for a in weights]
    return torch.tensor(rows)


def test_judging_measures_what_it_says(bench: Evaluator, rep: HyperRepresentation, learned: dict[str, Zoo]) -> None:
    weights = rep.align(learned["test"].weights)[:3]
    found = evaluate_population(
        Population(name="some", description="three test states", weights=weights, num_finetuned=2), bench
    ).to_json()
    accuracy = bench.engine.evaluate("cnn-s", bench.images, weights, [NetworkSpec("tanh")] * 3, "test").accuracy
    assert found["zero_shot"] == accuracy.tolist()
    told = dataclasses.replace(bench.training, epochs=2)
    seeds = [derive_seed(0, "fine-tuning", i) for i in range(2)]
    assert found["curves"] == fine_tune(bench.engine, "cnn-s", bench.images, weights[:2], told, seeds)[0].tolist()
    far = distances(weights, bench.states.weights, rep.scale)
    assert found["distance"] == pytest.approx(far.amin(dim=1).tolist(), rel=1e-4)
    rows = learned["train"].table.iloc[far.argmin(dim=1).tolist()]
    assert found["nearest"] == [[m, e] for m, e in zip(rows["model_id"], rows["epoch"], strict=True)]
    assert (found["name"], found["what"], found["n"]) == ("some", "three test states", 3)
    networks = [NetworkSpec("tanh")] * 31
    outputs = dict(
        bench.engine.compute_logits("cnn-s", bench.images, torch.cat([weights, bench.states.weights]), networks, "test")
    )
    labels = bench.images.labels("test")
    wrong = [{*(outputs[i].argmax(1) != labels).nonzero().flatten().tolist()} for i in range(31)]
    overlap = [max(len(mine & other) / len(mine | other) for other in wrong[3:]) for mine in wrong[:3]]
    assert found["error_similarity"] == pytest.approx(overlap)
    between = distances(weights, weights, rep.scale)
    pairs = [(i, j) for i in range(3) for j in range(i)]
    assert found["pairs"]["distance"]["mean"] == pytest.approx(sum(float(between[p]) for p in pairs) / 3, rel=1e-5)
    same = [(outputs[i].argmax(1) == outputs[j].argmax(1)).double().mean() for i, j in pairs]
    assert found["pairs"]["agreement"]["mean"] == pytest.approx(float(sum(same)) / 3)


def test_ensembles_of_a_population_begin_with_its_mean_and_end_with_all_of_it(
    bench: Evaluator, rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    weights = rep.align(learned["test"].weights)[:3]
    found = evaluate_population(
        Population(name="some", description="", weights=weights, num_finetuned=2), bench
    ).to_json()
    logits = dict(bench.engine.compute_logits("cnn-s", bench.images, weights, [NetworkSpec("tanh")] * 3, "test"))
    right = (sum(logits.values()).argmax(1) == bench.images.labels("test")).double()
    zero_shot = found["ensembles"]["zero-shot"]
    assert zero_shot["mean"][-1] == pytest.approx(float(right.mean())) and zero_shot["std"][-1] < 1e-12
    assert min(found["zero_shot"]) <= zero_shot["mean"][0] <= max(found["zero_shot"])
    assert zero_shot["missed"] == (right == 0).nonzero().flatten().tolist()
    assert (zero_shot["num_missed"], zero_shot["orders"]) == ([20] * len(zero_shot["missed"]), 20)
    assert len(found["ensembles"]["tuned"]["mean"]) == 2
    alone = dataclasses.replace(bench, recipe=dataclasses.replace(bench.recipe, max_ensemble_size=1))
    assert (
        evaluate_population(Population(name="some", description="", weights=weights, num_finetuned=0), alone).to_json()[
            "ensembles"
        ]
        == {}
    )


def test_the_compared_ensembles_score_what_the_table_says(bench: Evaluator) -> None:
    generator, images = keyed_generator(0, "logits"), len(bench.images.labels("test"))
    three_of_six = dataclasses.replace(bench, recipe=dataclasses.replace(bench.recipe, max_ensemble_size=3))
    ensemble = _evaluate_ensembles(torch.randn(6, images, 10, generator=generator), three_of_six, "some")
    assert ensemble is not None and ensemble.std[-1] > 0.01
    assert sum(ensemble.hits) / images == pytest.approx(ensemble.mean[-1], abs=1e-12)
    assert len({*ensemble.hits}) > 2, "orders differ"
    first = dataclasses.replace(ensemble, num_missed=(), orders=1)  # as format 2 has it
    assert first.hits.count(0.0) == len(ensemble.missed)


def test_models_that_diverged_are_in_no_ensemble(bench: Evaluator) -> None:
    generator, images = keyed_generator(0, "logits"), len(bench.images.labels("test"))
    logits = torch.randn(3, images, 10, generator=generator)
    alone = _evaluate_ensembles(logits[:2], bench, "some")
    logits[2, 7, 1] = float("nan")
    assert alone is not None and alone.diverged == 0 and len(alone.mean) == 2
    assert _evaluate_ensembles(logits, bench, "some") == dataclasses.replace(alone, diverged=1)
    assert _evaluate_ensembles(logits[2:], bench, "some") is None


def test_scratch_is_the_zoos_own_table(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "seed")
    found = evaluate_scratch(zoo).to_json()
    curves: dict[str, list[float]] = {}
    for row in zoo.table.sort_values(["model_id", "epoch"]).to_dict("records"):
        curves.setdefault(row["model_id"], []).append(row["test_acc"])
    assert found["curves"] == list(curves.values())
    assert found["zero_shot"] == [curve[0] for curve in curves.values()]
    assert found["n"] == 20
    thinned = evaluate_scratch(zoo.select(zoo.table["epoch"] != 1))
    assert thinned.curves == [[curve[0], None, curve[2]] for curve in curves.values()]


def test_twins_are_not_trained_from_scratch(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "seed")
    twins = dataclasses.replace(zoo, table=zoo.table.assign(parent_id="seed-00001"))
    found = evaluate_scratch(twins)
    assert (found.n, found.zero_shot, found.curves) == (0, [], [])
    assert found.description == "none: the models of the zoo are sparsified twins, which begin with trained models"
