"""Two ResNet-18, really trained: the published recipe on 70 images in CIFAR-10's own format."""

import dataclasses
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.real_files import ARCHIVES, SIZES, random_arrays, write_cifar10

from modelzoo_datasets import build_dataset, generate_zoo, read_recipe
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.images import registry

MODELS = range(3, 5)  # of the grid: one of train, one of validation
EPOCHS = 1


@contextmanager
def small_cifar10() -> Iterator[None]:
    """CIFAR-10 has as many images as `write_images` leaves."""
    small = {"cifar10-40k": dataclasses.replace(registry._DATASETS["cifar10-40k"], sizes=SIZES)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_DATASETS", registry._DATASETS | small)
        yield


def write_images(folder: Path) -> None:
    """The binary files of CIFAR-10, as its archive has them."""
    write_cifar10(random_arrays()["CIFAR10"], folder)
    with tarfile.open(folder / ARCHIVES["CIFAR10"]) as tar:
        tar.extractall(folder, filter="data")


def make_resnet_dataset(folder: Path, engine: Engine) -> Path:
    """The dataset in `folder`, with its zoo `seed` and its `images` beside it."""
    (folder / "images").mkdir()
    write_images(folder / "images")
    recipe = read_recipe("cifar10-resnet18")
    with small_cifar10():
        images = folder / "images"
        generate_zoo(
            recipe, folder / "seed", config="seed", engine=engine, images_root=images, models=MODELS, epochs=EPOCHS
        )
        build_dataset([folder / "seed"], folder / "dataset")
    return folder / "dataset"


def linked(dataset: Path, to: Path) -> Path:
    """A copy without the room of one: a file that is to be changed must be replaced."""
    return Path(shutil.copytree(dataset, to, copy_function=os.link))
