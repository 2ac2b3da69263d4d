"""The registry of image datasets: those of the published zoos (2209.14764), and those that plugins add."""

from functools import partial
from pathlib import Path

import torch

from .._util import user_cache_folder
from ..errors import ArgumentError, MissingImagesError, RecipeError
from ..plugins import explain_unknown, load_plugins
from .class_names import CIFAR10, CIFAR100, DIGITS, FASHION, STL10
from .image_data import OFFICIAL_SPLITS, ImageDataset, Images, Split, split_train
from .image_formats import (
    crop_gray,
    read_cifar10,
    read_cifar100,
    read_fashion_mnist,
    read_fashion_mnist_5k,
    read_mnist,
    read_stl10,
    read_svhn,
    read_usps,
    resize,
)
from .tiny_imagenet import read_tiny_imagenet

# Mean and standard deviation per channel.
_MNIST = ((0.1307,), (0.3081,))
_GRAY = ((0.5,), (0.5,))
_COLOR = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Mean and standard deviation of the ResNet zoos.
_CIFAR10 = ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))
_CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_28, _32 = partial(resize, size=28), partial(resize, size=32)

_PUBLISHED = (
    ImageDataset("mnist", read_mnist, (50_000, 10_000, 10_000), *_MNIST, class_names=DIGITS),
    ImageDataset("fashion-mnist", read_fashion_mnist, (50_000, 10_000, 10_000), *_GRAY, class_names=FASHION),
    ImageDataset("fashion-mnist-5k", read_fashion_mnist_5k, (4_200, 800, 1_000), *_GRAY, class_names=FASHION),
    # As in the Small CNN Zoo (2002.11448), whose network averages the channels of color images.
    ImageDataset("mnist-centred", read_mnist, (50_000, 10_000, 10_000), *_GRAY, class_names=DIGITS),
    ImageDataset("svhn-32", read_svhn, (60_000, 13_257, 26_032), *_COLOR, size=(32, 32), class_names=DIGITS),
    ImageDataset(
        "svhn", read_svhn, (60_000, 13_257, 26_032), *_GRAY, prepare=partial(crop_gray, size=28), class_names=DIGITS
    ),
    ImageDataset("usps", read_usps, (6_000, 1_291, 2_007), *_MNIST, prepare=_28, class_names=DIGITS),
    ImageDataset("cifar10-28", read_cifar10, (42_000, 8_000, 10_000), *_COLOR, prepare=_28, class_names=CIFAR10),
    ImageDataset("cifar10", read_cifar10, (42_000, 8_000, 10_000), *_COLOR, size=(32, 32), class_names=CIFAR10),
    ImageDataset("cifar10-40k", read_cifar10, (40_000, 10_000, 10_000), *_CIFAR10, size=(32, 32), class_names=CIFAR10),
    ImageDataset(
        "cifar100",
        read_cifar100,
        (40_000, 10_000, 10_000),
        *_CIFAR100,
        classes=100,
        size=(32, 32),
        class_names=CIFAR100,
    ),
    ImageDataset("stl10-28", read_stl10, (4_200, 800, 8_000), *_COLOR, prepare=_28, class_names=STL10),
    ImageDataset("stl10", read_stl10, (4_200, 800, 8_000), *_COLOR, size=(32, 32), prepare=_32, class_names=STL10),
    ImageDataset("tiny-imagenet", read_tiny_imagenet, (100_000, 0, 10_000), *_IMAGENET, classes=200, size=(64, 64)),
)
_DATASETS = {dataset.name: dataset for dataset in _PUBLISHED}


def register_images(dataset: ImageDataset) -> ImageDataset:
    """Register an image dataset, so that recipes can name it.

    Call this in a plugin file that is passed to the commands with `--plugin`.

    Args:
        dataset: The image dataset; its name must be new.

    Returns:
        The same image dataset.

    Raises:
        ArgumentError: The name is already registered.

    Example:
        >>> import torch
        >>> from modelzoo_datasets.images import Split, load_images
        >>> def read(root):
        ...     pixels = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
        ...     return {"train": Split(pixels, torch.arange(6) % 2), "test": Split(pixels, torch.arange(6) % 2)}
        >>> blank = ImageDataset("blank-example", read, (4, 2, 6), mean=(0.5,), std=(0.25,), classes=2, size=(8, 8))
        >>> register_images(blank).name
        'blank-example'
        >>> load_images("blank-example").input_shape
        (1, 8, 8)
    """
    if dataset.name in _DATASETS:
        raise ArgumentError(f"image dataset {dataset.name!r} is already registered; choose another name")
    _DATASETS[dataset.name] = dataset
    return dataset


def image_dataset_names() -> list[str]:
    """Return all registered names, sorted."""
    load_plugins()
    return sorted(_DATASETS)


def get_image_dataset(name: str) -> ImageDataset:
    """Return the image dataset with this name.

    Raises:
        RecipeError: The name is not registered; the message offers the most similar one.
    """
    load_plugins()
    if name not in _DATASETS:
        raise RecipeError(explain_unknown("images", name, _DATASETS))
    return _DATASETS[name]


def load_images(name: str, root: Path | None = None) -> Images:
    """Return all images of a dataset, after downloading missing files.

    Args:
        name: The registered name.
        root: The folder of the image files; the cache folder of this package by default.

    Raises:
        RecipeError: The name is not registered.
        MissingImagesError: Files are missing and cannot be downloaded, or they are damaged or incomplete.
    """
    dataset = get_image_dataset(name)
    root = user_cache_folder("images") if root is None else root
    official = dataset.read(root)
    n_train, n_validation, n_test = dataset.sizes
    for split, expected in zip(OFFICIAL_SPLITS, (n_train + n_validation, n_test), strict=True):
        _check(dataset, split, official[split], expected, root)
    prepared = {split: _prepare(dataset, official[split]) for split in OFFICIAL_SPLITS}
    return Images(
        name=name,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        splits={**split_train(prepared["train"], n_train), "test": prepared["test"]},
    )


def _check(dataset: ImageDataset, split: str, official: Split, expected: int, root: Path) -> None:
    """Raise MissingImagesError if readable files are incomplete or belong to another dataset."""
    again = "remove its files to have them downloaded again"
    for what, n in (("images", len(official.pixels)), ("labels", len(official.labels))):
        if n != expected:
            raise MissingImagesError(
                f"images {dataset.name}: expected {expected:,} {split} {what}, found {n:,} below {root}; {again}"
            )
    lowest, highest = (int(label) for label in torch.aminmax(official.labels))
    if lowest < 0 or highest >= dataset.classes:
        raise MissingImagesError(
            f"images {dataset.name}: expected {split} labels from 0 to {dataset.classes - 1}, found {lowest} to "
            f"{highest} below {root}; {again}"
        )


def _prepare(dataset: ImageDataset, official: Split) -> Split:
    pixels = dataset.prepare(official.pixels)
    if not pixels.shape[1] == len(dataset.mean) == len(dataset.std):
        raise ArgumentError(
            f"image dataset {dataset.name!r}: expected a mean and a std for each of {pixels.shape[1]} channels, got "
            f"{dataset.mean} and {dataset.std}"
        )
    if tuple(pixels.shape[1:]) != dataset.input_shape:
        raise ArgumentError(
            f"image dataset {dataset.name!r}: expected images of size {dataset.size}, got {tuple(pixels.shape[2:])}"
        )
    return Split(pixels, official.labels)
