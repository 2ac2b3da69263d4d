"""Augmentation of whole batches, held against torchvision's transforms of one image at a time."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from modelzoo_datasets.engines import one_thread
from modelzoo_datasets.errors import RecipeError
from modelzoo_datasets.images.augmentation import (
    MAX_ANGLE,
    PADDING,
    CropFlip,
    FlipRotate,
    augment,
    crop_flip,
    flip_rotate,
    sample_crop_flip,
    sample_flip_rotate,
)
from modelzoo_datasets.recipes import AUGMENTATIONS
from modelzoo_datasets.seeds import keyed_generator

SHAPES = [(200, 3, 32, 32), (100, 3, 64, 64), (100, 1, 28, 28), (50, 2, 20, 33), (1, 3, 7, 4)]  # B, C, H, W
MOVING = [kind for kind in AUGMENTATIONS if kind != "none"]


@pytest.fixture(scope="module", autouse=True)
def on_one_thread() -> Iterator[None]:
    """Images one by one are too little for more."""
    with one_thread():
        yield


def noise(shape: tuple[int, ...]) -> Tensor:
    """Pixels none of which is zero, so that what is filled in shows."""
    return torch.randint(1, 256, shape, generator=keyed_generator(0, "pixels"), dtype=torch.uint8)


def crop_flip_one_by_one(pixels: Tensor, drawn: CropFlip) -> Tensor:
    """Torchvision's RandomCrop(size, padding=4) and RandomHorizontalFlip, but for their drawing."""
    views = []
    for image, top, left, flip in zip(pixels, drawn.y, drawn.x, drawn.flip, strict=True):
        padded = functional.pad(image, [PADDING] * 4)
        view = functional.crop(padded, int(top), int(left), *image.shape[1:])
        views.append(functional.hflip(view) if flip else view)
    return torch.stack(views)


def flip_rotate_one_by_one(pixels: Tensor, drawn: FlipRotate) -> Tensor:
    """Torchvision's RandomHorizontalFlip and RandomRotation, but for their drawing."""
    views = []
    for image, flip, angle in zip(pixels, drawn.flip, drawn.angle, strict=True):
        view = functional.hflip(image) if flip else image
        views.append(functional.rotate(view, angle.item(), fill=[0.0] * len(image)))
    return torch.stack(views)


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_flip_is_what_torchvision_does_to_each_image(shape: tuple[int, ...]) -> None:
    pixels, drawn = noise(shape), sample_crop_flip(shape[0], keyed_generator(0, "draws"))
    assert torch.equal(crop_flip(pixels, drawn), crop_flip_one_by_one(pixels, drawn))


@pytest.mark.parametrize("shape", SHAPES)
def test_flip_rotate_is_what_torchvision_does_to_each_image(shape: tuple[int, ...]) -> None:
    pixels, drawn = noise(shape), sample_flip_rotate(shape[0], keyed_generator(0, "draws"))
    assert torch.equal(flip_rotate(pixels, drawn), flip_rotate_one_by_one(pixels, drawn))


def test_turning_by_nothing_or_half_way_moves_every_pixel_to_where_it_belongs() -> None:
    pixels = noise((2, 3, 16, 16))
    found = flip_rotate(pixels, FlipRotate(torch.tensor([False, True]), torch.tensor([0.0, 180.0])))
    assert torch.equal(found[0], pixels[0])
    assert torch.equal(found[1], pixels[1].flip(1))  # mirrored, then upside down


def test_what_is_drawn_is_spread_as_torchvision_spreads_it() -> None:
    n = 20_000
    crops = sample_crop_flip(n, keyed_generator(0, "crops"))
    for offset in (crops.y, crops.x):
        shares = torch.bincount(offset, minlength=2 * PADDING + 1) / n
        torch.testing.assert_close(shares, torch.full((9,), 1 / 9), rtol=0, atol=0.01)
    turns = sample_flip_rotate(n, keyed_generator(0, "turns"))
    rotation = transforms.RandomRotation(MAX_ANGLE)
    assert list(rotation.degrees) == [-MAX_ANGLE, MAX_ANGLE]
    assert turns.angle.abs().max() <= MAX_ANGLE
    quartiles = turns.angle.quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, torch.tensor([-10.0, 0.0, 10.0]), rtol=0, atol=0.6)
    for flips in (crops.flip, turns.flip):
        assert abs(flips.float().mean() - 0.5) < 0.02


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_every_kind_of_a_recipe_keeps_shape_and_type_and_its_argument(kind: str) -> None:
    pixels = noise((20, 3, 32, 32))
    before = pixels.clone()
    found = augment(pixels, kind, keyed_generator(0, "views"))
    assert found.shape == pixels.shape and found.dtype == torch.uint8
    assert torch.equal(pixels, before)
    assert torch.equal(found, before) == (kind == "none")
    assert augment(pixels[:0], kind, keyed_generator(0, "views")).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("kind", MOVING)
def test_the_generator_alone_decides(kind: str) -> None:
    pixels = noise((20, 3, 32, 32))
    torch.rand(3)  # of the global generator, which nothing here may use
    draws = keyed_generator(0, "views")
    first, second = augment(pixels, kind, draws), augment(pixels, kind, draws)
    assert torch.equal(first, augment(pixels, kind, keyed_generator(0, "views")))
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    augment(pixels, kind, keyed_generator(0, "views"))
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_is_drawn_where_nothing_is_moved() -> None:
    draws = keyed_generator(0, "views")
    before = draws.get_state()
    augment(noise((3, 1, 8, 8)), "none", draws)
    assert torch.equal(draws.get_state(), before)


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        augment(noise((1, 1, 8, 8)), "crop-flop", keyed_generator(0, "views"))
    assert str(caught.value) == "unknown augmentation 'crop-flop'; did you mean 'crop-flip'?"


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_gives_the_same_views(shape: tuple[int, ...]) -> None:
    pixels, turns = noise(shape), sample_flip_rotate(shape[0], keyed_generator(0, "turns"))
    crops = sample_crop_flip(shape[0], keyed_generator(0, "crops"))
    assert torch.equal(crop_flip(pixels.cuda(), crops).cpu(), crop_flip(pixels, crops))
    # At ties between two neighbours the last bit of the arithmetic decides.
    different = flip_rotate(pixels.cuda(), turns).cpu() != flip_rotate(pixels, turns)
    assert different.float().mean() < 1e-3
    on_gpu = torch.Generator("cuda").manual_seed(0)
    for kind in AUGMENTATIONS:
        assert augment(pixels.cuda(), kind, on_gpu).device.type == "cuda"
        assert augment(pixels, kind, on_gpu).device.type == "cpu"
