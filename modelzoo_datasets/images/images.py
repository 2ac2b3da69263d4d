"""An image dataset as whole uint8 tensors with its splits and normalisation."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SPLIT_SEED = 42  # of every published zoo


@dataclass(frozen=True)
class Split:
    """Images of one split: pixels uint8 (N, C, H, W), labels int64 (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    """Train, validation and test split, and how pixels become inputs: (pixel / 255 - mean) / std per channel."""

    name: str
    classes: int
    mean: tuple[float, ...]  # of pixels in [0, 1], per channel
    std: tuple[float, ...]
    splits: Mapping[str, Split]

    def inputs(self, split: str) -> Tensor:
        """Normalised float32 images (N, C, H, W) of one split."""
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (self.splits[split].pixels.float() / 255 - mean) / std

    def labels(self, split: str) -> Tensor:
        """Class numbers (N,), int64."""
        return self.splits[split].labels

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all pixels, labels and the normalisation: equal images, equal fingerprint."""
        digest = hashlib.sha256(repr((self.name, self.mean, self.std)).encode())
        for name, split in sorted(self.splits.items()):
            digest.update(f"{name}{tuple(split.pixels.shape)}".encode())
            digest.update(split.pixels.numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        return digest.hexdigest()


def split_train(train: Split, n_train: int) -> dict[str, Split]:
    """Cut the official training images into train (the first n of a permutation drawn with seed 42) and validation."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    parts = {"train": order[:n_train], "validation": order[n_train:]}
    return {name: Split(train.pixels[index], train.labels[index]) for name, index in parts.items()}
