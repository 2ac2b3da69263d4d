"""Image datasets by name: where their pixels come from, how they are split and normalised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import MissingImagesError, RecipeError, unknown
from .embedded import read_fashion_mnist_5k
from .images import Images, Split, split_train
from .torchvision_sets import read_fashion_mnist, read_mnist


@dataclass(frozen=True)
class ImageDataset:
    """`read(root)` gives the official train and test images; `sizes` are the published split sizes."""

    name: str
    read: Callable[[Path], Mapping[str, Split]]
    sizes: tuple[int, int, int]  # train, validation, test
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int = 10


_DATASETS = {
    dataset.name: dataset
    for dataset in (
        ImageDataset("mnist", read_mnist, (50_000, 10_000, 10_000), (0.1307,), (0.3081,)),
        ImageDataset("fashion-mnist", read_fashion_mnist, (50_000, 10_000, 10_000), (0.5,), (0.5,)),
        ImageDataset("fashion-mnist-5k", read_fashion_mnist_5k, (4_200, 800, 1_000), (0.5,), (0.5,)),
    )
}


def image_dataset_names() -> list[str]:
    """All known names."""
    return sorted(_DATASETS)


def get_image_dataset(name: str) -> ImageDataset:
    """The image dataset of that name; raises RecipeError with the nearest known one."""
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
    for split, expected in (("train", n_train + n_validation), ("test", n_test)):
        if len(official[split]) != expected:
            raise MissingImagesError(
                f"images {name}: expected {expected:,} {split} images, found "
                f"{len(official[split]):,} below {root}; remove its files to have them downloaded again"
            )
    return Images(
        name=name,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        splits={**split_train(official["train"], n_train), "test": official["test"]},
    )
