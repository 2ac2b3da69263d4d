"""The GPU engine, run on the CPU, against the reference engine; random numbers, rates and cohorts.

Weights are compared to rounding, since stacked arithmetic sums in another order. Random numbers must have equal bits.
"""

import dataclasses
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from helpers.training_by_hand import JOBS, SPLITS, TRAINING, collected, population
from torch import nn

from modelzoo_datasets.architectures import Architecture, get_architecture, registry
from modelzoo_datasets.architectures.modules import SeededDropout, seed_dropout
from modelzoo_datasets.architectures.variational import make_variational, seed_noise
from modelzoo_datasets.engines import SPARSITY, CudaEngine, Engine, Job, NetworkSpec, States, TorchEngine, one_thread
from modelzoo_datasets.engines.cuda.optimizers import find_runs, tabulate_rates, tabulate_schedules
from modelzoo_datasets.engines.cuda.rng import (
    RandomStream,
    ReplayedRandom,
    measure_demand,
    split_epoch,
    use_generators,
)
from modelzoo_datasets.engines.cuda.stacked import StackedWeights, group_jobs, is_unbatched
from modelzoo_datasets.errors import DeviceError
from modelzoo_datasets.images import Images, Split
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.layout import Layout


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    """Run on one thread; these tensors are too small for a second one."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def stacked() -> CudaEngine:
    """Return the engine under test, on the CPU."""
    return CudaEngine(torch.device("cpu"))


@pytest.fixture
def noise_images() -> Images:
    """Return 8 images of noise for networks that take 3 x 32 x 32."""
    pixels = torch.randint(256, (8, 3, 32, 32), generator=keyed_generator(0, "noise")).to(torch.uint8)
    return Images("noise", 10, (0.5,) * 3, (0.25,) * 3, {"train": Split(pixels, torch.arange(8))})


def assert_same(found: dict[int, States], expected: dict[int, States], bound: float = 1e-3) -> None:
    """Assert that weights, metrics and recall are equal to float rounding, and that the models have learned.

    Where two cells of a pooling window are nearly equal, rounding decides which of them wins, and Adam makes a visible
    step of it: so the update as a whole is held to `bound`, relative, and half of the weights to 1e-6.
    """
    assert list(found) == list(expected)
    for index, states in expected.items():
        assert torch.equal(found[index].weights[0], states.weights[0]), "the start is the start, to the bit"
        moved, wrong = states.weights - states.weights[0], (found[index].weights - states.weights).abs()
        assert moved[-1].abs().max() > 1e-3
        assert (wrong.norm(dim=1) <= bound * moved.norm(dim=1)).all(), f"job {index}"
        assert wrong.median(dim=1).values.max() < 1e-6 * (bound / 1e-3), f"job {index}"
        assert set(found[index].metrics) == set(states.metrics)
        for name, column in states.metrics.items():
            torch.testing.assert_close(found[index].metrics[name], column, rtol=1e-4, atol=1e-5, equal_nan=True)
        torch.testing.assert_close(found[index].recall, states.recall, rtol=0, atol=0, equal_nan=True)


def both(
    engines: tuple[Engine, Engine], images: Images, jobs: Sequence[Job], *arguments: Any
) -> tuple[dict[int, States], dict[int, States]]:
    found, expected = (collected(engine, images, jobs, *arguments) for engine in engines)
    return found, expected


def test_a_cohort_of_mixed_jobs_is_its_models_alone(
    stacked: CudaEngine, engine: TorchEngine, few_images: Images
) -> None:
    more = [
        {"activation": activation, "dropout": dropout, "optimizer": optimizer, "lr": lr}
        for activation, dropout, optimizer, lr in (
            ("tanh", 0.1, "sgd", 0.02),
            ("gelu", 0.0, "adam", 1e-3),
            ("gelu", 0.4, "adamw", 3e-3),
            ("sigmoid", 0.0, "sgd", 0.05),
        )
    ]
    jobs = [*JOBS, *(Job(training=dataclasses.replace(TRAINING, **m), seed=7 + i) for i, m in enumerate(more))]
    jobs.append(dataclasses.replace(jobs[0], seed=77))
    assert_same(*both((stacked, engine), few_images, jobs))


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "onecycle", "optimizer": "sgd", "momentum": 0.5, "lr": 0.05},
        {"schedule": "onecycle", "optimizer": "adamw"},
        {"augmentation": "crop-flip", "epochs": 1},
        {"augmentation": "flip-rotate", "dropout": 0.1, "epochs": 1},
        {"momentum": 0.0, "optimizer": "sgd", "batch_size": 1000},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_training_is_the_reference_with(
    changes: dict[str, Any], stacked: CudaEngine, engine: TorchEngine, few_images: Images
) -> None:
    jobs = [Job(training=dataclasses.replace(TRAINING, **changes), seed=seed) for seed in (5, 6)]
    assert_same(*both((stacked, engine), few_images, jobs))


def test_the_published_init_saturates_and_is_trained_through_all_the_same(
    stacked: CudaEngine, engine: TorchEngine, images: Images
) -> None:
    train = images.splits["train"]
    some = dataclasses.replace(images, splits={"train": Split(train.pixels[:2000], train.labels[:2000])})
    training = dataclasses.replace(TRAINING, init="uniform", lr=3e-4, batch_size=10, epochs=1, weight_decay=0.0)
    found, expected = both((stacked, engine), some, [Job(training=training, seed=seed) for seed in (1, 2)])
    for index, states in expected.items():
        moved = states.weights[1] - states.weights[0]
        assert (found[index].weights[1] - states.weights[1]).norm() < 1e-3 * moved.norm(), "200 steps"


def test_twins_are_the_reference(stacked: CudaEngine, engine: TorchEngine, few_images: Images) -> None:
    weights, _ = population(few_images, engine)
    weights[:, ::9] *= 1e-3  # nearly pure noise from the start, so they are pruned
    trainings = [dataclasses.replace(JOBS[0].training, epochs=3), JOBS[1].training]
    trainings += [dataclasses.replace(JOBS[0].training, epochs=3, dropout=0.2)]
    starts = (weights[0], weights[1], weights[3])
    jobs = [
        Job(training=training, seed=seed, initial_weights=start, sparsify=True)
        for seed, (training, start) in enumerate(zip(trainings, starts, strict=True))
    ]
    parts: dict[int, list[States]] = {index: [] for index in range(len(jobs))}
    for states in stacked.train("cnn-s", few_images, jobs, metrics_on=SPLITS):
        for place, index in enumerate(states.jobs.tolist()):
            metrics = {name: column[place] for name, column in states.metrics.items()}
            assert states.variational is not None
            parts[index].append(
                dataclasses.replace(
                    states,
                    weights=states.weights[place],
                    metrics=metrics,
                    recall=states.recall[place],
                    variational=states.variational[place],
                )
            )
    first: dict[int, torch.Tensor] = {}
    for states in engine.train("cnn-s", few_images, jobs, metrics_on=SPLITS):
        found = parts[int(states.jobs)][int(states.epochs)]
        assert states.variational is not None and found.variational is not None
        moved = (states.variational[0] - first.setdefault(int(states.jobs), states.variational[0])).norm()
        # Sums round differently with other vector instructions: 1.44e-3 on one processor, less than 1e-3 on another.
        assert (found.variational - states.variational[0]).norm() <= 2e-3 * moved
        differ = (found.weights - states.weights[0]).abs() > 1e-3
        assert differ.sum() <= 2, "a weight on the edge may be pruned here and not there"
        assert (states.metrics[SPARSITY] > 1e-3) == (states.epochs > 0), "something is pruned"
        assert found.metrics[SPARSITY].item() == pytest.approx(states.metrics[SPARSITY].item(), abs=1e-3)
        for name, column in states.metrics.items():
            assert found.metrics[name].item() == pytest.approx(column.item(), rel=1e-2, abs=2e-2, nan_ok=True)


def test_networks_that_are_no_chain_train_as_the_reference(
    stacked: CudaEngine, engine: TorchEngine, few_images: Images
) -> None:
    jobs = [dataclasses.replace(job, training=dataclasses.replace(job.training, dropout=0.0)) for job in JOBS[:3]]
    for architecture in ("res-cnn", "cnn-residual"):
        assert_same(*both((stacked, engine), few_images, jobs, ("test",), architecture))


def test_a_resnet_trains_as_the_reference_with_its_statistics(
    stacked: CudaEngine, engine: TorchEngine, noise_images: Images
) -> None:
    changes = {"optimizer": "sgd", "schedule": "onecycle", "augmentation": "crop-flip", "lr": 1e-3}
    training = dataclasses.replace(TRAINING, epochs=1, batch_size=3, activation="relu", **changes)
    jobs = [Job(training=training, seed=seed) for seed in (0, 1)]
    found, expected = both((stacked, engine), noise_images, jobs, (), "resnet18")
    moved, wrong = expected[1].weights[1] - expected[1].weights[0], found[1].weights[1] - expected[1].weights[1]
    assert wrong.norm() < 1e-3 * moved.norm() and (found[0].weights[1] != found[1].weights[1]).any()
    layout = get_architecture("resnet18").layout
    counters = [slot for slot in layout.slots if slot.name.endswith("num_batches_tracked")]
    assert counters and all(slot.select(found[1].weights).flatten().tolist() == [0, 3] for slot in counters)


def _normed(activation: str, dropout: float) -> nn.Module:
    block = [nn.Conv2d(1, 3, 5, stride=3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*block, nn.Flatten(), nn.Linear(192, 10))


def test_small_networks_with_statistics_and_plain_dropout_are_stacked_too(
    stacked: CudaEngine, engine: TorchEngine, few_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    normed = Architecture("normed", (1, 28, 28), 10, _normed)
    monkeypatch.setattr(registry, "_ARCHITECTURES", {**registry._ARCHITECTURES, "normed": normed})
    training = dataclasses.replace(TRAINING, dropout=0.3)
    jobs = [Job(training=training, seed=seed) for seed in range(3)]
    assert_same(*both((stacked, engine), few_images, jobs, ("test",), "normed"))


class _Choosy(nn.Module):
    """A network whose forward depends on values, which vmap does not allow."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.layer, self.active = nn.Linear(784, 10), nn.Tanh() if activation == "tanh" else nn.ReLU()
        self.register_buffer("share", torch.tensor(0.5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.layer(x.flatten(1)) * self.share
        active: torch.Tensor = self.active(scores)
        return active if bool((scores > 1e6).any()) else scores


def test_networks_that_cannot_be_stacked_are_called_one_by_one(
    stacked: CudaEngine, engine: TorchEngine, few_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosy = Architecture("choosy", (1, 28, 28), 10, lambda activation, dropout: _Choosy(activation))
    monkeypatch.setattr(registry, "_ARCHITECTURES", {**registry._ARCHITECTURES, "choosy": choosy})
    assert is_unbatched(_Choosy("tanh"), (1, 28, 28)) and not is_unbatched(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2)
    )
    jobs = [Job(training=TRAINING, seed=seed) for seed in range(2)]
    assert_same(*both((stacked, engine), few_images, jobs, ("test",), "choosy"))


def test_evaluation_and_outputs_are_the_reference(
    stacked: CudaEngine, engine: TorchEngine, images: Images, few_images: Images
) -> None:
    weights, networks = population(few_images, engine)
    weights, networks = torch.cat([weights, 0.9 * weights]), networks * 2
    for some, split in ((few_images, "test"), (images, "validation")):
        found, expected = (e.evaluate("cnn-s", some, weights, networks, split) for e in (stacked, engine))
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-6)
        assert torch.equal(found.accuracy, expected.accuracy) and torch.equal(found.recall, expected.recall)
        logits, exact = (dict(e.compute_logits("cnn-s", some, weights, networks, split)) for e in (stacked, engine))
        assert sorted(logits) == sorted(exact) == list(range(8))
        for index, z in exact.items():
            torch.testing.assert_close(logits[index], z, rtol=1e-4, atol=1e-5)


def test_what_was_not_asked_for_or_is_not_there_is_nan(stacked: CudaEngine, few_images: Images) -> None:
    without = dataclasses.replace(few_images, splits={s: few_images.splits[s] for s in ("train", "test")})
    states = collected(stacked, without, JOBS[:1], ("validation", "train"))[0]
    assert states.recall.isnan().all() and states.recall.shape == (3, 10)
    for name, column in states.metrics.items():
        assert column.isnan().tolist() == ([False] * 3 if name.startswith("train") else [True] * 3)


def test_nothing_to_do_is_done(stacked: CudaEngine, few_images: Images) -> None:
    assert list(stacked.train("cnn-s", few_images, [], metrics_on=SPLITS)) == []
    found = stacked.evaluate("cnn-s", few_images, torch.empty(0, 2464), [], "test")
    assert found.loss.shape == found.accuracy.shape == (0,) and found.recall.shape == (0, 10)
    assert list(stacked.compute_logits("cnn-s", few_images, torch.empty(0, 2464), [], "test")) == []


def test_a_diverged_model_does_not_touch_its_neighbors(
    stacked: CudaEngine, engine: TorchEngine, few_images: Images
) -> None:
    wild = dataclasses.replace(TRAINING, optimizer="sgd", lr=1e30)
    found = collected(stacked, few_images, [JOBS[0], Job(training=wild, seed=0)])
    assert not found[1].weights[-1].isfinite().all()
    assert_same({0: found[0]}, collected(engine, few_images, JOBS[:1]))


def test_a_closed_generator_leaves_no_thread(stacked: CudaEngine, few_images: Images) -> None:
    before = threading.active_count()
    stream = stacked.train("cnn-s", few_images, JOBS, metrics_on=())
    next(stream)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_no_global_generator_is_touched(stacked: CudaEngine, few_images: Images) -> None:
    before = torch.get_rng_state()
    collected(stacked, few_images, JOBS[1:2])
    assert torch.equal(torch.get_rng_state(), before)


def test_small_cohorts_give_the_same_models(
    stacked: CudaEngine, few_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collected(stacked, few_images, JOBS)
    monkeypatch.setattr("modelzoo_datasets.engines.cuda.memory._CPU_BYTES", 0)
    yielded = [len(states.jobs) for states in stacked.train("cnn-s", few_images, JOBS, metrics_on=())]
    assert set(yielded) == {1}, "no memory: one model at a time"
    assert_same(collected(stacked, few_images, JOBS), whole)


def test_dropout_and_noise_ahead_are_what_layers_draw_themselves() -> None:
    """Compare bits over two steps and a smaller one."""
    plain = get_architecture("cnn-s").module("tanh", 0.2)
    module = make_variational(plain).train()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3, generator=keyed_generator(0, "weights"))
    stream = RandomStream(Job(training=TRAINING, seed=3), 4, num_images=26)
    seed_dropout(module, keyed_generator(3, "dropout", 4))
    seed_noise(module, keyed_generator(3, "noise", 4))
    batches = [torch.randn(size, 1, 28, 28, generator=keyed_generator(size, "x")) for size in (10, 10, 6)]
    expected = [module(x) for x in batches]
    assert torch.equal(stream.order, torch.randperm(26, generator=keyed_generator(3, "order", 4)))
    use_generators(module)
    seen = iter(zip(batches, expected, strict=True))
    for first, steps, size in split_epoch(26, 10, max_steps=5):
        demand = measure_demand(module, (size, 1, 28, 28))
        assert demand.num_uniforms == size * (8 * 144 + 96 + 20) and demand.num_normals == size * 5058
        uniform, normal = torch.empty(steps, demand.num_uniforms), torch.empty(steps, demand.num_normals)
        stream.fill_uniform(uniform)
        stream.fill_normal(normal, demand.normal)
        for u, n in zip(uniform, normal, strict=True):
            x, wanted = next(seen)
            with ReplayedRandom(u, n):
                assert torch.equal(module(x), wanted), (first, size)
    assert next(seen, None) is None


def test_given_numbers_leave_other_draws_alone() -> None:
    module = SeededDropout(0.5)  # without a generator it uses that of torch
    with torch.random.fork_rng(), ReplayedRandom(torch.zeros(4), torch.zeros(0)):
        assert set(module(torch.ones(1000)).tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
def test_rates_are_those_of_torch_at_every_step(optimizer: str, schedule: str) -> None:
    training = dataclasses.replace(TRAINING, optimizer=optimizer, schedule=schedule, epochs=2, batch_size=10)
    table = tabulate_rates([training], tabulate_schedules([training], 35), 0, 8)[:, 0]
    parameter = nn.Parameter(torch.tensor([1.0]))
    reference: torch.optim.Optimizer
    if optimizer == "sgd":
        reference = torch.optim.SGD([parameter], training.lr, 0.9, weight_decay=1e-2)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
        reference = kind([parameter], training.lr, weight_decay=1e-2)
    cycle = torch.optim.lr_scheduler.OneCycleLR(reference, training.lr, 8) if schedule == "onecycle" else None
    for step, (l2, keep, inertia, rate, root) in enumerate(table.tolist(), start=1):
        lr = reference.param_groups[0]["lr"]
        assert l2 == pytest.approx(0.0 if optimizer == "adamw" else 1e-2)
        assert keep == pytest.approx(1 - lr * 1e-2 if optimizer == "adamw" else 1.0, rel=1e-6)
        if optimizer == "sgd":
            assert (inertia, rate) == pytest.approx((reference.param_groups[0]["momentum"], lr), rel=1e-6)
        else:
            beta1, beta2 = reference.param_groups[0]["betas"]
            assert (inertia, rate) == pytest.approx((1 - beta1, lr / (1 - beta1**step)), rel=1e-6)
            assert root == pytest.approx(math.sqrt(1 - beta2**step), rel=1e-6)
        parameter.grad = torch.ones(1)
        reference.step()
        if cycle is not None and step < 8:
            cycle.step()
    later = tabulate_rates([training], tabulate_schedules([training], 35), 5, 3)[:, 0]
    assert torch.equal(later, table[5:])


def test_jobs_that_take_other_steps_are_in_other_groups() -> None:
    other = [
        dataclasses.replace(TRAINING, **changes)
        for changes in ({}, {"epochs": 1}, {"batch_size": 7}, {"augmentation": "crop-flip"}, {"dropout": 0.5}, {})
    ]
    jobs = [Job(training=training, seed=0) for training in other]
    jobs.append(dataclasses.replace(jobs[0], initial_weights=torch.zeros(2464), sparsify=True))
    assert group_jobs("cnn-s", jobs) == [[0, 5, 4], [1], [2], [3], [6]]


def test_memory_is_said_beforehand(stacked: CudaEngine, few_images: Images) -> None:
    assert stacked.resolve("resnet18") is stacked
    one, four = (stacked.estimate_memory("cnn-s", few_images, JOBS[:1] * n) for n in (1, 4))
    assert four == 4 * one and 2464 * 4 * 8 < one < 20_000_000
    assert stacked.estimate_memory("cnn-s", few_images, JOBS) < four, "four groups are trained one after the other"
    many = stacked.estimate_memory("cnn-s", few_images, JOBS[:1] * 10_000)
    assert 0.3 * (1 << 30) < many < 0.8 * (1 << 30), "no more than there is"
    assert stacked.estimate_memory("cnn-s", few_images, []) == 0


def test_runs_are_the_longest_slices_of_equals() -> None:
    assert find_runs("aabccc") == [slice(0, 2), slice(2, 3), slice(3, 6)] and find_runs([]) == []


@pytest.mark.parametrize("channels_last", [False, True])
def test_stacked_weights_are_given_back_to_the_bit(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelzoo_datasets.engines.cuda.stacked._LARGE", 0 if channels_last else 10**9)
    layout = Layout.from_module(_normed("relu", 0.0))
    vectors = torch.randn(3, layout.size, generator=keyed_generator(0, "weights"))
    vectors[:, -1] = torch.arange(3)  # the number of batches, an integer
    stack = StackedWeights.from_vectors(layout, vectors, torch.device("cpu"))
    assert torch.equal(stack.vectors(), vectors)
    assert torch.equal(stack.flatten(stack.parameters(slice(1, 3))), stack.trained[1:3])
    kernel = stack.parameters(slice(0, 1))[0][0]
    assert kernel.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_networks_of_other_activations_are_measured_apart(stacked: CudaEngine, few_images: Images) -> None:
    vector = torch.randn(2464, generator=keyed_generator(0, "weights")) / 5
    kinds = ("relu", "tanh", "relu", "gelu")
    logits = dict(
        stacked.compute_logits("cnn-s", few_images, vector.expand(4, -1), [NetworkSpec(k) for k in kinds], "test")
    )
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[3])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_engine_says_so() -> None:
    for arguments in ((), (torch.device("cuda"),)):
        with pytest.raises(DeviceError) as caught:
            CudaEngine(*arguments)
        assert str(caught.value) == "engine 'cuda': torch sees no CUDA GPU here; use --engine native or torch"


@pytest.mark.gpu
def test_on_a_gpu_models_are_those_of_the_reference(engine: TorchEngine, few_images: Images) -> None:
    assert_same(*both((CudaEngine(), engine), few_images, JOBS), bound=1e-2)
