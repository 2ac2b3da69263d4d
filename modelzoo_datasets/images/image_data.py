"""An image dataset as whole uint8 tensors with its splits and normalisation."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

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
    """The splits, and how pixels become inputs: (pixel / 255 - mean) / std per channel.

    Splits are `train`, `validation` and `test`; Tiny ImageNet, as published, has no `validation`.
    """

    name: str
    classes: int
    mean: tuple[float, ...]  # of pixels in [0, 1], per channel
    std: tuple[float, ...]
    splits: Mapping[str, Split]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.splits["train"].pixels.shape[1:]
        return channels, height, width

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) uint8 -> inputs (B, C, H, W) float32, on the device that the pixels are on."""
        mean, std = (_per_channel(values, pixels.device) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def inputs(self, split: str) -> Tensor:
        """Normalised float32 images (N, C, H, W) of one split."""
        return self.normalize(self.splits[split].pixels)

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
    """Cut the official training images into train (the first n of a permutation drawn with seed 42) and validation.

    Where nothing is left for validation, nothing is cut: all are train, in the official order.
    """
    if n_train == len(train):
        return {"train": train}
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    parts = {"train": order[:n_train], "validation": order[n_train:]}
    return {name: Split(train.pixels[index], train.labels[index]) for name, index in parts.items()}


# Kept per device, because a copy to an accelerator in every step would make it wait; made outside of inference mode,
# because what is made within could not be used in training.
@lru_cache
@torch.inference_mode(mode=False)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
