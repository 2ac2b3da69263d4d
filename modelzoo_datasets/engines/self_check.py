"""A self-check of an engine: does it train and evaluate a few small models as another engine does?

Two engines may differ by rounding. How far rounding moves a result depends on the network and on its training, and the
reference says it: it runs a second time, from weights that are changed by as much as rounding changes a sum. A result
that is more than twice as far away is wrong.

    J jobs, P weights of a model, N images, C classes
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..architectures import get_architecture
from ..images import Images, Split
from ..recipes import Training
from ..seeds import keyed_generator
from .base import Engine, Job, NetworkSpec
from .common import build_initial_module, pack_state

_FACTOR = 2.0
_FLOAT32 = 2.0**-18  # a sum of 4,096 products, each rounded by up to 2^-24 at random: sqrt(4,096) * 2^-24
_BFLOAT16 = 2.0**-8  # both factors of a product are rounded by up to 2^-9; the sums are in float32
_SEED = 0  # with it no result hangs by a hair: a test changes all weights in several ways, and none moves far
_SPLITS = ("train", "test")
_ACTIVATIONS = ("tanh", "relu", "gelu", "sigmoid")
_STEP = Training(  # a single step, so long that the weights before it do not round its gradient
    epochs=1,
    batch_size=20,
    activation="tanh",
    init="kaiming_uniform",
    optimizer="sgd",
    lr=1024.0,
    momentum=0.0,
    weight_decay=0.0,
)
_EPOCH = replace(_STEP, batch_size=8, lr=1e-3, momentum=0.9, weight_decay=1e-2)  # three steps, the last one smaller


@dataclass(frozen=True, kw_only=True)
class CheckCase:
    """Trainings of one architecture that both engines run."""

    name: str
    architecture: str
    trainings: tuple[Training, ...]
    rounding: float = _FLOAT32  # relative, of a sum
    num_images: int = 20

    @property
    def images(self) -> Images:
        """Images of noise with random labels."""
        architecture = get_architecture(self.architecture)
        channels = architecture.input_shape[0]
        splits = {}
        for split in _SPLITS:
            generator = keyed_generator(0, "self-check", split)
            pixels = torch.randint(256, (self.num_images, *architecture.input_shape), generator=generator)
            labels = torch.randint(architecture.classes, (self.num_images,), generator=generator)
            splits[split] = Split(pixels.to(torch.uint8), labels)
        return Images("noise", architecture.classes, (0.5,) * channels, (0.25,) * channels, splits)

    @property
    def networks(self) -> list[NetworkSpec]:
        """The network of every training."""
        return [NetworkSpec(training.activation, training.dropout) for training in self.trainings]

    def jobs(self) -> list[Job]:
        """Return a job for every training."""
        jobs = [Job(training=training, seed=_SEED) for training in self.trainings]
        starts = [pack_state(build_initial_module(self.architecture, job)) for job in jobs]
        return [replace(job, initial_weights=start) for job, start in zip(jobs, starts, strict=True)]


CHAIN_CASES = (  # a chain of layers, which every engine trains by itself
    CheckCase(
        name="gradients",
        architecture="cnn-s",
        trainings=tuple(replace(_STEP, activation=a, dropout=p) for a in _ACTIVATIONS for p in (0.0, 0.3)),
    ),
    CheckCase(
        name="an epoch",
        architecture="cnn-s",
        trainings=(
            # GELU is not for Adam: where it saturates, some slopes are 0 and others 1e-9, and Adam steps by their sign.
            replace(_EPOCH, optimizer="adam", dropout=0.3),
            replace(_EPOCH, optimizer="adam", activation="sigmoid", schedule="onecycle"),
            replace(_EPOCH, optimizer="adamw", activation="relu"),
            replace(_EPOCH, optimizer="sgd", activation="gelu", lr=0.03, dropout=0.1),
            replace(_EPOCH, optimizer="sgd", schedule="onecycle", lr=0.03),
        ),
    ),
)
OTHER_CASES = (
    CheckCase(
        name="gradients",
        architecture="res-cnn",
        trainings=(replace(_STEP, activation="tanh"), replace(_STEP, activation="relu")),
    ),
    CheckCase(
        name="an epoch",
        architecture="res-cnn",
        trainings=(
            replace(_EPOCH, optimizer="adam"),
            replace(_EPOCH, optimizer="adamw", augmentation="crop-flip"),
            replace(_EPOCH, optimizer="sgd", activation="relu", lr=0.003, augmentation="flip-rotate"),
        ),
    ),
    CheckCase(
        name="a step",
        architecture="resnet18",
        trainings=(replace(_STEP, activation="relu", lr=0.01),),
        rounding=_BFLOAT16,
        num_images=8,
    ),
)


def find_deviation(engine: Engine, reference: Engine, cases: Sequence[CheckCase]) -> str | None:
    """Return in one line the first result of an engine that rounding does not explain, None if there is none.

    Errors of the engines are raised as they are.

    Args:
        engine: The engine to check.
        reference: The engine that is right.
        cases: Trainings to compare.

    Example:
        >>> from modelzoo_datasets.engines import TorchEngine
        >>> find_deviation(TorchEngine(num_workers=1), TorchEngine(num_workers=1), OTHER_CASES[:1]) is None
        True
    """
    for case in cases:
        ends, problem = _compare_training(engine, reference, case)
        if problem is None and case.name != "gradients":  # after such a step no network is sound
            problem = _compare_evaluation(engine, reference, case, ends)
        if problem is not None:
            return problem
    return None


@dataclass(frozen=True)
class _Trained:
    """The states of all jobs before and after the only epoch, and their running training losses."""

    starts: Tensor  # (J, P)
    ends: Tensor  # (J, P)
    losses: Tensor  # (J,)

    def updates(self, columns: Tensor) -> Tensor:
        """Return what the epoch added to some of the weights (J, p), in float64."""
        return self.ends[:, columns].double() - self.starts[:, columns].double()


def _compare_training(engine: Engine, reference: Engine, case: CheckCase) -> tuple[Tensor, str | None]:
    """Return the trained weights of the reference (J, P), and the first deviation of the engine."""
    jobs = case.jobs()
    perturbed = [replace(job, initial_weights=_perturb(job.initial_weights, case.rounding)) for job in jobs]
    exact, moved, result = (_train(e, case, j) for e, j in ((reference, jobs), (reference, perturbed), (engine, jobs)))
    if not torch.equal(result.starts, exact.starts):
        return exact.ends, f"{case.architecture}: the weights before the first step are not those that were given"
    slack = _FACTOR * ((moved.losses - exact.losses).abs() / exact.losses).max()
    deviations = (result.losses - exact.losses).abs() / exact.losses
    if problem := _describe(case, "the training loss", deviations, slack.expand_as(deviations)):
        return exact.ends, problem
    slots = get_architecture(case.architecture).layout.slots
    is_buffer = torch.cat([torch.full((slot.size,), slot.buffer) for slot in slots])
    for what, columns in (("the weights", ~is_buffer), ("the running statistics", is_buffer)):
        expected = exact.updates(columns)
        if not expected.numel():
            continue
        size = expected.norm(dim=1)
        deviations = (result.updates(columns) - expected).norm(dim=1) / size
        slacks = _FACTOR * (moved.updates(columns) - expected).norm(dim=1) / size
        if problem := _describe(case, f"the change of {what}", deviations, slacks):
            return exact.ends, problem
    return exact.ends, None


def _describe(case: CheckCase, what: str, deviations: Tensor, slacks: Tensor) -> str | None:
    """Return a line for the first job whose deviation is not within its slack; NaN is within none."""
    for training, deviation, slack in zip(case.trainings, deviations.tolist(), slacks.tolist(), strict=True):
        if not deviation <= slack:
            job = f"{training.activation}, {training.optimizer}, dropout {training.dropout:g}"
            return (
                f"{case.name} of {case.architecture} ({job}): {what} differs by {deviation:.1e} of its size, and "
                f"rounding explains {slack:.1e}"
            )
    return None


def _perturb(weights: Tensor | None, rounding: float) -> Tensor:
    """Change every weight by a relative amount, up or down at random."""
    assert weights is not None
    signs = 2 * torch.randint(2, weights.shape, generator=keyed_generator(0, "self-check", "rounding")) - 1
    return weights * (1 + rounding * signs)


def _train(engine: Engine, case: CheckCase, jobs: Sequence[Job]) -> _Trained:
    """Train all jobs for their only epoch.

    Raises:
        RuntimeError: A state is missing.
    """
    states: dict[tuple[int, int], Tensor] = {}
    losses = torch.full((len(jobs),), torch.nan, dtype=torch.float64)
    for batch in engine.train(case.architecture, case.images, jobs, metrics_on=()):
        for row, (job, epoch) in enumerate(zip(batch.jobs.tolist(), batch.epochs.tolist(), strict=True)):
            states[job, epoch] = batch.weights[row].cpu()
            if epoch == 1:
                losses[job] = batch.metrics["train_loss"][row]
    missing = [(job, epoch) for job in range(len(jobs)) for epoch in (0, 1) if (job, epoch) not in states]
    if missing:
        raise RuntimeError(f"{case.architecture}: no state of job {missing[0][0]} after epoch {missing[0][1]}")
    starts, ends = (torch.stack([states[job, epoch] for job in range(len(jobs))]) for epoch in (0, 1))
    return _Trained(starts, ends, losses)


def _compare_evaluation(engine: Engine, reference: Engine, case: CheckCase, weights: Tensor) -> str | None:
    """Return the first deviation of the logits, the loss, the accuracy or the recall of weights (J, P)."""
    images, networks = case.images, case.networks

    def compute_logits(some: Engine, vectors: Tensor) -> Tensor:
        logits = dict(some.compute_logits(case.architecture, images, vectors, networks, "test"))
        return torch.stack([logits[job] for job in range(len(networks))]).double()  # (J, N, C)

    exact = compute_logits(reference, weights)
    moved = compute_logits(reference, torch.stack([_perturb(vector, _FLOAT32) for vector in weights]))
    size = exact.abs().amax(dim=(1, 2))
    slack = _FACTOR * (moved - exact).abs().amax(dim=(1, 2))  # (J,)
    deviations = (compute_logits(engine, weights) - exact).abs().amax(dim=(1, 2))
    if problem := _describe(case, "the largest logit", deviations / size, slack / size):
        return problem
    measured, expected = (e.evaluate(case.architecture, images, weights, networks, "test") for e in (engine, reference))
    # Where no logit moves by more than the slack, a loss moves by twice as much at most, and only images whose two
    # likeliest classes are closer than that may get another prediction.
    best, second = exact.topk(2, dim=2).values.unbind(dim=2)
    undecided = (best - second) <= 2 * slack.unsqueeze(1)  # (J, N)
    counts = torch.bincount(images.labels("test"), minlength=images.classes)
    flips = torch.stack([undecided[:, images.labels("test") == c].sum(dim=1) for c in range(images.classes)], dim=1)
    columns: list[tuple[str, Callable[[], tuple[Tensor, Tensor]]]] = [
        ("the loss", lambda: ((measured.loss / expected.loss - 1).abs(), 2 * slack / expected.loss)),
        ("the accuracy", lambda: ((measured.accuracy - expected.accuracy).abs(), undecided.double().mean(dim=1))),
        ("the recall", lambda: _largest_excess(measured.recall, expected.recall, flips / counts)),
    ]
    for what, compare in columns:
        deviations, slacks = compare()
        if problem := _describe(case, what, deviations, slacks + 1e-12):
            return problem
    return None


def _largest_excess(measured: Tensor, expected: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
    """Return deviation and slack (J,) of the class that exceeds its slack by most; NaN equals NaN."""
    both_missing = measured.isnan() & expected.isnan()
    deviations = torch.where(both_missing, 0.0, (measured - expected).abs()).nan_to_num(nan=torch.inf)
    slack = slack.nan_to_num()
    worst = (deviations - slack).argmax(dim=1, keepdim=True)
    return deviations.gather(1, worst).squeeze(1), slack.gather(1, worst).squeeze(1)
