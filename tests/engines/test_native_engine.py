"""The native engine against the reference engine, and the independence of its models from each other."""

import dataclasses
import hashlib
import logging
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from helpers.training_by_hand import JOBS, SPLITS, TRAINING, collected, population, trajectories
from torch import Tensor

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines import Engine, Job, NativeEngine, NetworkSpec, States, TorchEngine, get_engine
from modelzoo_datasets.engines.native import native_engine, native_trainer
from modelzoo_datasets.engines.native.bindings import KernelImages
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.images import Images, Split
from modelzoo_datasets.seeds import keyed_generator

PUBLISHED = dataclasses.replace(TRAINING, init="uniform", lr=3e-4, weight_decay=0.0, batch_size=10)
FURTHER = tuple(
    Job(training=dataclasses.replace(TRAINING, **changes), seed=5)
    for changes in (
        {"optimizer": "sgd", "schedule": "onecycle", "momentum": 0.5, "lr": 0.05},
        {"schedule": "onecycle"},
        {"augmentation": "crop-flip"},
        {"augmentation": "flip-rotate", "dropout": 0.1},
        {"optimizer": "adamw", "dropout": 0.3, "batch_size": 1, "epochs": 1},
        {"optimizer": "sgd", "momentum": 0.0, "batch_size": 1000},
    )
)


@pytest.fixture(scope="module")
def native() -> NativeEngine:
    return NativeEngine(num_threads=1)


def close(found: States, expected: States) -> None:
    """Assert that most weights and the metrics are equal to rounding, and all weights to a fraction of their updates.

    Where two cells of a pooling window are equal but for rounding another one may win, and some weights go other ways.
    """
    moved = (expected.weights - expected.weights[0]).norm(dim=1)
    assert ((found.weights - expected.weights).norm(dim=1) <= 1e-3 * moved).all()
    assert ((found.weights - expected.weights).abs().median(dim=1).values < 2e-6).all()
    for name, column in expected.metrics.items():
        torch.testing.assert_close(found.metrics[name], column, rtol=1e-5, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(found.recall, expected.recall, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(
    "job", [*JOBS, *FURTHER], ids=lambda job: f"{job.training.activation}-{job.training.optimizer}"
)
def test_training_is_that_of_the_reference(
    job: Job, native: NativeEngine, engine: TorchEngine, few_images: Images
) -> None:
    close(collected(native, few_images, [job])[0], collected(engine, few_images, [job])[0])


def test_saturated_units_train_as_in_the_reference(
    native: NativeEngine, engine: TorchEngine, few_images: Images
) -> None:
    """Run 500 steps of Adam on the published init, whose saturated units would reveal noise in their gradients."""
    job = Job(training=dataclasses.replace(PUBLISHED, epochs=20), seed=1)
    close(collected(native, few_images, [job])[0], collected(engine, few_images, [job])[0])


@pytest.mark.parametrize(("activation", "optimizer", "dropout"), [("tanh", "adam", 0.0), ("relu", "sgd", 0.2)])
def test_twins_are_those_of_the_reference(
    activation: str,
    optimizer: str,
    dropout: float,
    native: NativeEngine,
    engine: TorchEngine,
    few_images: Images,
) -> None:
    values = {"activation": activation, "optimizer": optimizer, "dropout": dropout, "epochs": 3}
    parents = dataclasses.replace(TRAINING, **values)
    start = collected(engine, few_images, [Job(training=parents, seed=0)], ())[0].weights[-1]
    job = Job(training=parents, seed=3, initial_weights=start, sparsify=True)
    ours, theirs = (list(e.train("cnn-s", few_images, [job], metrics_on=SPLITS)) for e in (native, engine))
    for a, b in zip(ours, theirs, strict=True):
        assert a.variational is not None and b.variational is not None
        torch.testing.assert_close(a.variational, b.variational, rtol=1e-3, atol=2e-4)
        assert ((a.weights == 0) == (b.weights == 0)).all()
        for name, column in b.metrics.items():
            torch.testing.assert_close(a.metrics[name], column, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert torch.equal(ours[0].weights[0], start)
    assert ours[-1].metrics["sparsity"].item() > 0.02


def twins(some: Engine, images: Images, jobs: list[Job]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for states in some.train("cnn-s", images, jobs, metrics_on=("test",)):
        assert states.variational is not None
        content = torch.cat([states.variational.flatten(), states.weights.flatten()])
        found.setdefault(states.jobs.item(), []).append(content.numpy().tobytes())  # type: ignore[call-overload]
    return found


def test_a_model_is_the_same_alone_in_any_cohort_and_on_any_threads(native: NativeEngine, few_images: Images) -> None:
    jobs = [*JOBS, *FURTHER]
    together = trajectories(native, few_images, jobs)
    assert trajectories(NativeEngine(num_threads=3), few_images, jobs[::-1]) == {
        len(jobs) - 1 - index: bits for index, bits in together.items()
    }
    for index in (1, 3, 7):
        assert trajectories(native, few_images, [jobs[index]])[0] == together[index]


def test_a_twin_is_the_same_alone_and_in_a_cohort(native: NativeEngine, few_images: Images) -> None:
    weights, _ = population(few_images, native)
    jobs = [
        Job(training=dataclasses.replace(job.training, epochs=2), seed=9, initial_weights=start, sparsify=True)
        for job, start in zip(JOBS, weights, strict=True)
    ]
    together = twins(NativeEngine(num_threads=2), few_images, jobs)
    assert twins(native, few_images, jobs[2:3])[0] == together[2]


def test_how_many_images_one_call_takes_changes_nothing(
    native: NativeEngine, few_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [JOBS[1], FURTHER[3]]
    whole = trajectories(native, few_images, jobs)
    monkeypatch.setattr(native_trainer, "_IMAGES_PER_CALL", 70)
    assert trajectories(native, few_images, jobs) == whole


def test_another_process_gives_the_same_bits(native: NativeEngine, few_images: Images) -> None:
    """Test that results do not depend on what a process did before, as after a resume."""
    script = (
        "import dataclasses, hashlib, pathlib\n"
        "from helpers.training_by_hand import JOBS, trajectories\n"
        "from modelzoo_datasets.engines import NativeEngine\n"
        "from modelzoo_datasets.images import Split, load_images\n"
        "images = load_images('fashion-mnist-5k', pathlib.Path('none'))\n"
        "sizes = {'train': 250, 'validation': 70, 'test': 60}\n"
        "splits = {k: Split(images.splits[k].pixels[:n], images.splits[k].labels[:n]) for k, n in sizes.items()}\n"
        "found = trajectories(NativeEngine(2), dataclasses.replace(images, splits=splits), JOBS[1:2])\n"
        "print(hashlib.sha256(b''.join(found[0])).hexdigest())\n"
    )
    here = trajectories(native, few_images, JOBS[1:2])[0]
    done = subprocess.run([sys.executable, "-c", script], cwd="tests", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(b"".join(here)).hexdigest()


def test_evaluation_is_that_of_the_reference(native: NativeEngine, engine: TorchEngine, few_images: Images) -> None:
    weights, networks = population(few_images, engine)
    for split in SPLITS:
        ours = native.evaluate("cnn-s", few_images, weights, networks, split)
        theirs = engine.evaluate("cnn-s", few_images, weights, networks, split)
        torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-6)
        assert torch.equal(ours.accuracy, theirs.accuracy) and torch.equal(ours.recall, theirs.recall)
    found = dict(native.compute_logits("cnn-s", few_images, weights, networks, "test"))
    for index, expected in engine.compute_logits("cnn-s", few_images, weights, networks, "test"):
        torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-4)


def test_missing_splits_classes_and_metrics_are_nan(native: NativeEngine, few_images: Images) -> None:
    test = few_images.splits["test"]
    kept = test.labels != 3
    splits = {"train": few_images.splits["train"], "test": Split(test.pixels[kept], test.labels[kept])}
    found = collected(native, dataclasses.replace(few_images, splits=splits), JOBS[:1])[0]
    assert found.metrics["val_loss"].isnan().all() and found.metrics["train_loss"].isfinite().all()
    assert found.recall.isnan().any(dim=0).tolist() == [name == 3 for name in range(10)]
    assert collected(native, few_images, JOBS[:1], ())[0].metrics["test_acc"].isnan().all()


def test_color_images_and_the_medium_network_train_too(native: NativeEngine, engine: TorchEngine) -> None:
    draws = keyed_generator(0, "colors")
    for name in ("cnn-m", "cnn-s-rgb"):
        shape = get_architecture(name).input_shape
        pixels = torch.randint(256, (60, *shape), generator=draws).to(torch.uint8)
        split = Split(pixels, torch.arange(60) % 10)
        noise = Images("noise", 10, (0.5, 0.4, 0.3), (0.25, 0.3, 0.2), {"train": split, "test": split})
        job = Job(training=dataclasses.replace(TRAINING, dropout=0.1, batch_size=7), seed=2)
        ours, theirs = (collected(e, noise, [job], SPLITS, architecture=name)[0] for e in (native, engine))
        close(ours, theirs)


def test_models_that_diverge_say_so_as_in_the_reference(
    native: NativeEngine, engine: TorchEngine, few_images: Images
) -> None:
    values: dict[str, Any] = {"optimizer": "sgd", "lr": 1e20, "activation": "relu"}
    job = Job(training=dataclasses.replace(TRAINING, **values), seed=1)
    ours, theirs = (collected(e, few_images, [job])[0] for e in (native, engine))
    assert not ours.weights[-1].isfinite().all() and not theirs.weights[-1].isfinite().all()
    assert ours.metrics["test_loss"][-1].isnan() and theirs.metrics["test_loss"][-1].isnan()
    assert ours.metrics["test_acc"][-1] == theirs.metrics["test_acc"][-1]


def test_nothing_is_written_into_what_was_given(native: NativeEngine, few_images: Images) -> None:
    weights, networks = population(few_images, native)
    before = weights.clone()
    native.evaluate("cnn-s", few_images, weights, networks, "test")
    collected(native, few_images, [Job(training=TRAINING, seed=1, initial_weights=weights[0])])
    assert torch.equal(weights, before)


def test_the_longest_trainings_begin_first(native: NativeEngine, few_images: Images) -> None:
    jobs = [Job(training=dataclasses.replace(TRAINING, epochs=epochs), seed=1) for epochs in (1, 3, 2)]
    order = [states.jobs.item() for states in native.train("cnn-s", few_images, jobs, metrics_on=())]
    assert order == [1] * 4 + [2] * 3 + [0] * 2


def threads() -> int:
    return threading.active_count()


def test_closing_stops_all_threads(few_images: Images) -> None:
    before, job = threads(), Job(training=dataclasses.replace(TRAINING, epochs=100_000), seed=1)
    stream = NativeEngine(num_threads=2).train("cnn-s", few_images, [job] * 4, metrics_on=())
    next(stream)
    assert threads() == before + 2
    stream.close()
    assert threads() == before


def test_a_failing_job_stops_the_others_and_its_error_comes_out(few_images: Images) -> None:
    before = threads()
    jobs = [Job(training=dataclasses.replace(TRAINING, epochs=100_000), seed=1), Job(training=TRAINING, seed=1)]
    jobs[1] = dataclasses.replace(jobs[1], initial_weights=torch.zeros(3))
    with pytest.raises(FormatError, match="expected 2464 weights per model, got 3"):
        list(NativeEngine(num_threads=2).train("cnn-s", few_images, jobs, metrics_on=()))
    assert threads() == before


def test_states_wait_until_they_are_taken(few_images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that a slow consumer bounds the number of states in memory."""
    made: list[int] = []
    real = native_trainer.train_network

    def counting(*arguments: Any) -> Any:
        for state in real(*arguments):
            made.append(state.epoch)
            yield state

    monkeypatch.setattr(native_engine, "train_network", counting)
    job = Job(training=dataclasses.replace(TRAINING, epochs=200), seed=1)
    stream = NativeEngine(num_threads=1).train("cnn-s", few_images, [job], metrics_on=())
    next(stream)
    deadline = threading.Event()
    deadline.wait(1.5)
    assert len(made) <= native_engine._QUEUE_SIZE + 2
    stream.close()


def test_other_networks_go_to_the_torch_engine_and_one_line_says_why(
    native: NativeEngine, caplog: pytest.LogCaptureFixture, few_images: Images
) -> None:
    native_engine._warnings.clear()
    with caplog.at_level(logging.WARNING):
        assert isinstance(native.resolve("res-cnn"), TorchEngine)
        found = collected(native, few_images, JOBS[:1], (), architecture="res-cnn")[0]
    assert [record.getMessage() for record in caplog.records] == [
        "res-cnn is trained by the torch engine instead of the native one: "
        "the input of res1_pool is not the output of the layer before it"
    ]
    expected = collected(TorchEngine(1), few_images, JOBS[:1], (), architecture="res-cnn")[0]
    assert torch.equal(found.weights, expected.weights)
    assert native.resolve("cnn-s") is native


def test_nothing_to_do_is_done(native: NativeEngine, few_images: Images) -> None:
    assert list(native.train("cnn-s", few_images, [], metrics_on=SPLITS)) == []
    found = native.evaluate("cnn-s", few_images, torch.empty(0, 2464), [], "test")
    assert found.loss.shape == (0,) and found.recall.shape == (0, 10)
    with pytest.raises(ValueError, match="expected one network per row of the weights; got 1 and 2"):
        native.evaluate("cnn-s", few_images, torch.zeros(2, 2464), [NetworkSpec("tanh")], "test")


def test_auto_is_native_on_a_cpu() -> None:
    for name in ("auto", "native"):
        found = get_engine(name, num_threads=2)
        assert get_engine(found) is found
        assert isinstance(found, NativeEngine) and found.num_threads == 2


def test_the_memory_foretold_holds(images: Images) -> None:
    """Compare the estimate with the memory that training adds to a process with loaded images."""
    script = (
        "import resource, sys, pathlib\n"
        "from modelzoo_datasets.engines import Job, get_engine\n"
        "from modelzoo_datasets.images import load_images\n"
        "from helpers.training_by_hand import TRAINING\n"
        "images = load_images('fashion-mnist-5k', pathlib.Path('none'))\n"
        "jobs = [Job(training=TRAINING, seed=seed) for seed in range(4)]\n"
        "engine = get_engine('native', 2)\n"
        "engine.resolve('cnn-s')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for _ in engine.train('cnn-s', images, jobs, metrics_on=('train', 'validation', 'test')): pass\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(1024 * (after - before), engine.estimate_memory('cnn-s', images, jobs))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="tests", capture_output=True, text=True, check=True)
    taken, foretold = map(int, done.stdout.split())
    overhead = 60_000_000  # stacks and arenas of threads, and modules that are first imported in training
    assert taken < foretold + overhead


def test_images_are_turned_into_the_kernels_order(few_images: Images) -> None:
    inputs = few_images.inputs("test")
    pixels = KernelImages.from_tensors(inputs.expand(-1, 3, -1, -1), few_images.labels("test"))
    rows: Tensor = pixels.images[: 60 * 28 * 28 * 3].view(60, 28, 28, 3)
    for channel in range(3):
        assert torch.equal(rows[..., channel], inputs[:, 0])
    assert not pixels.images[60 * 28 * 28 * 3 :].any()
