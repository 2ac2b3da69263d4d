"""An image dataset: how to read, split and normalize it, and its images as whole uint8 tensors."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

OFFICIAL_SPLITS = ("train", "test")  # as published
SPLIT_SEED = 42  # seed of the split in every published zoo


@dataclass(frozen=True)
class Split:
    """The images of one split: pixels (N, C, H, W), uint8, and labels (N,), int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageDataset:
    """An image dataset: how to read its official splits, and how to split and normalize the images.

    Args:
        name: The unique name, as in recipes.
        read: A function of the root folder that returns the official splits "train" and "test".
        sizes: The numbers of training, validation and test images; training and validation images are both taken from
            the official training images. 0 means that there is no such split.
        mean: The mean per channel of pixels in [0, 1].
        std: The standard deviation per channel.
        classes: The number of classes.
        size: Height and width of the images after `prepare`.
        prepare: A function of pixels (N, C, H, W), uint8, that returns pixels (N, C', H', W'), uint8.
        class_names: The names of the classes in the order of their labels; empty if they are unknown.

    Example:
        >>> import torch
        >>> from modelzoo_datasets.images import Split
        >>> def read(root):
        ...     pixels = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
        ...     return {"train": Split(pixels, torch.arange(6) % 2), "test": Split(pixels, torch.arange(6) % 2)}
        >>> ImageDataset("blank", read, sizes=(4, 2, 6), mean=(0.5,), std=(0.25,), classes=2, size=(8, 8)).input_shape
        (1, 8, 8)
    """

    name: str
    read: Callable[[Path], Mapping[str, Split]]
    sizes: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int = 10
    size: tuple[int, int] = (28, 28)
    prepare: Callable[[Tensor], Tensor] = lambda pixels: pixels
    class_names: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image, without reading any."""
        return len(self.mean), *self.size


@dataclass(frozen=True)
class Images:
    """All splits of an image dataset with its normalization, (pixel / 255 - mean) / std per channel.

    The splits are `train`, `validation` and `test`. As published, Tiny ImageNet has no `validation`.
    """

    name: str
    classes: int
    mean: tuple[float, ...]  # mean per channel of pixels in [0, 1]
    std: tuple[float, ...]
    splits: Mapping[str, Split]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.splits["train"].pixels.shape[1:]
        return channels, height, width

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return the inputs (B, C, H, W), float32, of pixels (B, C, H, W), uint8, on the device of the pixels."""
        mean, std = (_per_channel(values, pixels.device) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def inputs(self, split: str) -> Tensor:
        """Return the normalized images (N, C, H, W), float32, of one split."""
        return self.normalize(self.splits[split].pixels)

    def labels(self, split: str) -> Tensor:
        """Return the class indices (N,), int64, of one split."""
        return self.splits[split].labels

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all pixels, labels and the normalization."""
        digest = hashlib.sha256(repr((self.name, self.mean, self.std)).encode())
        for name, split in sorted(self.splits.items()):
            digest.update(f"{name}{tuple(split.pixels.shape)}".encode())
            digest.update(split.pixels.numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        return digest.hexdigest()


def split_train(train: Split, n_train: int) -> dict[str, Split]:
    """Split the official training images into train and validation.

    The training images are the first `n_train` of a random permutation with seed 42. If no image is left for
    validation, all are training images in the official order.
    """
    if n_train == len(train):
        return {"train": train}
    parts = _list_parts(len(train), n_train)
    return {name: Split(train.pixels[index], train.labels[index]) for name, index in parts.items()}


def list_split_indices(sizes: tuple[int, int, int]) -> dict[str, Tensor]:
    """Return the split of every image, without reading any: int64 indices into the official images.

    Args:
        sizes: The numbers of training, validation and test images, as in `ImageDataset`.

    Returns:
        The indices of `train`, `validation`, if there are any, and `test`. Training and validation images are in the
        official training images.
    """
    n_train, n_validation, n_test = sizes
    parts = _list_parts(n_train + n_validation, n_train) if n_validation else {"train": torch.arange(n_train)}
    return {**parts, "test": torch.arange(n_test)}


def _list_parts(total: int, n_train: int) -> dict[str, Tensor]:
    order = torch.randperm(total, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return {"train": order[:n_train], "validation": order[n_train:]}


# Cached per device, because a copy in every step would stall an accelerator. Created outside of inference mode, because
# inference tensors cannot be used in training.
@lru_cache
@torch.inference_mode(mode=False)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
