"""Training and evaluation as everybody writes them down: what engines are held against; and states gathered per job."""

import copy
import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modelzoo_datasets.engines import Engine, Job, NetworkSpec, States
from modelzoo_datasets.engines.base import METRICS
from modelzoo_datasets.images import Images
from modelzoo_datasets.images.augmentation import augment
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import keyed_generator

SPLITS = ("train", "validation", "test")
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
    engine: Engine, images: Images, jobs: Sequence[Job], metrics_on: Sequence[str] = SPLITS
) -> dict[int, tuple[bytes, ...]]:
    """Weights, metrics and recall of every job, as bytes: what must be the same is the same to the bit."""
    found = {}
    for job, states in collected(engine, images, jobs, metrics_on).items():
        metrics = torch.stack([states.metrics[name] for name in METRICS])
        found[job] = tuple(part.numpy().tobytes() for part in (states.weights, metrics, states.recall))
    return found


def collected(
    engine: Engine, images: Images, jobs: Sequence[Job], metrics_on: Sequence[str] = SPLITS, architecture: str = "cnn-s"
) -> dict[int, States]:
    """All states of every job; fails where the epochs of one do not come in their order, or not all of them."""
    parts: dict[int, list[States]] = {index: [] for index in range(len(jobs))}
    for states in engine.train(architecture, images, jobs, metrics_on=metrics_on):
        for place, job in enumerate(states.jobs.tolist()):
            parts[job].append(rows(states, [place]))
    found = {job: joined(some) for job, some in parts.items()}
    for job, states in found.items():
        assert states.epochs.tolist() == list(range(jobs[job].training.epochs + 1))
    return found


def rows(states: States, places: list[int]) -> States:
    metrics = {name: column[places] for name, column in states.metrics.items()}
    return States(states.jobs[places], states.epochs[places], states.weights[places], metrics, states.recall[places])


def joined(parts: Sequence[States]) -> States:
    jobs, epochs, weights, recall = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("jobs", "epochs", "weights", "recall")
    )
    metrics = {name: torch.cat([part.metrics[name] for part in parts]) for name in parts[0].metrics}
    return States(jobs, epochs, weights, metrics, recall)


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


def loaded(training: Training, weights: Tensor) -> nn.Sequential:
    """The small CNN with the weights (P,) of one state."""
    module = by_hand(training)
    nn.utils.vector_to_parameters(weights.clone(), module.parameters())
    return module


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
    pixels, labels = images.splits["train"].pixels, images.labels("train")
    steps = t.epochs * math.ceil(len(labels) / t.batch_size)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, t.lr, steps) if t.schedule == "onecycle" else None
    weights, running = [start], []
    for epoch in range(1, t.epochs + 1):
        module.train()
        draws = keyed_generator(job.seed, "dropout", epoch)
        for layer in module.modules():
            if isinstance(layer, HandDropout):
                layer.draws = draws
        order = torch.randperm(len(labels), generator=keyed_generator(job.seed, "order", epoch))
        views = keyed_generator(job.seed, "augmentation", epoch)
        loss_sum, correct = 0.0, 0
        for first in range(0, len(labels), t.batch_size):
            index = order[first : first + t.batch_size]
            optimizer.zero_grad()
            logits = module(images.normalize(augment(pixels[index], t.augmentation, views)))
            loss = cross_entropy(logits, labels[index])
            loss.backward()
            optimizer.step()
            if cycle:
                cycle.step()
            loss_sum += loss.item() * len(index)
            correct += int((logits.argmax(dim=1) == labels[index]).sum())
        running.append((loss_sum / len(labels), correct / len(labels)))
        weights.append(nn.utils.parameters_to_vector(module.parameters()).detach())
    return weights, running


def population(images: Images, engine: Engine) -> tuple[Tensor, list[NetworkSpec]]:
    states = collected(engine, images, JOBS, ())
    weights = torch.stack([states[i].weights[-1] for i in range(len(JOBS))])
    return weights, [NetworkSpec(j.training.activation, j.training.dropout) for j in JOBS]
