"""The zoos of recipes with their sizes: models, states, parameters, bytes on disk, and images seen in training.

Their costs on this machine are measured with the real engine, for seconds, on images of random noise.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from ..architectures import Architecture, get_architecture, initialize_weights, resolve_architecture
from ..engines import Engine, Job, NetworkSpec, variational_layout
from ..images import ImageDataset, Images, Split, get_image_dataset
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member, Recipe, Training, read_recipe, recipe_names
from ..seeds import keyed_generator
from ..weights import Layout
from ..zoo import TensorSpec, make_header

_TWIN_EPOCHS = 3
_MIN_IMAGES, _MAX_IMAGES = 2, 20_000  # in one measurement
_MODELS = 4  # trained together, so that they take longer than the work that is done once for all models
_MIN_SECONDS = 0.1  # below, a measurement is mostly noise


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """A zoo before it is trained: its recipe, and the sizes that follow from it."""

    recipe: Recipe
    config: str
    architecture: Architecture
    images: ImageDataset
    members: Sequence[Member]

    @property
    def name(self) -> str:
        """RECIPE/CONFIG, as commands take it."""
        return f"{self.recipe.name}/{self.config}"

    @property
    def is_twins(self) -> bool:
        """True if the models are sparsified twins."""
        return self.recipe.config(self.config).parent is not None

    @property
    def parameters(self) -> int:
        """Number of trained weights of one model, without buffers such as the statistics of BatchNorm."""
        return sum(slot.size for slot in self.architecture.layout.slots if not slot.buffer)

    @property
    def states(self) -> int:
        """Number of states of all models, including epoch 0."""
        return sum(member.training.epochs + 1 for member in self.members)

    @property
    def states_as_published(self) -> int:
        """Number of states as 2209.14764 counts them: without epoch 0 of the ResNets and of the twins."""
        skips_initial = self.is_twins or self.architecture.family == "resnet18"
        return self.states - skips_initial * len(self.members)

    @property
    def files(self) -> int:
        """Number of state files with the default storage, without the tables."""
        return self.states * (2 if self.is_twins else 1)

    @property
    def bytes(self) -> int:
        """Size of all state files in bytes with the default storage."""
        name = self.architecture.name
        counts = Counter((m.training.epochs + 1, m.training.dropout) for m in self.members)
        return sum(
            models * states * (_state_bytes(name, dropout) + self.is_twins * _variational_bytes(name))
            for (states, dropout), models in counts.items()
        )

    @property
    def images_trained(self) -> int:
        """Number of images that pass forward and backward through a network."""
        return sum(m.training.epochs for m in self.members) * self.images.sizes[0]

    @property
    def images_evaluated(self) -> int:
        """Number of images that pass only forward through a network.

        These are the validation and test images of every state, and the training images of every initial state.
        """
        train, validation, test = self.images.sizes
        return self.states * (validation + test) + len(self.members) * train


def list_shipped_zoos() -> list[CatalogueEntry]:
    """Return all zoos of all shipped recipes."""
    recipes = [read_recipe(name) for name in recipe_names("generation")]
    return list(itertools.chain.from_iterable(list_zoos(recipe) for recipe in recipes))


def list_zoos(recipe: Recipe, config: str | None = None) -> list[CatalogueEntry]:
    """Return the zoo of one config of a recipe, or of every config if none is named.

    Raises:
        RecipeError: The config, architecture or images are unknown.
    """
    images = get_image_dataset(recipe.images)
    architecture = resolve_architecture(recipe.architecture, images.input_shape, images.classes)
    return [
        CatalogueEntry(
            recipe=recipe,
            config=name,
            architecture=architecture,
            images=images,
            members=recipe.members(name),
        )
        for name in ([config] if config else recipe.configs)
    ]


@cache
def _state_bytes(architecture: str, dropout: float) -> int:
    return _file_bytes(get_architecture(architecture).layout_with(dropout))


@cache
def _variational_bytes(architecture: str) -> int:
    return _file_bytes(variational_layout(architecture))


def _file_bytes(layout: Layout) -> int:
    """Return the size of one state file: its numbers and its header."""
    slots = sorted(layout.slots, key=lambda slot: (-slot.dtype.itemsize, slot.name))  # the order of safetensors
    specs = {slot.name: TensorSpec(slot.dtype, slot.shape) for slot in slots}
    header, _ = make_header(specs, {})
    return len(header) + sum(spec.nbytes for spec in specs.values())


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
