"""Populations: distances against brute force, fine-tuning against the engine."""

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.steps import StepProgress

from modelzoo_datasets import load_zoo
from modelzoo_datasets.analysis import find_nearest, fine_tune
from modelzoo_datasets.engines import Engine, Job, NetworkSpec
from modelzoo_datasets.images import Images
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import keyed_generator

TRAINING = Training(
    epochs=2,
    batch_size=32,
    activation="tanh",
    init="kaiming_uniform",
    optimizer="adam",
    lr=1e-3,
)


def test_the_nearest_is_what_trying_all_pairs_finds() -> None:
    draws = keyed_generator(0, "weights")
    weights, others = (torch.randn(n, 40, generator=draws) for n in (300, 17))  # 300: two chunks
    scale = torch.rand(40, generator=draws) + 0.5
    distance, index = find_nearest(weights, others, scale)
    for i, w in enumerate(weights):
        tried = [(((w - other) / scale).double() ** 2).mean().sqrt().item() for other in others]
        assert index[i] == min(range(17), key=tried.__getitem__)
        assert distance[i].item() == pytest.approx(min(tried), rel=1e-5)


def test_a_copy_is_at_distance_exactly_zero() -> None:
    others = torch.randn(9, 40, generator=keyed_generator(1, "weights"))
    distance, index = find_nearest(others[[4, 2]], others, torch.full((40,), 0.3))
    assert index.tolist() == [4, 2] and distance.tolist() == [0, 0]


def test_a_step_of_one_standard_deviation_in_every_weight_is_at_distance_one() -> None:
    scale = torch.rand(40, generator=keyed_generator(2, "scale")) + 0.5
    distance, _ = find_nearest(scale[None].clone(), torch.zeros(1, 40), scale)
    assert distance.item() == pytest.approx(1)


def test_the_zero_shot_column_is_the_evaluation_of_the_weights_given(
    engine: Engine, few_images: Images, tiny_dataset: Path
) -> None:
    weights = load_zoo(tiny_dataset, "seed", split="test", epochs=[2]).weights
    before = weights.clone()
    accuracy, _ = fine_tune(engine, "cnn-s", few_images, weights, TRAINING, [1, 2, 3])
    networks = [NetworkSpec("tanh")] * 3
    expected = engine.evaluate("cnn-s", few_images, weights, networks, "test").accuracy
    assert accuracy.shape == (3, 3) and accuracy.dtype == torch.float64
    assert torch.equal(accuracy[:, 0], expected)
    assert torch.equal(weights, before), "fine-tuning changed what it was given"


def test_fine_tuning_is_training_from_the_weights_given(engine: Engine, few_images: Images, tiny_dataset: Path) -> None:
    weights = load_zoo(tiny_dataset, "seed", split="validation", epochs=[1]).weights
    accuracy, last = fine_tune(engine, "cnn-s", few_images, weights, TRAINING, [5, 6, 7])
    for row, end, start, seed in zip(accuracy, last, weights, (5, 6, 7), strict=True):
        job = Job(training=TRAINING, seed=seed, initial_weights=start)
        states = list(engine.train("cnn-s", few_images, [job], metrics_on=("test",)))
        assert row.tolist() == [state.metrics["test_acc"].item() for state in states]
        assert torch.equal(end, states[-1].weights[0])


def test_the_seed_of_a_fine_tuned_model_matters_and_its_neighbours_do_not(
    engine: Engine, few_images: Images, tiny_dataset: Path
) -> None:
    start = load_zoo(tiny_dataset, "seed", split="test", epochs=[0]).weights[:1].repeat(4, 1)
    training = dataclasses.replace(TRAINING, lr=1e-2)
    accuracy, last = fine_tune(engine, "cnn-s", few_images, start, training, [1, 2, 3, 1])
    assert torch.equal(accuracy[0], accuracy[3]) and torch.equal(last[0], last[3])
    assert len({tuple(row.tolist()) for row in accuracy}) > 1
    assert len(set(accuracy[:, 0].tolist())) == 1


def test_fine_tuning_needs_one_seed_per_model(engine: Engine, few_images: Images) -> None:
    with pytest.raises(ValueError, match="argument 2 is longer than argument 1"):
        fine_tune(engine, "cnn-s", few_images, torch.zeros(2, 2464), TRAINING, [1])


def test_progress_counts_finished_models(engine: Engine, few_images: Images) -> None:
    told: list[tuple[str, int, int | None]] = []
    fine_tune(
        engine,
        "cnn-s",
        few_images,
        torch.zeros(2, 2464),
        TRAINING,
        [1, 2],
        progress=StepProgress(lambda *step: told.append(step)),
        what="tuning",
    )
    assert list(dict.fromkeys(told)) == [("tuning", 0, 2), ("tuning", 1, 2), ("tuning", 2, 2)]
