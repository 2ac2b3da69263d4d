"""What the published zoos did to pixels before they trained on them: as PIL does it, image by image, in uint8.

N images, C channels, H height, W width
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def unchanged(pixels: Tensor) -> Tensor:
    """The pixels themselves."""
    return pixels


def resized(pixels: Tensor, *, size: int) -> Tensor:
    """Pixels (N, C, H, W) -> (N, C, size, size), bilinear; antialiased where they get smaller."""
    return _each(pixels, lambda image: image.resize((size, size), Image.Resampling.BILINEAR))


def gray_centre(pixels: Tensor, *, size: int) -> Tensor:
    """Colours (N, 3, H, W) -> gray levels (N, 1, size, size), cut out of the middle."""
    top, left = ((n - size) // 2 for n in pixels.shape[2:])
    return _each(pixels, lambda image: image.convert("L").crop((left, top, left + size, top + size)))


def _each(pixels: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Hand each image (C, H, W) to PIL, and put together what comes back."""
    pictures = pixels.squeeze(1) if pixels.shape[1] == 1 else pixels.movedim(1, 3)  # (N, H, W) or (N, H, W, C)
    changed = np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pictures.numpy()])
    stacked = torch.from_numpy(changed)
    return stacked.unsqueeze(1) if stacked.ndim == 3 else stacked.movedim(3, 1).contiguous()
