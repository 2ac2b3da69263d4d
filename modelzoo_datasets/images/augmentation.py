"""Random views of training images, a whole batch at once: what the published ResNet zoos were trained on.

Drawing and applying are apart: `draw_*` gives the parameters of every image, the others are functions of them alone.

    B images, C channels, H height, W width
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from ..errors import RecipeError, unknown

PADDING = 4  # pixels of zeros on every side before the crop
LARGEST_ANGLE = 20.0  # degrees


@dataclass(frozen=True)
class CropFlip:
    """Where each image is cut out of its padded self, and whether it is then mirrored."""

    top: Tensor  # (B,) int64, 0 to 2 * PADDING
    left: Tensor  # (B,) int64
    flip: Tensor  # (B,) bool


@dataclass(frozen=True)
class FlipRotate:
    """Whether each image is mirrored, and by how much it is then turned."""

    flip: Tensor  # (B,) bool
    angle: Tensor  # (B,) float32, degrees, counter-clockwise


def augment(pixels: Tensor, kind: str, draws: torch.Generator) -> Tensor:
    """A random view of each image, pixels (B, C, H, W) uint8, as the kind says; of the same shape, on the same device.

    Kinds:
        none: the pixels themselves; nothing is drawn.
        crop-flip: a crop of the image padded by 4 pixels of zeros, mirrored with probability 1/2 (CIFAR).
        flip-rotate: mirrored with probability 1/2, then turned about the centre by up to 20 degrees either way, nearest
            neighbour, zeros where nothing was (Tiny ImageNet).

    Raises:
        RecipeError: no such kind.
    """
    if kind not in _KINDS:
        raise RecipeError(unknown("augmentation", kind, _KINDS))
    return _KINDS[kind](pixels, draws)


def sample_crop_flip(n: int, draws: torch.Generator) -> CropFlip:
    """Parameters of n images, on the device of the generator."""
    top, left = torch.randint(2 * PADDING + 1, (2, n), generator=draws, device=draws.device)
    return CropFlip(top, left, _coins(n, draws))


def sample_flip_rotate(n: int, draws: torch.Generator) -> FlipRotate:
    """Parameters of n images, on the device of the generator."""
    flip = _coins(n, draws)
    angle = torch.empty(n, device=draws.device).uniform_(-LARGEST_ANGLE, LARGEST_ANGLE, generator=draws)
    return FlipRotate(flip, angle)


def crop_flip(pixels: Tensor, drawn: CropFlip) -> Tensor:
    """Cut each image (C, H, W) out of its padded self and mirror some: (B, C, H, W) uint8, both ways."""
    height, width = pixels.shape[2:]
    padded = pad(pixels, (PADDING,) * 4)
    top, left, flip = (v.to(pixels.device).unsqueeze(1) for v in (drawn.top, drawn.left, drawn.flip))
    across = torch.arange(width, device=pixels.device)
    rows = top + torch.arange(height, device=pixels.device)  # (B, H)
    columns = left + torch.where(flip, width - 1 - across, across)  # (B, W)
    index = (rows.unsqueeze(2) * padded.shape[3] + columns.unsqueeze(1)).flatten(1)  # (B, H * W)
    return padded.flatten(2).gather(2, index.unsqueeze(1).expand(-1, pixels.shape[1], -1)).view(pixels.shape)


def flip_rotate(pixels: Tensor, drawn: FlipRotate) -> Tensor:
    """Mirror some images (C, H, W), then turn each about its centre: (B, C, H, W) uint8, both ways."""
    flip = drawn.flip.to(pixels.device).view(-1, 1, 1, 1)
    flipped = torch.where(flip, pixels.flip(3), pixels)
    height, width = pixels.shape[2:]
    grid = _rotation_grid(drawn.angle.to(pixels.device), height, width)
    # float32 holds every pixel value exactly, and nearest neighbour makes no new ones.
    return grid_sample(flipped.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False).to(torch.uint8)


def _rotation_grid(angle: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel comes from, (B, H, W, 2) in [-1, 1]: torchvision's arithmetic, so that ties fall as its do."""
    turn = angle.double().deg2rad()  # (B,)
    cos, sin = turn.cos().float(), turn.sin().float()
    inverse = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)  # maps (x, y) of the result back; (B, out, in)
    down, across = (torch.arange(n, device=angle.device) - (n - 1) / 2 for n in (height, width))
    centred = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=2).view(1, -1, 2)  # (1, H * W, 2)
    size = torch.tensor([width, height], device=angle.device) / 2
    return (centred.expand(len(angle), -1, -1) @ (inverse.mT / size)).view(-1, height, width, 2)


def _coins(n: int, draws: torch.Generator) -> Tensor:
    return torch.rand(n, generator=draws, device=draws.device) < 0.5


_KINDS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda pixels, draws: pixels,
    "crop-flip": lambda pixels, draws: crop_flip(pixels, sample_crop_flip(len(pixels), draws)),
    "flip-rotate": lambda pixels, draws: flip_rotate(pixels, sample_flip_rotate(len(pixels), draws)),
}
