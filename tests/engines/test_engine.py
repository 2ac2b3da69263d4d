"""The reference engine against plain PyTorch, and the independence of its models from each other."""

import dataclasses
import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training_by_hand import (
    JOBS,
    SPLITS,
    TRAINING,
    collected,
    loaded,
    measured,
    population,
    trained_by_hand,
    trajectories,
)
from torch import nn

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.engines import ENGINES, Job, NetworkSpec, TorchEngine, get_engine, one_thread
from modelzoo_datasets.engines.common import make_optimizer, tabulate_learning_rates
from modelzoo_datasets.engines.torch_engine import ModelInputs, train_model
from modelzoo_datasets.errors import DeviceError
from modelzoo_datasets.images import Images, Split
from modelzoo_datasets.seeds import keyed_generator


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "dropout": 0.3},
        {"optimizer": "sgd", "dropout": 0.3},
        {"optimizer": "sgd", "schedule": "onecycle", "momentum": 0.5, "lr": 0.05},
        {"optimizer": "adam", "schedule": "onecycle"},
        {"augmentation": "crop-flip"},
        {"augmentation": "flip-rotate", "dropout": 0.1},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_training_is_the_plain_loop(changes: dict[str, Any], engine: TorchEngine, few_images: Images) -> None:
    training = dataclasses.replace(TRAINING, **changes)
    job = Job(training=training, seed=5)
    states = collected(engine, few_images, [job])[0]
    assert len(few_images.splits["train"]) % training.batch_size > 0, "the last batch is smaller"
    weights, running = trained_by_hand(few_images, job, states.weights[0])
    torch.testing.assert_close(states.weights, torch.stack(weights), rtol=1e-4, atol=1e-5)
    assert (states.weights[1] - states.weights[0]).abs().max() > 1e-3
    for epoch, (loss, accuracy) in enumerate(running, start=1):
        assert states.metrics["train_loss"][epoch].item() == pytest.approx(loss, rel=1e-5)
        assert states.metrics["train_acc"][epoch].item() == accuracy


def test_epoch_0_is_the_initialisation_of_the_seed(engine: TorchEngine, few_images: Images) -> None:
    for job, states in zip(JOBS, collected(engine, few_images, JOBS, ()).values(), strict=True):
        module = get_architecture("cnn-s").module("tanh")
        initialize_weights(module, job.training.init, keyed_generator(job.seed, "init"))
        initial = nn.utils.parameters_to_vector(module.parameters())
        assert torch.equal(states.weights[0], initial)


def test_metrics_are_those_of_the_plain_module_in_eval_mode(engine: TorchEngine, few_images: Images) -> None:
    for index, states in collected(engine, few_images, JOBS).items():
        for epoch, weights in enumerate(states.weights):
            module = loaded(JOBS[index].training, weights)
            splits = {"validation": "val", "test": "test"} | ({"train": "train"} if not epoch else {})
            for split, prefix in splits.items():
                loss, accuracy = measured(module, few_images, split)
                assert states.metrics[f"{prefix}_loss"][epoch].item() == pytest.approx(loss, rel=1e-5)
                assert states.metrics[f"{prefix}_acc"][epoch].item() == pytest.approx(accuracy)


def test_metrics_that_were_not_asked_for_are_nan_and_change_nothing_else(
    engine: TorchEngine, few_images: Images
) -> None:
    everything = collected(engine, few_images, JOBS[:1])[0]
    some = collected(engine, few_images, JOBS[:1], ("test",))[0]
    assert torch.equal(some.weights, everything.weights)
    for name in ("test_loss", "test_acc"):
        assert torch.equal(some.metrics[name], everything.metrics[name])
    for name in ("val_loss", "val_acc"):
        assert some.metrics[name].isnan().all()


def test_a_model_does_not_depend_on_its_neighbors(engine: TorchEngine, few_images: Images) -> None:
    together = trajectories(engine, few_images, JOBS)
    backwards = trajectories(engine, few_images, JOBS[::-1])
    for index, job in enumerate(JOBS):
        assert trajectories(engine, few_images, [job])[0] == together[index]
        assert backwards[len(JOBS) - 1 - index] == together[index]


def test_a_model_does_not_depend_on_the_number_of_processes(engine: TorchEngine, few_images: Images) -> None:
    two = TorchEngine(num_workers=2)
    assert trajectories(two, few_images, JOBS) == trajectories(engine, few_images, JOBS)
    weights, networks = population(few_images, engine)
    for split in SPLITS:
        here = engine.evaluate("cnn-s", few_images, weights, networks, split)
        there = two.evaluate("cnn-s", few_images, weights, networks, split)
        for name in ("loss", "accuracy", "recall"):
            assert getattr(here, name).numpy().tobytes() == getattr(there, name).numpy().tobytes()


def test_a_model_does_not_depend_on_the_threads_of_the_process(engine: TorchEngine, few_images: Images) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(trajectories(engine, few_images, JOBS[:1]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_other_seeds_give_other_models(engine: TorchEngine, few_images: Images) -> None:
    jobs = [Job(training=TRAINING, seed=seed) for seed in range(3)]
    assert len(set(trajectories(engine, few_images, jobs).values())) == 3


def test_no_global_generator_is_touched(engine: TorchEngine, few_images: Images) -> None:
    def state() -> tuple[bytes, str, object]:
        numpy_state = repr(np.random.get_state(legacy=False))  # noqa: NPY002 (must not change)
        return torch.get_rng_state().numpy().tobytes(), numpy_state, random.getstate()

    before = state()
    trajectories(engine, few_images, JOBS)
    assert state() == before


def test_starting_from_the_initial_weights_of_a_seed_is_the_fresh_run(engine: TorchEngine, few_images: Images) -> None:
    for job in JOBS:
        fresh = collected(engine, few_images, [job])[0]
        start = fresh.weights[0].clone()
        again = trajectories(engine, few_images, [dataclasses.replace(job, initial_weights=start)])
        assert again == trajectories(engine, few_images, [job])
        assert torch.equal(start, fresh.weights[0]), "the weights given were changed"


def test_training_goes_on_from_given_weights_with_a_fresh_optimizer(engine: TorchEngine, few_images: Images) -> None:
    for optimizer in ("adam", "sgd"):
        training = dataclasses.replace(TRAINING, optimizer=optimizer)
        first = collected(engine, few_images, [Job(training=training, seed=1)])[0]
        job = Job(training=training, seed=2, initial_weights=first.weights[-1])
        further = collected(engine, few_images, [job])[0]
        expected, _ = trained_by_hand(few_images, job, first.weights[-1].clone())
        assert torch.equal(further.weights[0], first.weights[-1])
        torch.testing.assert_close(further.weights, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_evaluation_is_the_plain_module(engine: TorchEngine, few_images: Images) -> None:
    weights, networks = population(few_images, engine)
    found = engine.evaluate("cnn-s", few_images, weights, networks, "test")
    assert found.loss.dtype == found.accuracy.dtype == torch.float64
    for i, job in enumerate(JOBS):
        expected = measured(loaded(job.training, weights[i]), few_images, "test")
        assert (found.loss[i].item(), found.accuracy[i].item()) == pytest.approx(expected, rel=1e-5)


def test_evaluation_takes_more_images_than_one_batch(engine: TorchEngine, images: Images, few_images: Images) -> None:
    weights, networks = population(few_images, engine)
    found = engine.evaluate("cnn-s", images, weights[:1], networks[:1], "validation")
    expected = measured(loaded(JOBS[0].training, weights[0]), images, "validation")
    assert (found.loss.item(), found.accuracy.item()) == pytest.approx(expected, rel=1e-5)


def test_recall_is_the_share_of_each_class_that_is_recognised(engine: TorchEngine, few_images: Images) -> None:
    weights, networks = population(few_images, engine)
    labels = few_images.labels("test")
    found = engine.evaluate("cnn-s", few_images, weights, networks, "test")
    logits = dict(engine.compute_logits("cnn-s", few_images, weights, networks, "test"))
    for model, recall in enumerate(found.recall):
        guesses = logits[model].argmax(dim=1).tolist()
        for name, share in enumerate(recall.tolist()):
            hits = [guess == name for guess, label in zip(guesses, labels.tolist(), strict=True) if label == name]
            assert share == sum(hits) / len(hits)
        counts = labels.bincount(minlength=10)
        assert found.accuracy[model].item() == pytest.approx((recall @ counts.double()).item() / len(labels))


def test_a_class_without_images_has_no_recall(engine: TorchEngine, few_images: Images) -> None:
    test = few_images.splits["test"]
    kept = test.labels != 3
    without = {**few_images.splits, "test": Split(test.pixels[kept], test.labels[kept])}
    weights, networks = population(few_images, engine)
    found = engine.evaluate("cnn-s", dataclasses.replace(few_images, splits=without), weights, networks, "test")
    assert found.recall.isnan().any(dim=0).tolist() == [name == 3 for name in range(10)]


def test_trained_states_have_the_recall_of_their_evaluation(engine: TorchEngine, few_images: Images) -> None:
    for index, states in collected(engine, few_images, JOBS, ("test",)).items():
        network = NetworkSpec(JOBS[index].training.activation, JOBS[index].training.dropout)
        found = engine.evaluate("cnn-s", few_images, states.weights, [network] * len(states.weights), "test")
        assert torch.equal(states.recall, found.recall)
        assert torch.equal(states.metrics["test_acc"], found.accuracy)
        assert torch.equal(states.metrics["test_loss"], found.loss)


def test_what_the_images_have_no_split_for_is_nan(engine: TorchEngine, few_images: Images) -> None:
    without = {split: few_images.splits[split] for split in ("train", "test")}
    whole = collected(engine, few_images, JOBS[:1])[0]
    found = collected(engine, dataclasses.replace(few_images, splits=without), JOBS[:1])[0]
    assert torch.equal(found.weights, whole.weights)
    for name, column in found.metrics.items():
        assert column.isnan().all() if name.startswith("val") else torch.equal(column, whole.metrics[name])


def test_outputs_are_those_of_the_plain_module(engine: TorchEngine, few_images: Images) -> None:
    weights, networks = population(few_images, engine)
    here = dict(engine.compute_logits("cnn-s", few_images, weights, networks, "test"))
    there = dict(TorchEngine(num_workers=2).compute_logits("cnn-s", few_images, weights, networks, "test"))
    assert sorted(here) == sorted(there) == list(range(len(JOBS)))
    for index, job in enumerate(JOBS):
        module = get_architecture("cnn-s").module(job.training.activation, job.training.dropout).eval()
        nn.utils.vector_to_parameters(weights[index].clone(), module.parameters())
        with torch.no_grad(), one_thread():
            expected = module.to(memory_format=torch.channels_last)(few_images.inputs("test"))
        assert torch.equal(here[index], expected) and torch.equal(there[index], expected)


def test_images_normalized_once_and_batch_by_batch_give_the_same_bits(few_images: Images) -> None:
    once, each = ModelInputs.from_images(few_images, SPLITS), ModelInputs.from_images(few_images, ())
    assert set(once.normalized) == set(SPLITS) and not each.normalized
    for job in JOBS[:2]:
        states = (train_model("cnn-s", inputs, job, SPLITS) for inputs in (once, each))
        for a, b in zip(*states, strict=True):
            assert torch.equal(a.weights, b.weights) and torch.equal(a.recall, b.recall)
            assert np.array_equal(list(a.metrics.values()), list(b.metrics.values()), equal_nan=True)


def test_two_concurrent_trainings_do_not_interfere(engine: TorchEngine, few_images: Images) -> None:
    train = few_images.splits["train"]
    other = dataclasses.replace(
        few_images, splits={**few_images.splits, "train": Split(train.pixels, 9 - train.labels)}
    )
    alone = [[s.weights for s in engine.train("cnn-s", i, JOBS, metrics_on=())] for i in (few_images, other)]
    streams = [engine.train("cnn-s", i, JOBS, metrics_on=()) for i in (few_images, other)]
    for a, b, first, second in zip(*streams, *alone, strict=True):
        assert torch.equal(a.weights, first) and torch.equal(b.weights, second)


def test_a_resnet_trains_and_counts_its_steps(engine: TorchEngine) -> None:
    draws = keyed_generator(0, "noise")
    pixels = torch.randint(256, (16, 3, 32, 32), generator=draws).to(torch.uint8)
    noise = Images("noise", 10, (0.5,) * 3, (0.25,) * 3, {"train": Split(pixels, torch.arange(16) % 10)})
    training = dataclasses.replace(
        TRAINING,
        epochs=1,
        batch_size=6,
        activation="relu",
        optimizer="sgd",
        schedule="onecycle",
        augmentation="crop-flip",
    )
    states = collected(engine, noise, [Job(training=training, seed=0)], (), architecture="resnet18")[0]
    architecture = get_architecture("resnet18")
    counters = [slot for slot in architecture.layout.slots if slot.name.endswith("num_batches_tracked")]
    assert counters
    for slot in counters:
        assert slot.select(states.weights).flatten().tolist() == [0, 3]
    assert states.weights.isfinite().all() and states.metrics["train_loss"][1] > 0
    assert not torch.equal(states.weights[0], states.weights[1])


def test_nothing_to_do_is_done(engine: TorchEngine, few_images: Images) -> None:
    for some in (engine, TorchEngine(num_workers=2)):
        assert list(some.train("cnn-s", few_images, [], metrics_on=SPLITS)) == []
        found = some.evaluate("cnn-s", few_images, torch.empty(0, 2464), [], "test")
        assert found.loss.shape == found.accuracy.shape == (0,) and found.recall.shape == (0, 10)


def test_engines_are_had_by_name() -> None:
    for name in ENGINES:
        if name != "cuda" or torch.cuda.is_available():
            assert get_engine(name, num_threads=1).name in ENGINES
    chosen = get_engine("torch", num_threads=3)
    assert isinstance(chosen, TorchEngine) and chosen.num_workers == 3
    everything = get_engine("torch")
    assert isinstance(everything, TorchEngine)
    assert everything.num_workers == len(os.sched_getaffinity(0))


def test_an_unknown_engine_is_answered_with_those_there_are() -> None:
    with pytest.raises(DeviceError) as caught:
        get_engine("jax")
    assert str(caught.value) == f"unknown engine 'jax'; this release has {', '.join(ENGINES)}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError) as caught:
        get_engine("cuda")
    assert str(caught.value) == "engine 'cuda': torch sees no CUDA GPU here; use --engine native or torch"


def test_fewer_than_one_thread_is_refused() -> None:
    with pytest.raises(DeviceError) as caught:
        get_engine("torch", num_threads=0)
    assert str(caught.value) == "threads must be at least 1, got 0"


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
def test_tables_of_rates_have_the_bits_of_torchs_own_steps(optimizer: str, schedule: str) -> None:
    for lr, steps in ((3e-4, 1), (0.05, 2), (1 / 3, 3), (7e-3, 4), (3e-4, 7), (0.1, 10), (0.05, 335)):
        base = dataclasses.replace(TRAINING, optimizer=optimizer, schedule=schedule, lr=lr, momentum=0.8)
        training = dataclasses.replace(base, epochs=1, batch_size=10)
        stepped, scheduler = make_optimizer([nn.Parameter(torch.zeros(1))], training, 10 * steps)
        group, rows = stepped.param_groups[0], []
        for step in range(steps if scheduler is not None else 1):
            if scheduler is not None and step > 0:
                stepped.step()
                scheduler.step()
            rows.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))
        assert torch.equal(tabulate_learning_rates(training, 10 * steps), torch.tensor(rows, dtype=torch.float64))
