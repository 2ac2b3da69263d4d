"""Image datasets by name: where their pixels come from, how they are split and normalised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from ..errors import MissingImagesError, RecipeError, unknown
from ..plugins import load_plugins
from .image_data import Images, Split, split_train
from .transforms import unchanged


@dataclass(frozen=True)
class ImageDataset:
    """`read(root)` gives the official train and test images; `sizes` are the published split sizes."""

    name: str
    read: Callable[[Path], Mapping[str, Split]]
    sizes: tuple[int, int, int]  # train, validation, test; 0: there is no such split
    mean: tuple[float, ...]  # of pixels in [0, 1], per channel
    std: tuple[float, ...]
    classes: int = 10
    size: tuple[int, int] = (28, 28)  # height, width
    prepare: Callable[[Tensor], Tensor] = unchanged  # pixels (N, C, H, W) uint8 -> (N, C', H', W') uint8

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image, known before any is read."""
        return len(self.mean), *self.size


_OFFICIAL = ("train", "test")  # the splits that are published
_DATASETS: dict[str, ImageDataset] = {}


def load_builtin() -> None:
    """Import the module that registers the built-in image datasets, and the user's plugins."""
    import_module(".builtin", __package__)
    load_plugins()


def register_images(dataset: ImageDataset) -> ImageDataset:
    """Make an image dataset known by its name; a name can be taken once."""
    import_module(".builtin", __package__)  # first, so that nobody takes one of its names
    return add_images(dataset)


def add_images(dataset: ImageDataset) -> ImageDataset:
    """Register without loading the built-in image datasets first; they themselves use it."""
    if dataset.name in _DATASETS:
        raise ValueError(f"image dataset {dataset.name!r} is registered twice")
    _DATASETS[dataset.name] = dataset
    return dataset


def image_dataset_names() -> list[str]:
    """All registered names."""
    load_builtin()
    return sorted(_DATASETS)


def get_image_dataset(name: str) -> ImageDataset:
    """The image dataset of that name; raises RecipeError with the nearest known one."""
    load_builtin()
    if name not in _DATASETS:
        raise RecipeError(unknown("images", name, _DATASETS))
    return _DATASETS[name]


def load_images(name: str, root: Path) -> Images:
    """All images of a dataset: read from `root`, downloaded into it where they are missing.

    Raises:
        RecipeError: no such dataset.
        MissingImagesError: neither there nor to be downloaded, or not complete.
    """
    dataset = get_image_dataset(name)
    official = dataset.read(root)
    n_train, n_validation, n_test = dataset.sizes
    for split, expected in zip(_OFFICIAL, (n_train + n_validation, n_test), strict=True):
        _check(dataset, split, official[split], expected, root)
    prepared = {split: _prepare(dataset, official[split]) for split in _OFFICIAL}
    return Images(
        name=name,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        splits={**split_train(prepared["train"], n_train), "test": prepared["test"]},
    )


def _check(dataset: ImageDataset, split: str, found: Split, expected: int, root: Path) -> None:
    """Raise MissingImagesError where files that could be read are not the whole dataset, or another one."""
    again = "remove its files to have them downloaded again"
    for what, n in (("images", len(found.pixels)), ("labels", len(found.labels))):
        if n != expected:
            raise MissingImagesError(
                f"images {dataset.name}: expected {expected:,} {split} {what}, found {n:,} below {root}; {again}"
            )
    lowest, highest = (int(label) for label in torch.aminmax(found.labels))
    if lowest < 0 or highest >= dataset.classes:
        raise MissingImagesError(
            f"images {dataset.name}: expected {split} labels from 0 to {dataset.classes - 1}, found {lowest} to "
            f"{highest} below {root}; {again}"
        )


def _prepare(dataset: ImageDataset, official: Split) -> Split:
    pixels = dataset.prepare(official.pixels)
    if not pixels.shape[1] == len(dataset.mean) == len(dataset.std):
        raise ValueError(
            f"image dataset {dataset.name!r}: expected a mean and a std for each of {pixels.shape[1]} channels, got "
            f"{dataset.mean} and {dataset.std}"
        )
    if tuple(pixels.shape[1:]) != dataset.input_shape:
        raise ValueError(
            f"image dataset {dataset.name!r}: expected images of size {dataset.size}, got {tuple(pixels.shape[2:])}"
        )
    return Split(pixels, official.labels)
