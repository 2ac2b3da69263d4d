"""The image datasets of the published zoos (2209.14764) with their transforms, and one that needs no download.

N images, C channels, H height, W width
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .image_data import ImageDataset
from .image_formats import (
    read_cifar10,
    read_cifar100,
    read_fashion_mnist,
    read_fashion_mnist_5k,
    read_mnist,
    read_stl10,
    read_svhn,
    read_usps,
)
from .tiny_imagenet import read_tiny_imagenet


def _resize(pixels: Tensor, *, size: int) -> Tensor:
    """Return pixels (N, C, size, size) by bilinear interpolation, with antialiasing when images shrink."""
    return _transform(pixels, lambda image: image.resize((size, size), Image.Resampling.BILINEAR))


def _crop_gray(pixels: Tensor, *, size: int) -> Tensor:
    """Return the gray center crops (N, 1, size, size) of color images (N, 3, H, W)."""
    y, x = ((n - size) // 2 for n in pixels.shape[2:])
    return _transform(pixels, lambda image: image.convert("L").crop((x, y, x + size, y + size)))


def _transform(pixels: Tensor, function: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply a PIL function to each image and stack the results."""
    arrays = pixels.squeeze(1) if pixels.shape[1] == 1 else pixels.movedim(1, 3)  # (N, H, W) or (N, H, W, C)
    results = np.stack([np.asarray(function(Image.fromarray(array))) for array in arrays.numpy()])
    stacked = torch.from_numpy(results)
    return stacked.unsqueeze(1) if stacked.ndim == 3 else stacked.movedim(3, 1).contiguous()


# Mean and standard deviation per channel.
_MNIST = ((0.1307,), (0.3081,))
_GRAY = ((0.5,), (0.5,))
_COLOR = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Mean and standard deviation of the ResNet zoos.
_CIFAR10 = ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))
_CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_28, _32 = partial(_resize, size=28), partial(_resize, size=32)

BUILTIN = (
    ImageDataset("mnist", read_mnist, (50_000, 10_000, 10_000), *_MNIST),
    ImageDataset("fashion-mnist", read_fashion_mnist, (50_000, 10_000, 10_000), *_GRAY),
    ImageDataset("fashion-mnist-5k", read_fashion_mnist_5k, (4_200, 800, 1_000), *_GRAY),
    # As in the Small CNN Zoo (2002.11448), whose network averages the channels of color images.
    ImageDataset("mnist-centred", read_mnist, (50_000, 10_000, 10_000), *_GRAY),
    ImageDataset("svhn-32", read_svhn, (60_000, 13_257, 26_032), *_COLOR, size=(32, 32)),
    ImageDataset("svhn", read_svhn, (60_000, 13_257, 26_032), *_GRAY, prepare=partial(_crop_gray, size=28)),
    ImageDataset("usps", read_usps, (6_000, 1_291, 2_007), *_MNIST, prepare=_28),
    ImageDataset("cifar10-28", read_cifar10, (42_000, 8_000, 10_000), *_COLOR, prepare=_28),
    ImageDataset("cifar10", read_cifar10, (42_000, 8_000, 10_000), *_COLOR, size=(32, 32)),
    ImageDataset("cifar10-40k", read_cifar10, (40_000, 10_000, 10_000), *_CIFAR10, size=(32, 32)),
    ImageDataset("cifar100", read_cifar100, (40_000, 10_000, 10_000), *_CIFAR100, classes=100, size=(32, 32)),
    ImageDataset("stl10-28", read_stl10, (4_200, 800, 8_000), *_COLOR, prepare=_28),
    ImageDataset("stl10", read_stl10, (4_200, 800, 8_000), *_COLOR, size=(32, 32), prepare=_32),
    ImageDataset("tiny-imagenet", read_tiny_imagenet, (100_000, 0, 10_000), *_IMAGENET, classes=200, size=(64, 64)),
)
