"""The engine against plain PyTorch, and what a model must not depend on."""

import copy
import dataclasses
import multiprocessing
import os
import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modelzoo_datasets.architectures import get_architecture, initialise
from modelzoo_datasets.engines import ENGINES, Engine, Job, Network, States, get_engine
from modelzoo_datasets.engines.interface import METRICS
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import DeviceError, ModelZooError
from modelzoo_datasets.images import Images
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import generator

ALL = ("train", "validation", "test")
TRAINING = Training(
    epochs=2,
    batch_size=32,
    activation="tanh",
    init="kaiming_uniform",
    optimizer="adam",
    lr=3e-3,
    weight_decay=1e-2,
)
MIXED = (
    TRAINING,
    dataclasses.replace(TRAINING, optimizer="sgd", activation="relu", dropout=0.2, lr=0.03),
    dataclasses.replace(TRAINING, optimizer="adamw", activation="gelu", epochs=1, batch_size=50),
    dataclasses.replace(TRAINING, activation="sigmoid", dropout=0.5, epochs=3, init="normal"),
)
JOBS = tuple(Job(training=training, seed=seed) for seed, training in enumerate(MIXED))


def trajectories(
    engine: Engine, images: Images, jobs: Sequence[Job], metrics_on: Sequence[str] = ALL
) -> dict[int, tuple[bytes, bytes]]:
    """Weights and metrics of every job, as bytes: what must be the same is the same to the bit."""
    found = {}
    for job, states in collected(engine, images, jobs, metrics_on).items():
        metrics = torch.stack([states.metrics[name] for name in METRICS])
        found[job] = (states.weights.numpy().tobytes(), metrics.numpy().tobytes())
    return found


def collected(
    engine: Engine, images: Images, jobs: Sequence[Job], metrics_on: Sequence[str] = ALL
) -> dict[int, States]:
    found: dict[int, States] = {}
    for states in engine.train("cnn-s", images, jobs, metrics_on=metrics_on):
        (job,) = set(states.jobs.tolist())
        assert job not in found
        assert states.epochs.tolist() == list(range(jobs[job].training.epochs + 1))
        found[job] = states
    assert sorted(found) == list(range(len(jobs)))
    return found


class HandDropout(nn.Module):
    """Dropout written out; its draws come from one generator in the order of the layers."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.draws = p, torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        dropped = torch.rand(x.shape, generator=self.draws) < self.p
        return torch.where(dropped, 0.0, x / (1 - self.p))


def by_hand(training: Training) -> nn.Sequential:
    """The small CNN as one would write it down."""
    active = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}
    a, p = active[training.activation], training.dropout
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), a(), HandDropout(p)),
        *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), a(), HandDropout(p)),
        *(nn.Conv2d(6, 4, 2), a(), nn.Flatten()),
        *(nn.Linear(36, 20), a(), HandDropout(p)),
        nn.Linear(20, 10),
    )


def measured(module: nn.Module, images: Images, split: str) -> tuple[float, float]:
    """Loss and accuracy of all images at once, in float64."""
    module, labels = copy.deepcopy(module).double().eval(), images.labels(split)
    with torch.no_grad():
        logits = module(images.inputs(split).double())
    hits = [int(row.argmax()) == label for row, label in zip(logits, labels.tolist(), strict=True)]
    return cross_entropy(logits, labels).item(), sum(hits) / len(hits)


def trained_by_hand(images: Images, job: Job, start: Tensor) -> tuple[list[Tensor], list[tuple[float, float]]]:
    """Weights after every epoch and running train metrics: the loop that everybody writes."""
    t = job.training
    module = by_hand(t)
    nn.utils.vector_to_parameters(start.clone(), module.parameters())
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    more = {"momentum": t.momentum} if t.optimizer == "sgd" else {}
    optimizer = kind[t.optimizer](module.parameters(), lr=t.lr, weight_decay=t.weight_decay, **more)
    images_in, labels = images.inputs("train"), images.labels("train")
    weights, running = [start], []
    for epoch in range(1, t.epochs + 1):
        module.train()
        draws = generator(job.seed, "dropout", epoch)
        for layer in module.modules():
            if isinstance(layer, HandDropout):
                layer.draws = draws
        order = torch.randperm(len(labels), generator=generator(job.seed, "order", epoch))
        loss_sum, correct = 0.0, 0
        for first in range(0, len(labels), t.batch_size):
            index = order[first : first + t.batch_size]
            optimizer.zero_grad()
            logits = module(images_in[index])
            loss = cross_entropy(logits, labels[index])
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(index)
            correct += int((logits.argmax(dim=1) == labels[index]).sum())
        running.append((loss_sum / len(labels), correct / len(labels)))
        weights.append(nn.utils.parameters_to_vector(module.parameters()).detach())
    return weights, running


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_is_the_plain_loop(optimizer: str, dropout: float, engine: TorchEngine, few_images: Images) -> None:
    training = dataclasses.replace(TRAINING, optimizer=optimizer, dropout=dropout)
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
        initialise(module, job.training.init, generator(job.seed, "init"))
        initial = nn.utils.parameters_to_vector(module.parameters())
        assert torch.equal(states.weights[0], initial)


def test_metrics_are_those_of_the_plain_module_in_eval_mode(engine: TorchEngine, few_images: Images) -> None:
    for index, states in collected(engine, few_images, JOBS).items():
        module = by_hand(JOBS[index].training)
        for epoch, weights in enumerate(states.weights):
            nn.utils.vector_to_parameters(weights.clone(), module.parameters())
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


def test_a_model_does_not_depend_on_its_neighbours(engine: TorchEngine, few_images: Images) -> None:
    together = trajectories(engine, few_images, JOBS)
    backwards = trajectories(engine, few_images, JOBS[::-1])
    for index, job in enumerate(JOBS):
        assert trajectories(engine, few_images, [job])[0] == together[index]
        assert backwards[len(JOBS) - 1 - index] == together[index]


def test_a_model_does_not_depend_on_the_number_of_processes(engine: TorchEngine, few_images: Images) -> None:
    two = TorchEngine(processes=2)
    assert trajectories(two, few_images, JOBS) == trajectories(engine, few_images, JOBS)
    weights, networks = population(few_images, engine)
    for split in ALL:
        here = engine.evaluate("cnn-s", few_images, weights, networks, split)
        there = two.evaluate("cnn-s", few_images, weights, networks, split)
        assert torch.equal(here[0], there[0]) and torch.equal(here[1], there[1])


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
        again = trajectories(engine, few_images, [dataclasses.replace(job, start=start)])
        assert again == trajectories(engine, few_images, [job])
        assert torch.equal(start, fresh.weights[0]), "the weights given were changed"


def test_training_goes_on_from_given_weights_with_a_fresh_optimizer(engine: TorchEngine, few_images: Images) -> None:
    for optimizer in ("adam", "sgd"):
        training = dataclasses.replace(TRAINING, optimizer=optimizer)
        first = collected(engine, few_images, [Job(training=training, seed=1)])[0]
        job = Job(training=training, seed=2, start=first.weights[-1])
        further = collected(engine, few_images, [job])[0]
        expected, _ = trained_by_hand(few_images, job, first.weights[-1].clone())
        assert torch.equal(further.weights[0], first.weights[-1])
        torch.testing.assert_close(further.weights, torch.stack(expected), rtol=1e-4, atol=1e-5)


def population(images: Images, engine: TorchEngine) -> tuple[Tensor, list[Network]]:
    states = collected(engine, images, JOBS, ())
    weights = torch.stack([states[i].weights[-1] for i in range(len(JOBS))])
    return weights, [Network(j.training.activation, j.training.dropout) for j in JOBS]


def test_evaluation_is_the_plain_module(engine: TorchEngine, few_images: Images) -> None:
    weights, networks = population(few_images, engine)
    loss, accuracy = engine.evaluate("cnn-s", few_images, weights, networks, "test")
    assert loss.dtype == accuracy.dtype == torch.float64
    for i, job in enumerate(JOBS):
        module = by_hand(job.training)
        nn.utils.vector_to_parameters(weights[i].clone(), module.parameters())
        expected = measured(module, few_images, "test")
        assert (loss[i].item(), accuracy[i].item()) == pytest.approx(expected, rel=1e-5)


def test_evaluation_takes_more_images_than_one_batch(engine: TorchEngine, images: Images, few_images: Images) -> None:
    weights, networks = population(few_images, engine)
    loss, accuracy = engine.evaluate("cnn-s", images, weights[:1], networks[:1], "validation")
    module = by_hand(JOBS[0].training)
    nn.utils.vector_to_parameters(weights[0].clone(), module.parameters())
    expected = measured(module, images, "validation")
    assert (loss.item(), accuracy.item()) == pytest.approx(expected, rel=1e-5)


def test_nothing_to_do_is_done(engine: TorchEngine, few_images: Images) -> None:
    for some in (engine, TorchEngine(processes=2)):
        assert list(some.train("cnn-s", few_images, [], metrics_on=ALL)) == []
        loss, accuracy = some.evaluate("cnn-s", few_images, torch.empty(0, 2464), [], "test")
        assert len(loss) == len(accuracy) == 0


@pytest.mark.timeout(120)
def test_a_killed_worker_is_an_error_and_no_hang(few_images: Images) -> None:
    long = dataclasses.replace(TRAINING, epochs=1000)
    jobs = [Job(training=TRAINING, seed=0), *(Job(training=long, seed=s) for s in (1, 2))]
    states = TorchEngine(processes=2).train("cnn-s", few_images, jobs, metrics_on=())
    assert next(states).jobs[0] == 0  # so the workers are up, both busy with the long ones
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    workers[0].kill()
    with pytest.raises(ModelZooError, match="^a worker process was killed, most often for want of memory; run"):
        list(states)


@pytest.mark.timeout(120)
def test_who_stops_listening_does_not_wait_for_the_jobs_that_have_not_begun(
    few_images: Images,
) -> None:
    short = dataclasses.replace(TRAINING, epochs=1)
    jobs = [Job(training=short, seed=s) for s in range(20_000)]
    states = TorchEngine(processes=2).train("cnn-s", few_images, jobs, metrics_on=())
    next(states)
    states.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 20
    while multiprocessing.active_children():
        assert time.monotonic() < deadline, "the workers train on for nobody"
        time.sleep(0.05)


def test_engines_are_had_by_name() -> None:
    for name in ENGINES:
        assert get_engine(name, threads=1).name in ENGINES
    chosen = get_engine("torch", threads=3)
    assert isinstance(chosen, TorchEngine) and chosen.processes == 3
    everything = get_engine("torch")
    assert isinstance(everything, TorchEngine)
    assert everything.processes == len(os.sched_getaffinity(0))


def test_an_unknown_engine_is_answered_with_those_there_are() -> None:
    with pytest.raises(DeviceError) as caught:
        get_engine("jax")
    assert str(caught.value) == f"unknown engine 'jax'; this release has {', '.join(ENGINES)}"


def test_fewer_than_one_thread_is_refused() -> None:
    with pytest.raises(DeviceError) as caught:
        get_engine("torch", threads=0)
    assert str(caught.value) == "threads must be at least 1, got 0"
