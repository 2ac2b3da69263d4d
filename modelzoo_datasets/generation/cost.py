"""What training a zoo costs on this machine: the real engine, timed for seconds on images made of noise."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from ..architectures import initialize_weights
from ..engines import Engine, Job, NetworkSpec
from ..images import Images, Split
from ..progress import NO_PROGRESS, Progress
from ..recipes import Training
from ..seeds import keyed_generator
from .catalogue import ZooFacts

_TWIN_EPOCHS = 3
_FEWEST_IMAGES, _MOST_IMAGES = 2, 20_000  # of one measurement
_MODELS = 4  # at once, so that they take longer than what is done once
_SHORTEST = 0.1  # seconds of a measurement that is not mostly chance


@dataclass(frozen=True)
class CostKey:
    """Zoos whose images cost the same: equal networks, equal steps."""

    architecture: str
    batch_size: int
    augmentation: str
    twins: bool

    @classmethod
    def of(cls, zoo: ZooFacts) -> "CostKey":
        """The kind of a zoo, by its first model."""
        training = zoo.members[0].training
        return cls(zoo.architecture.name, training.batch_size, training.augmentation, zoo.twins)


@dataclass(frozen=True)
class CostRate:
    """Seconds of one core per image."""

    train: float
    evaluate: float

    def core_seconds(self, zoo: ZooFacts) -> float:
        """Of training a whole zoo, its evaluation included."""
        return self.train * zoo.images_trained + self.evaluate * zoo.images_evaluated


def measure(
    zoos: Iterable[ZooFacts], engine: Engine, *, seconds: float = 3, progress: Progress = NO_PROGRESS
) -> dict[CostKey, CostRate]:
    """Rates of all kinds among these zoos, in about so many seconds each; `engine` should use one core."""
    examples: dict[CostKey, ZooFacts] = {}
    for zoo in zoos:
        examples.setdefault(CostKey.of(zoo), zoo)
    rates: dict[CostKey, CostRate] = {}
    with progress.start("measuring the cost", len(examples)) as task:
        for kind, zoo in examples.items():
            rates[kind] = _rate(zoo, engine, seconds)
            task.update()
    return rates


def _rate(zoo: ZooFacts, engine: Engine, seconds: float) -> CostRate:
    # The penalty of twins begins in their second epoch.
    training = replace(zoo.members[0].training, epochs=_TWIN_EPOCHS if zoo.twins else 1)
    name = zoo.architecture.name
    start = zoo.architecture.layout.pack(_fresh(zoo, training))
    job = Job(training=training, seed=0, initial_weights=start, sparsify=zoo.twins)
    network = NetworkSpec(training.activation, training.dropout)

    def train(images: Images, n: int) -> None:
        for _ in engine.train(name, images, [job] * n, metrics_on=()):
            pass

    def evaluate(images: Images, n: int) -> None:
        engine.evaluate(name, images, start.expand(n, -1), [network] * n, "train")

    every_epoch = _per_image(train, zoo, seconds * 0.7)
    return CostRate(every_epoch / training.epochs, _per_image(evaluate, zoo, seconds * 0.2))


def _per_image(run: Callable[[Images, int], None], zoo: ZooFacts, seconds: float) -> float:
    """What a further image costs one model: twice as many until the next time would be too long, the last two compared.

    What is done once for all models, as normalising the images, is not of a model: the time for none is subtracted.
    """
    n, before, spent = _FEWEST_IMAGES, 0.0, 0.0
    run(_noise(zoo, n), 1)  # loads what later runs find
    while True:
        images = _noise(zoo, n)
        times = [time.process_time()]  # what else this machine is doing does not count
        for models in (0, _MODELS):
            run(images, models)
            times.append(time.process_time())
        took = (times[2] - 2 * times[1] + times[0]) / _MODELS
        spent += times[2] - times[0]
        enough = took > _SHORTEST and 2 * (times[2] - times[0]) + spent > seconds
        if before and (enough or n >= _MOST_IMAGES):
            return (took - before) / (n / 2) if took > before else took / n
        n, before = 2 * n, took


def _fresh(zoo: ZooFacts, training: Training) -> dict[str, torch.Tensor]:
    module = zoo.architecture.module(training.activation)
    initialize_weights(module, "kaiming_uniform", keyed_generator(0, "estimate"))
    return dict(module.state_dict())


def _noise(zoo: ZooFacts, n: int) -> Images:
    draws = keyed_generator(0, "estimate", "images")
    pixels = torch.randint(256, (n, *zoo.architecture.input_shape), generator=draws).to(torch.uint8)
    labels = torch.randint(zoo.images.classes, (n,), generator=draws)
    mean, std = zoo.images.mean, zoo.images.std
    return Images("noise", zoo.images.classes, mean, std, {"train": Split(pixels, labels)})
