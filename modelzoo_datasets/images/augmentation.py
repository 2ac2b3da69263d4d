"""Random augmentation of training images, a whole batch at a time, as in the published ResNet zoos.

`sample_*` draws the parameters of every image; `crop_flip` and `flip_rotate` are deterministic functions of these.

    B images, C channels, H height, W width
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from ..errors import RecipeError, unknown

PADDING = 4  # pixels of zeros on every side before the crop
MAX_ANGLE = 20.0  # degrees


@dataclass(frozen=True)
class CropFlip:
    """Parameters of random crops of padded images, followed by horizontal flips."""

    y: Tensor  # (B,) int64, top edge of the crop, 0 to 2 * PADDING
    x: Tensor  # (B,) int64, left edge of the crop
    flip: Tensor  # (B,) bool


@dataclass(frozen=True)
class FlipRotate:
    """Parameters of horizontal flips, followed by rotations."""

    flip: Tensor  # (B,) bool
    angle: Tensor  # (B,) float32, degrees, counter-clockwise


def augment(pixels: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Return a random view of each image, with the same shape and on the same device.

    The kinds are:

    * "none": the pixels themselves; no random number is drawn.
    * "crop-flip": a crop of the image padded by 4 zero pixels, flipped with probability 1/2 (CIFAR).
    * "flip-rotate": flipped with probability 1/2, then rotated about the center by -20 to 20 degrees, with nearest
      neighbor interpolation and zeros outside of the image (Tiny ImageNet).

    Args:
        pixels: The images (B, C, H, W), uint8.
        kind: "none", "crop-flip" or "flip-rotate".
        generator: The source of all random numbers.

    Raises:
        RecipeError: The kind is unknown.
    """
    if kind not in _KINDS:
        raise RecipeError(unknown("augmentation", kind, _KINDS))
    return _KINDS[kind](pixels, generator)


def sample_crop_flip(n: int, generator: torch.Generator) -> CropFlip:
    """Draw the parameters of n images, on the device of the generator."""
    y, x = torch.randint(2 * PADDING + 1, (2, n), generator=generator, device=generator.device)
    return CropFlip(y, x, _coins(n, generator))


def sample_flip_rotate(n: int, generator: torch.Generator) -> FlipRotate:
    """Draw the parameters of n images, on the device of the generator."""
    flip = _coins(n, generator)
    angle = torch.empty(n, device=generator.device).uniform_(-MAX_ANGLE, MAX_ANGLE, generator=generator)
    return FlipRotate(flip, angle)


def crop_flip(pixels: Tensor, params: CropFlip) -> Tensor:
    """Return crops of the padded images (B, C, H, W), uint8, some of them flipped."""
    height, width = pixels.shape[2:]
    padded = pad(pixels, (PADDING,) * 4)
    y, x, flip = (v.to(pixels.device).unsqueeze(1) for v in (params.y, params.x, params.flip))
    across = torch.arange(width, device=pixels.device)
    rows = y + torch.arange(height, device=pixels.device)  # (B, H)
    columns = x + torch.where(flip, width - 1 - across, across)  # (B, W)
    index = (rows.unsqueeze(2) * padded.shape[3] + columns.unsqueeze(1)).flatten(1)  # (B, H * W)
    return padded.flatten(2).gather(2, index.unsqueeze(1).expand(-1, pixels.shape[1], -1)).view(pixels.shape)


def flip_rotate(pixels: Tensor, params: FlipRotate) -> Tensor:
    """Return the images (B, C, H, W), uint8, some of them flipped, each rotated about its center."""
    flip = params.flip.to(pixels.device).view(-1, 1, 1, 1)
    mirrored = torch.where(flip, pixels.flip(3), pixels)
    height, width = pixels.shape[2:]
    grid = _rotation_grid(params.angle.to(pixels.device), height, width)
    # float32 represents every pixel value exactly, and nearest neighbor interpolation creates no new values.
    return grid_sample(mirrored.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False).to(
        torch.uint8
    )


def _rotation_grid(angle: Tensor, height: int, width: int) -> Tensor:
    """Return the source (B, H, W, 2), in [-1, 1], of each pixel; the arithmetic is torchvision's, to round alike."""
    turn = angle.double().deg2rad()  # (B,)
    cos, sin = turn.cos().float(), turn.sin().float()
    inverse = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)  # maps (x, y) of the result back; (B, out, in)
    down, across = (torch.arange(n, device=angle.device) - (n - 1) / 2 for n in (height, width))
    centered = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=2).view(1, -1, 2)  # (1, H * W, 2)
    size = torch.tensor([width, height], device=angle.device) / 2
    return (centered.expand(len(angle), -1, -1) @ (inverse.mT / size)).view(-1, height, width, 2)


def _coins(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device) < 0.5


_KINDS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda pixels, generator: pixels,
    "crop-flip": lambda pixels, generator: crop_flip(pixels, sample_crop_flip(len(pixels), generator)),
    "flip-rotate": lambda pixels, generator: flip_rotate(pixels, sample_flip_rotate(len(pixels), generator)),
}
