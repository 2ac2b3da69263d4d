"""Equal work: members get the image gradients that learning spent, and the result says what they got."""

import dataclasses
from pathlib import Path

import pytest
import torch

from hyperrep.evaluation.equal_work import compare_equal_work, evaluate_equal_work
from hyperrep.evaluation.metrics import Evaluator, evaluate_scratch
from hyperrep.evaluation.population import Population
from hyperrep.evaluation.protocol import _count_gradients, judge_populations
from hyperrep.evaluation.result import AMORTIZED, WHOLE, PopulationResult
from hyperrep.storage import TrainingInfo
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.recipes import Training


@pytest.fixture
def bench_of_few(bench: Evaluator) -> Evaluator:
    """Three members, and a limit of four epochs."""
    return dataclasses.replace(bench, recipe=dataclasses.replace(bench.recipe, num_finetuned=3, max_equal_epochs=4))


def test_members_get_the_budget_in_whole_epochs(bench_of_few: Evaluator, tmp_path: Path) -> None:
    epoch = len(bench_of_few.images.labels("train"))
    result = evaluate_equal_work(2 * epoch + 1, 2, bench_of_few, tmp_path)
    assert result is not None and (result.num_samples, result.epoch_gradients) == (2, epoch)
    assert result.count_budget(AMORTIZED) == epoch + 1 and result.count_budget(WHOLE) == 2 * epoch + 1
    assert result.count_spent(AMORTIZED) == 2 * epoch and result.count_spent(WHOLE) == 3 * epoch
    states = bench_of_few.states
    accuracy = bench_of_few.measure_accuracy(states.weights[states.last], "test")
    assert [curve[0] for curve in result.curves[AMORTIZED].curves] == pytest.approx(accuracy[:3].tolist())
    best = states.accuracy[states.last].argmax()
    assert [curve[0] for curve in result.curves[WHOLE].curves] == pytest.approx([float(accuracy[best])])
    assert type(result).from_json(result.to_json()) == result


def test_a_budget_that_is_too_large_is_cut_and_the_result_says_so(bench_of_few: Evaluator, tmp_path: Path) -> None:
    epoch = len(bench_of_few.images.labels("train"))
    result = evaluate_equal_work(6 * epoch, 2, bench_of_few, tmp_path)
    assert result is not None
    assert result.count_spent(AMORTIZED) == result.count_budget(AMORTIZED) == 3 * epoch
    assert result.count_spent(WHOLE) == 4 * epoch < result.count_budget(WHOLE)


def test_curves_are_those_of_fine_tuning_and_are_not_trained_twice(
    bench_of_few: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = len(bench_of_few.images.labels("train"))
    result = evaluate_equal_work(epoch, 2, bench_of_few, tmp_path)
    assert result is not None
    trainings: list[Training] = []

    def note(*args: object, **options: object) -> None:
        trainings.append(args[4])  # type: ignore[arg-type]
        raise AssertionError("trained again")

    monkeypatch.setattr("hyperrep.evaluation.equal_work.fine_tune", note)
    assert evaluate_equal_work(epoch, 2, bench_of_few, tmp_path) == result and not trainings
    with pytest.raises(AssertionError, match="trained again"):
        evaluate_equal_work(epoch, 2, bench_of_few, tmp_path / "other")
    assert trainings == [dataclasses.replace(bench_of_few.training, epochs=1)]


def test_without_gradients_or_epochs_there_are_no_rows(bench_of_few: Evaluator, tmp_path: Path) -> None:
    assert evaluate_equal_work(0, 2, bench_of_few, tmp_path) is None
    assert evaluate_equal_work(10**6, 0, bench_of_few, tmp_path) is None
    none = dataclasses.replace(bench_of_few.recipe, max_equal_epochs=0)
    assert evaluate_equal_work(10**6, 2, dataclasses.replace(bench_of_few, recipe=none), tmp_path) is None
    assert not [*tmp_path.iterdir()]


def test_samples_are_compared_with_the_ends_of_the_curves(bench_of_few: Evaluator, tmp_path: Path) -> None:
    result = evaluate_equal_work(2 * len(bench_of_few.images.labels("train")), 2, bench_of_few, tmp_path)
    assert result is not None
    samples = PopulationResult(
        name="own", description="", is_sample=True, n=3, zero_shot=[0.1, 0.2, 0.3], curves=[[0.1, 0.2]]
    )
    others = [dataclasses.replace(samples, name="moves", curves=[]), dataclasses.replace(samples, is_sample=False)]
    rows = list(compare_equal_work(result, [samples, *others]))
    assert [(row.population, row.rival, row.n, row.n_rival) for row in rows] == [
        ("own", AMORTIZED, 3, 3),
        ("own", WHOLE, 3, 1),
    ]
    ends = torch.tensor([curve[-1] for curve in result.curves[AMORTIZED].curves])
    assert rows[0].mean == pytest.approx(0.2) and rows[0].rival_mean == pytest.approx(float(ends.mean()))
    assert rows[1].low is None


def test_the_protocol_has_the_rows_where_the_gradients_are_known(
    bench_of_few: Evaluator, populated: dict[str, Population], learned: dict[str, Zoo], tmp_path: Path
) -> None:
    populations = [populated["zoo members"], populated["kde@50"]]
    scratch, epoch = evaluate_scratch(learned["train"]), len(bench_of_few.images.labels("train"))
    result = judge_populations(populations, bench_of_few, tmp_path, scratch=scratch, offset=2, gradients=2 * epoch)
    assert result.equal_work == evaluate_equal_work(2 * epoch, 2, bench_of_few, tmp_path)
    rows = [(row.population, row.rival) for row in result.tests if row.question == "equal work"]
    assert rows == [("kde@50", AMORTIZED), ("kde@50", WHOLE)]
    without = judge_populations(populations, bench_of_few, tmp_path, scratch=scratch, offset=2)
    assert without == dataclasses.replace(result, equal_work=None, tests=without.tests)
    assert "equal work" not in {row.question for row in without.tests}


def test_what_a_training_noted_counts_more_than_its_recipe(trained: Path) -> None:
    info = TrainingInfo.read(trained)
    learning = dataclasses.replace(info.recipe.learning, functional_weight=1.0)
    old = dataclasses.replace(info, recipe=dataclasses.replace(info.recipe, learning=learning))
    assert info.image_gradients is None and _count_gradients(info, 28) == 0
    assert _count_gradients(old, 28) == learning.count_image_gradients(28) > 0
    assert _count_gradients(dataclasses.replace(old, image_gradients=0), 28) == 0, "trained where images were missing"
