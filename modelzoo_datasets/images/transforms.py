"""Transforms of the published zoos, applied to each image by PIL in uint8.

N images, C channels, H height, W width
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def identity(pixels: Tensor) -> Tensor:
    """Return the pixels themselves."""
    return pixels


def resize(pixels: Tensor, *, size: int) -> Tensor:
    """Return pixels (N, C, size, size) by bilinear interpolation, with antialiasing when images shrink."""
    return _transform(pixels, lambda image: image.resize((size, size), Image.Resampling.BILINEAR))


def crop_gray(pixels: Tensor, *, size: int) -> Tensor:
    """Return the gray center crops (N, 1, size, size) of color images (N, 3, H, W)."""
    y, x = ((n - size) // 2 for n in pixels.shape[2:])
    return _transform(pixels, lambda image: image.convert("L").crop((x, y, x + size, y + size)))


def _transform(pixels: Tensor, function: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply a PIL function to each image and stack the results."""
    arrays = pixels.squeeze(1) if pixels.shape[1] == 1 else pixels.movedim(1, 3)  # (N, H, W) or (N, H, W, C)
    results = np.stack([np.asarray(function(Image.fromarray(array))) for array in arrays.numpy()])
    stacked = torch.from_numpy(results)
    return stacked.unsqueeze(1) if stacked.ndim == 3 else stacked.movedim(3, 1).contiguous()
