"""The images of a dataset as data: how they are prepared, in images.json, and how they are split."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import safetensors.torch
import torch

from ..images import ImageDataset, get_image_dataset, image_dataset_names, list_split_indices
from ..recipes import Training
from ..zoo import ZooInfo

IMAGES_FILE, SPLITS_FILE = "images.json", "splits.safetensors"
_FORMULA = "(pixel / 255 - mean) / std, per channel, with pixels from 0 to 255"
_OFFICIAL = {"train": "train", "validation": "train", "test": "test"}  # split -> official file that it is taken from


def find_images(zoos: Sequence[ZooInfo]) -> ImageDataset | None:
    """Return the registered images of zoos, None if nobody registered them in this process."""
    name = zoos[0].images
    return get_image_dataset(name) if name in image_dataset_names() else None


def describe_images(zoos: Sequence[ZooInfo], images: ImageDataset | None) -> dict[str, Any]:
    """Return the content of images.json.

    Args:
        zoos: The zoos of the dataset, which have the same images.
        images: The registered images, None where only their name is known.
    """
    first = zoos[0]
    values = {"name": first.images, "sha256": first.images_sha256 or None, "classes": first.classes}
    augmentation = {zoo.recipe.config: _list_augmentations(zoo) for zoo in zoos}
    if images is None:
        unknown = ["class_names", "input_shape", "mean", "std", "prepare", "splits"]
        return {**values, "augmentation": augmentation, "unknown": unknown}
    counts = dict(zip(_OFFICIAL, images.sizes, strict=True))
    return {
        **values,
        "classes": images.classes,
        "class_names": list(images.class_names) or None,
        "input_shape": list(images.input_shape),
        "prepare": _describe_function(images.prepare),
        "normalize": _FORMULA,
        "mean": list(images.mean),
        "std": list(images.std),
        "augmentation": augmentation,
        "splits": {name: {"images": counts[name], "official": _OFFICIAL[name]} for name in _OFFICIAL},
    }


def write_image_files(zoos: Sequence[ZooInfo], *, registered: bool = True) -> dict[str, bytes]:
    """Return path -> content of the files about images; without registered images there are no splits.

    Args:
        zoos: The zoos of the dataset, which have the same images.
        registered: False for what is written where nobody registered the images.
    """
    images = find_images(zoos) if registered else None
    text = json.dumps(describe_images(zoos, images), indent=2) + "\n"
    files = {IMAGES_FILE: text.encode()}
    if images is not None:
        indices = {name: index.to(torch.int32) for name, index in list_split_indices(images.sizes).items()}
        files[SPLITS_FILE] = safetensors.torch.save(indices)
    return files


def _list_augmentations(zoo: ZooInfo) -> list[str] | None:
    """Return the augmentations of a zoo's models, None where they are unknown."""
    models, axis = zoo.recipe.external_models, zoo.recipe.axes.get("augmentation", ())
    if models is None:
        return sorted(axis) or [Training.augmentation]  # a recipe lists what is not the default
    return sorted(value for value in {*axis, *models.models.get("augmentation", ())} if isinstance(value, str)) or None


def _describe_function(function: Any) -> str | None:
    """Return the name and the options of a function, None for one without a name."""
    options = function.keywords if isinstance(function, partial) else {}
    name = (function.func if isinstance(function, partial) else function).__name__
    return None if name == "<lambda>" else f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"
