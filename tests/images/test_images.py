"""Image datasets as values: splits, normalisation, fingerprint, registry."""

import dataclasses
from dataclasses import FrozenInstanceError
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import random_split
from torchvision import transforms

from modelzoo_datasets.errors import MissingImagesError, RecipeError
from modelzoo_datasets.images import (
    ImageDataset,
    Images,
    Split,
    get_image_dataset,
    image_dataset_names,
    load_images,
    register_images,
    registry,
)
from modelzoo_datasets.images.image_data import split_train
from modelzoo_datasets.images.image_formats import read_fashion_mnist_5k


def test_the_embedded_images_have_the_shapes_and_splits_they_promise(images: Images) -> None:
    sizes = {name: tuple(split.pixels.shape) for name, split in images.splits.items()}
    assert sizes == {
        "train": (4200, 1, 28, 28),
        "validation": (800, 1, 28, 28),
        "test": (1000, 1, 28, 28),
    }
    for split in images.splits.values():
        assert split.pixels.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert len(split) == len(split.pixels)
        assert set(split.labels.tolist()) == set(range(images.classes))


def test_train_and_validation_are_disjoint_and_together_the_official_train(images: Images) -> None:
    official = read_fashion_mnist_5k(Path())["train"]
    parts = random_split(range(5000), (4200, 800), generator=torch.Generator().manual_seed(42))
    assert sorted([*parts[0].indices, *parts[1].indices]) == list(range(5000))
    for name, part in zip(("train", "validation"), parts, strict=True):
        assert torch.equal(images.splits[name].pixels, official.pixels[part.indices])
        assert torch.equal(images.labels(name), official.labels[part.indices])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_inputs_are_what_torchvision_transforms_give(images: Images, split: str) -> None:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(images.mean, images.std)])
    inputs = images.inputs(split)
    assert inputs.dtype == torch.float32
    for i in range(0, len(inputs), 50):
        picture = images.splits[split].pixels[i, 0].numpy()[:, :, None]
        assert torch.equal(inputs[i], transform(picture))


def test_normalising_a_batch_is_what_inputs_does_and_fits_any_shape(images: Images) -> None:
    picked = images.splits["test"].pixels[10:20]
    assert torch.equal(images.normalize(picked), images.inputs("test")[10:20])
    assert images.normalize(picked[:0]).shape == (0, 1, 28, 28)
    assert images.input_shape == (1, 28, 28)
    with pytest.raises(FrozenInstanceError):
        images.input_shape = (3, 28, 28)  # type: ignore[misc]


def test_images_normalised_in_inference_mode_first_can_be_trained_on_later(images: Images) -> None:
    mean = (0.123,)  # of no other test, so that what is kept of it is made here
    other = dataclasses.replace(images, mean=mean)
    picked = images.splits["test"].pixels[:4]
    with torch.inference_mode():
        before = other.normalize(picked)
    weight = torch.ones(1, requires_grad=True)
    (other.normalize(picked) * weight).sum().backward()
    torch.testing.assert_close(weight.grad, before.sum().view(1))


@pytest.mark.gpu
def test_pixels_are_normalised_where_they_are(images: Images) -> None:
    picked = images.splits["test"].pixels[:100]
    found = images.normalize(picked.to("cuda"))
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), images.normalize(picked))


def test_images_without_validation_stay_in_their_order(images: Images) -> None:
    train = images.splits["train"]
    assert split_train(train, len(train)) == {"train": train}


@pytest.fixture
def registering(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(registry, "_DATASETS", dict(registry._DATASETS))


def own_images(**changed: Any) -> ImageDataset:
    """An image dataset as a user may add it: 12 official training images, 5 test images, 3 classes, 2 channels."""
    draws = torch.Generator().manual_seed(0)

    def read(root: Path) -> dict[str, Split]:
        sizes = {"train": 12, "test": 5}
        return {
            split: Split(
                torch.randint(256, (n, 2, 6, 7), generator=draws, dtype=torch.uint8),
                torch.randint(3, (n,), generator=draws),
            )
            for split, n in sizes.items()
        }

    plain = ImageDataset("own", read, (9, 3, 5), mean=(0.1, 0.2), std=(0.3, 0.4), classes=3, size=(6, 7))
    return dataclasses.replace(plain, **changed)


@pytest.mark.usefixtures("registering")
def test_an_own_image_dataset_can_be_added_once() -> None:
    own = own_images(prepare=lambda pixels: pixels.flip(3)[..., :6], size=(6, 6))
    assert register_images(own) is own is get_image_dataset("own")
    assert "own" in image_dataset_names()
    found = load_images("own", Path())
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 9, "validation": 3, "test": 5}
    assert found.input_shape == (2, 6, 6)
    with pytest.raises(ValueError) as caught:
        register_images(own)
    assert str(caught.value) == "image dataset 'own' is already registered; choose another name"


@pytest.mark.usefixtures("registering")
def test_an_own_image_dataset_must_be_what_it_says(tmp_path: Path) -> None:
    register_images(own_images(std=(0.3,)))
    with pytest.raises(ValueError) as caught:
        load_images("own", tmp_path)
    assert str(caught.value) == (
        "image dataset 'own': expected a mean and a std for each of 2 channels, got (0.1, 0.2) and (0.3,)"
    )
    register_images(own_images(name="two-classes", classes=2))
    with pytest.raises(MissingImagesError) as caught:
        load_images("two-classes", tmp_path)
    assert str(caught.value) == (
        f"images two-classes: expected train labels from 0 to 1, found 0 to 2 below {tmp_path}; "
        "remove its files to have them downloaded again"
    )


def test_the_fingerprint_tells_images_apart(images: Images, few_images: Images) -> None:
    again = load_images("fashion-mnist-5k", Path())
    assert again.fingerprint == images.fingerprint != few_images.fingerprint
    again.splits["test"].pixels[0, 0, 0, 0] += 1
    changed = Images(**{f: getattr(again, f) for f in ("name", "classes", "mean", "std", "splits")})
    assert changed.fingerprint != images.fingerprint


def test_the_licence_of_the_embedded_images_ships_with_them() -> None:
    notice = (files("modelzoo_datasets.images") / "data" / "FASHION_MNIST_LICENSE").read_text()
    assert "Zalando SE" in notice
    assert "The above copyright notice and this permission notice shall be included" in notice


def test_unknown_images_are_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        load_images("fashion-mnist-5", Path())
    assert str(caught.value) == "unknown images 'fashion-mnist-5'; did you mean 'fashion-mnist-5k'?; " + (
        "to use your own, pass --plugin FILE, a Python file that registers it"
    )
    with pytest.raises(RecipeError, match="^unknown images 'zzz'; known: mnist, fashion-mnist, "):
        load_images("zzz", Path())
