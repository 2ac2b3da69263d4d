"""The cost of training a zoo on this machine: the real engine, timed for seconds on images of random noise."""

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
from .catalogue import CatalogueEntry

_TWIN_EPOCHS = 3
_MIN_IMAGES, _MAX_IMAGES = 2, 20_000  # in one measurement
_MODELS = 4  # trained together, so that they take longer than the work that is done once for all models
_MIN_SECONDS = 0.1  # below, a measurement is mostly noise


@dataclass(frozen=True)
class CostKey:
    """The properties that decide the cost of one image: zoos with equal keys cost the same."""

    architecture: str
    batch_size: int
    augmentation: str
    is_twins: bool

    @classmethod
    def from_zoo(cls, zoo: CatalogueEntry) -> "CostKey":
        """Return the key of a zoo, which its first model decides."""
        training = zoo.members[0].training
        return cls(zoo.architecture.name, training.batch_size, training.augmentation, zoo.is_twins)


@dataclass(frozen=True)
class CostRate:
    """The cost of one image in seconds of one CPU core."""

    train: float
    evaluate: float

    def core_seconds(self, zoo: CatalogueEntry) -> float:
        """Return the seconds of one core that training and evaluating a whole zoo takes."""
        return self.train * zoo.images_trained + self.evaluate * zoo.images_evaluated


def measure_costs(
    zoos: Iterable[CatalogueEntry], engine: Engine, *, seconds: float = 3, progress: Progress = NO_PROGRESS
) -> dict[CostKey, CostRate]:
    """Measure the cost of one image for every key among zoos.

    Args:
        zoos: The zoos.
        engine: The engine; it should use one core.
        seconds: Approximate duration of the measurement of one key.
        progress: Display of the number of measured keys.

    Returns:
        The rate of every key.
    """
    examples: dict[CostKey, CatalogueEntry] = {}
    for zoo in zoos:
        examples.setdefault(CostKey.from_zoo(zoo), zoo)
    rates: dict[CostKey, CostRate] = {}
    with progress.start("measuring the cost", len(examples)) as task:
        for key, zoo in examples.items():
            rates[key] = _rate(zoo, engine, seconds)
            task.update()
    return rates


def _rate(zoo: CatalogueEntry, engine: Engine, seconds: float) -> CostRate:
    # The penalty of twins begins in their second epoch.
    training = replace(zoo.members[0].training, epochs=_TWIN_EPOCHS if zoo.is_twins else 1)
    name = zoo.architecture.name
    start = zoo.architecture.layout.pack(_fresh(zoo, training))
    job = Job(training=training, seed=0, initial_weights=start, sparsify=zoo.is_twins)
    network = NetworkSpec(training.activation, training.dropout)

    def train(images: Images, n: int) -> None:
        for _ in engine.train(name, images, [job] * n, metrics_on=()):
            pass

    def evaluate(images: Images, n: int) -> None:
        engine.evaluate(name, images, start.expand(n, -1), [network] * n, "train")

    every_epoch = _per_image(train, zoo, seconds * 0.7)
    return CostRate(every_epoch / training.epochs, _per_image(evaluate, zoo, seconds * 0.2))


def _per_image(run: Callable[[Images, int], None], zoo: CatalogueEntry, seconds: float) -> float:
    """Return the seconds that one more image costs one model.

    The number of images is doubled until the next measurement would take too long; the last two measurements are then
    compared. Work that is done once for all models, such as normalizing the images, belongs to no model: the time for
    no models is subtracted.
    """
    n, previous, spent = _MIN_IMAGES, 0.0, 0.0
    run(_noise(zoo, n), 1)  # compiles and loads what later runs reuse
    while True:
        images = _noise(zoo, n)
        times = [time.process_time()]  # other processes of this machine do not count
        for models in (0, _MODELS):
            run(images, models)
            times.append(time.process_time())
        elapsed = (times[2] - 2 * times[1] + times[0]) / _MODELS
        spent += times[2] - times[0]
        enough = elapsed > _MIN_SECONDS and 2 * (times[2] - times[0]) + spent > seconds
        if previous and (enough or n >= _MAX_IMAGES):
            return (elapsed - previous) / (n / 2) if elapsed > previous else elapsed / n
        n, previous = 2 * n, elapsed


def _fresh(zoo: CatalogueEntry, training: Training) -> dict[str, torch.Tensor]:
    module = zoo.architecture.module(training.activation)
    initialize_weights(module, "kaiming_uniform", keyed_generator(0, "estimate"))
    return dict(module.state_dict())


def _noise(zoo: CatalogueEntry, n: int) -> Images:
    generator = keyed_generator(0, "estimate", "images")
    pixels = torch.randint(256, (n, *zoo.architecture.input_shape), generator=generator).to(torch.uint8)
    labels = torch.randint(zoo.images.classes, (n,), generator=generator)
    mean, std = zoo.images.mean, zoo.images.std
    return Images("noise", zoo.images.classes, mean, std, {"train": Split(pixels, labels)})
