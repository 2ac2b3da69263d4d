"""Training states are aligned and run on the test images once: what is kept is what would be measured, to the bit."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperrep import HyperRepresentation
from hyperrep.evaluation.cache import read_or_measure
from hyperrep.evaluation.metrics import Evaluator, evaluate_population
from hyperrep.evaluation.population import Population
from hyperrep.evaluation.result import PopulationResult
from hyperrep.evaluation.training_states import TrainingStates
from hyperrep.release.export import Measurement, SampleRequest, export_samples
from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import ArgumentError
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.weights import Alignment

KEY = {"states": "a test"}


class CountingEngine(TorchEngine):
    """Notes of how many models it was asked for outputs."""

    asked: list[int]

    def compute_logits(
        self, architecture: str, images: Images, weights: Tensor, networks: Sequence[NetworkSpec], split: str
    ) -> Iterator[tuple[int, Tensor]]:
        self.asked.append(len(weights))
        return super().compute_logits(architecture, images, weights, networks, split)


class OtherEngine(TorchEngine):
    """Of another name."""

    name = "other"


class OtherPath(TorchEngine):
    """Of the same name and versions, on another path."""

    def environment(self, architecture: str) -> dict[str, str]:
        return {**super().environment(architecture), "path": f"kernel of {architecture}"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("MODELZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MODELZOO_CACHE_BYTES", raising=False)
    return tmp_path / "cache"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_samples_are_measured_to_the_same_bytes_and_the_second_time_no_network_is_run_again(
    trained: Path, tiny_dataset: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, aligned = CountingEngine(num_workers=1), []
    align = Alignment.align

    def counted(alignment: Alignment, weights: Tensor) -> Tensor:
        aligned.append(len(weights))
        return align(alignment, weights)

    monkeypatch.setattr(Alignment, "align", counted)
    measuring = Measurement(dataset=tiny_dataset, engine=engine, images_root=tmp_path)
    runs = {}
    for name, most in (("unkept", "0"), ("first", ""), ("second", "")):
        monkeypatch.setenv("MODELZOO_CACHE_BYTES", most)
        engine.asked, aligned[:] = [], []
        export_samples(trained, tmp_path / name, SampleRequest(n=2, sampler="noise", seed=5), measuring)
        runs[name] = (sorted(engine.asked), 28 in aligned, len([*cache.glob("*")]))
    assert runs == {"unkept": ([2, 28], True, 0), "first": ([2, 28], True, 3), "second": ([], False, 3)}
    assert contents(tmp_path / "unkept") == contents(tmp_path / "first") == contents(tmp_path / "second")
    assert {path.suffix for path in cache.iterdir()} == {".safetensors"}, "nothing is left in the making"


def test_errors_that_are_kept_are_those_of_these_images_states_and_engine(
    bench: Evaluator,
    rep: HyperRepresentation,
    learned: dict[str, Zoo],
    images: Images,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = {field.name: getattr(bench, field.name) for field in dataclasses.fields(Evaluator)}

    def align(zoo: Zoo) -> TrainingStates:
        return TrainingStates.from_representation(rep, zoo)

    for _ in range(2):
        ours = Evaluator(**fields | {"states": align(learned["train"])})
        assert torch.equal(ours.train_errors, bench.train_errors)
        assert ours.train_errors.dtype == torch.bool
    measured: list[Evaluator] = []

    def note(evaluator: Evaluator, weights: Tensor) -> Tensor:
        measured.append(evaluator)
        return torch.zeros(28, len(evaluator.images.labels("test")), dtype=torch.uint8)

    monkeypatch.setattr(Evaluator, "_measure_predictions", note)
    moved = dataclasses.replace(learned["train"], weights=learned["train"].weights + 1e-6)
    other_scale = dataclasses.replace(rep.alignment, scale=2 * rep.scale)
    changes: list[dict[str, object]] = [
        {"images": images},
        {"engine": OtherEngine(num_workers=1)},
        {"engine": OtherPath(num_workers=1)},
        {"training": dataclasses.replace(bench.training, activation="relu")},
        {"states": align(moved)},
        {"states": dataclasses.replace(align(learned["train"]), alignment=other_scale)},
    ]
    for change in ({}, *changes):
        assert len(Evaluator(**fields | change).train_errors) == 28
    assert len(measured) == len(changes), "what was kept is of these states, images and engine alone"


def test_a_second_protocol_runs_no_network_that_the_first_has_run_and_measures_the_same(
    bench: Evaluator, rep: HyperRepresentation, learned: dict[str, Zoo], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = rep.align(learned["test"].weights)[:3]
    population = Population(name="some", description="", weights=weights, num_finetuned=2)
    aligned, align = [], Alignment.align

    def counted(alignment: Alignment, weights: Tensor) -> Tensor:
        aligned.append(len(weights))
        return align(alignment, weights)

    monkeypatch.setattr(Alignment, "align", counted)

    def evaluate(max_ensemble_size: int, budget: str) -> tuple[PopulationResult, list[int]]:
        monkeypatch.setenv("MODELZOO_CACHE_BYTES", budget)
        engine = CountingEngine(num_workers=1)
        engine.asked, aligned[:] = [], []
        recipe = dataclasses.replace(bench.recipe, max_ensemble_size=max_ensemble_size)
        fields = {field.name: getattr(bench, field.name) for field in dataclasses.fields(Evaluator)}
        evaluator = Evaluator(**fields | {"engine": engine, "recipe": recipe})
        result = evaluate_population(population, evaluator)
        assert aligned.count(3) == 1, "novelty and pairwise distance share the aligned models"
        return dataclasses.replace(result, cpu_seconds=None), engine.asked

    expected: list[tuple[int, list[int]]] = [(3, [3, 28, 2]), (3, []), (1, []), (4, [])]
    for size, asked in expected:
        uncached, _ = evaluate(size, "0")
        assert evaluate(size, "") == (uncached, asked)
    assert torch.equal(bench.measure_accuracy(weights, "validation"), bench.measure_accuracy(weights, "validation"))
    assert bench.predict(weights).dtype == torch.uint8


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_text("")]
)
def test_what_was_cut_in_the_cache_is_measured_again(spoil: object, cache: Path) -> None:
    assert callable(spoil)
    read_or_measure("a test", KEY, lambda: torch.arange(5))
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    spoil(path)
    assert torch.equal(read_or_measure("a test", KEY, lambda: torch.arange(5)), torch.arange(5))
    assert path.read_bytes() == whole


def test_where_nothing_can_be_kept_it_is_measured_each_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("a file where the folder would be")
    assert [int(read_or_measure("a test", KEY, partial(torch.tensor, i))) for i in range(2)] == [0, 1]
    monkeypatch.setenv("MODELZOO_CACHE", str(cache.with_name("other")))
    monkeypatch.setenv("MODELZOO_CACHE_BYTES", "3")
    assert [int(read_or_measure("a test", KEY, partial(torch.tensor, i))) for i in range(2)] == [0, 1]
    monkeypatch.setenv("MODELZOO_CACHE_BYTES", "many")
    with pytest.raises(ArgumentError) as caught:
        read_or_measure("a test", KEY, lambda: torch.tensor(0))
    assert str(caught.value) == "MODELZOO_CACHE_BYTES must be a number of bytes, e.g. 20000000000; got 'many'"
