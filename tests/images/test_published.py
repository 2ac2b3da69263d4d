"""SVHN, USPS, CIFAR and STL-10 in their own formats: downloaded, read, prepared and split as for the published zoos.

The files are real but small; the registry's sizes are made as small, and nothing else but address and checksum changes.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.real_files import SIZES, Arrays, N, files_in, use_server
from PIL import Image
from torch.utils.data import random_split
from torchvision.transforms import CenterCrop, Compose, Grayscale, Normalize, Resize, ToTensor

from modelzoo_datasets.images import get_image_dataset, image_dataset_names, load_images

HALF = ((0.5,), (0.5,))
HALVES = ((0.5,) * 3, (0.5,) * 3)

# 2209.14764: split sizes, mean and standard deviation, and what comes before ToTensor and Normalize.
PUBLISHED = {
    "mnist": ((50_000, 10_000, 10_000), ((0.1307,), (0.3081,))),
    "fashion-mnist": ((50_000, 10_000, 10_000), HALF),
    "svhn": ((60_000, 13_257, 26_032), HALF),
    "usps": ((6_000, 1_291, 2_007), ((0.1307,), (0.3081,))),
    "cifar10-28": ((42_000, 8_000, 10_000), HALVES),
    "cifar10": ((42_000, 8_000, 10_000), HALVES),
    "cifar10-40k": (
        (40_000, 10_000, 10_000),
        (tuple(v / 255 for v in (125.3, 123.0, 113.9)), tuple(v / 255 for v in (63.0, 62.1, 66.7))),
    ),
    "cifar100": ((40_000, 10_000, 10_000), ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))),
    "stl10-28": ((4_200, 800, 8_000), HALVES),
    "stl10": ((4_200, 800, 8_000), HALVES),
    "tiny-imagenet": ((100_000, 0, 10_000), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    # 2002.11448: [-1, 1], whole images
    "mnist-centred": ((50_000, 10_000, 10_000), HALF),
    "svhn-32": ((60_000, 13_257, 26_032), HALVES),
}
CLASSES = {"cifar100": 100, "tiny-imagenet": 200}  # all the others: 10
KIND = {
    "svhn": "SVHN",
    "svhn-32": "SVHN",
    "usps": "USPS",
    "cifar10-28": "CIFAR10",
    "cifar10": "CIFAR10",
    "cifar10-40k": "CIFAR10",
    "cifar100": "CIFAR100",
    "stl10-28": "STL10",
    "stl10": "STL10",
}
BEFORE = {
    "svhn": [Grayscale(1), CenterCrop(28)],
    "usps": [Resize((28, 28))],
    "cifar10-28": [Resize((28, 28))],
    "stl10-28": [Resize((28, 28))],
    "stl10": [Resize((32, 32))],
}
SHAPE = {"svhn": (1, 28, 28), "usps": (1, 28, 28), "cifar10-28": (3, 28, 28), "stl10-28": (3, 28, 28)}  # else 3, 32, 32


def check_against(arrays: Arrays, name: str, root: Path) -> None:
    """Inputs are what the published transforms make of each image; splits those of random_split with seed 42."""
    images = load_images(name, root)
    (_, normalisation) = PUBLISHED[name]
    transform = Compose([*BEFORE.get(name, []), ToTensor(), Normalize(*normalisation)])
    parts = random_split(range(N["train"]), SIZES[:2], generator=torch.Generator().manual_seed(42))
    expected = {"train": ("train", parts[0].indices), "validation": ("train", parts[1].indices)}
    expected["test"] = ("test", list(range(N["test"])))
    assert images.input_shape == SHAPE.get(name, (3, 32, 32))
    assert set(images.splits) == set(expected)
    for split, (official, index) in expected.items():
        assert images.splits[split].pixels.dtype == torch.uint8 and images.labels(split).dtype == torch.int64
        wanted = torch.stack([transform(Image.fromarray(arrays[official, "pixels"][i])) for i in index])
        assert torch.equal(images.inputs(split), wanted)
        assert images.labels(split).tolist() == arrays[official, "labels"][index].tolist()


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_normalisation_and_classes_are_the_published_ones(name: str) -> None:
    dataset = get_image_dataset(name)
    assert (dataset.sizes, (dataset.mean, dataset.std)) == PUBLISHED[name]
    assert dataset.classes == CLASSES.get(name, 10)


def test_every_image_dataset_is_held_against_the_publication() -> None:
    assert {*image_dataset_names()} == {*PUBLISHED, "fashion-mnist-5k"}
    assert {*KIND} == {*PUBLISHED} - {"mnist", "mnist-centred", "fashion-mnist", "tiny-imagenet"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", KIND)
def test_images_are_what_the_published_transforms_give(
    name: str,
    arrays: dict[str, Arrays],
    server_folders: dict[str, Path],
    nobody_listens: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = KIND[name]
    use_server(monkeypatch, kind, nobody_listens, server_folders[kind])
    for file in server_folders[kind].iterdir():
        (tmp_path / file.name).hardlink_to(file)
    check_against(arrays[kind], name, tmp_path)


LEFT = {
    "svhn": {"train_32x32.mat", "test_32x32.mat"},
    "usps": {"usps.bz2", "usps.t.bz2"},
    "cifar10": {
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin/test_batch.bin",
        *(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
    },
    "cifar100": {"cifar-100-binary.tar.gz", "cifar-100-binary/train.bin", "cifar-100-binary/test.bin"},
    "stl10": {"stl10_binary.tar.gz", *(f"stl10_binary/{split}_{what}.bin" for split in N for what in "Xy")},
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", LEFT)
def test_what_is_missing_is_downloaded_once_and_only_what_is_needed_is_unpacked(
    name: str,
    arrays: dict[str, Arrays],
    server_folders: dict[str, Path],
    serve: Callable[[Path], str],
    nobody_listens: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = KIND[name]
    use_server(monkeypatch, kind, serve(server_folders[kind]), server_folders[kind])
    root = tmp_path / "not" / "there"
    check_against(arrays[kind], name, root)
    assert files_in(root) == LEFT[name]
    use_server(monkeypatch, kind, nobody_listens, server_folders[kind])
    for archive in root.glob("*.tar.gz"):
        archive.unlink()  # what was unpacked suffices
    check_against(arrays[kind], name, root)
