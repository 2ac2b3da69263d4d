"""Tiny ImageNet: 200 classes, 100,000 training and 10,000 labeled validation images of 64 x 64, as JPEG files."""

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingImagesError
from ..extras import translate_import_errors
from .fetch import Download, fetch
from .image_data import Split

TINY_IMAGENET = Download(
    "Tiny ImageNet", "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)
_NAME = "tiny-imagenet-200"
_SIDE = 64  # pixels
_CHUNK = 500  # images that a thread decodes per task


@dataclass(frozen=True)
class _Tree:
    """The published files, in a folder or in the zip file; names are relative, with forward slashes."""

    path: Path  # the folder or the zip file
    names: Sequence[str]
    read: Callable[[str], bytes]
    describe: Callable[[str], str]  # a name for messages


def _list_folder(path: Path) -> _Tree:
    files = (Path(at, name) for at, _, names in os.walk(path) for name in names)
    names = [file.relative_to(path).as_posix() for file in files]
    return _Tree(path, names, lambda name: (path / name).read_bytes(), lambda name: str(path / name))


def _list_zip(path: Path, archive: ZipFile) -> _Tree:
    inside = [name for name in archive.namelist() if name.startswith(f"{_NAME}/") and not name.endswith("/")]
    names = [name.removeprefix(f"{_NAME}/") for name in inside]
    return _Tree(path, names, lambda name: archive.read(f"{_NAME}/{name}"), lambda name: f"{_NAME}/{name} in {path}")


def read_tiny_imagenet(root: Path) -> dict[str, Split]:
    """Read Tiny ImageNet (N, 3, 64, 64) from the folder `root/tiny-imagenet-200`, or from its zip file.

    The class index is the position among the sorted WordNet ids, and images are sorted by class and name. As in
    2209.14764, the official validation images are the test split, because the official test images have no labels.
    """
    with translate_import_errors("images of Tiny ImageNet", "generate"):
        import PIL.Image  # noqa: F401  # before a download

    folder, path = root / _NAME, root / f"{_NAME}.zip"
    if folder.is_dir():
        return _read_splits(_list_folder(folder))
    fetch(TINY_IMAGENET, path)
    try:
        archive = ZipFile(path)
    except (BadZipFile, OSError) as error:
        raise TINY_IMAGENET.damage_error(path, error) from error
    with archive:
        return _read_splits(_list_zip(path, archive))


def _read_splits(tree: _Tree) -> dict[str, Split]:
    classes = {wnid: number for number, wnid in enumerate(sorted(_read_lines(tree, "wnids.txt")))}
    annotations = _read_annotations(tree, classes)
    wnids = {name: name.split("/")[1] for name in sorted(tree.names) if _is_training_image(name)}
    _require_same(tree, "train", set(wnids.values()), classes)
    tests = {name.split("/")[2]: name for name in sorted(tree.names) if name.startswith("val/images/")}
    _require_same(tree, "val/images", tests, annotations)
    train_labels = [classes[wnid] for wnid in wnids.values()]
    test_labels = [classes[annotations[name]] for name in tests]
    return {
        "train": Split(_decode_all(tree, list(wnids)), torch.tensor(train_labels)),
        "test": Split(_decode_all(tree, list(tests.values())), torch.tensor(test_labels)),
    }


def _is_training_image(name: str) -> bool:
    parts = name.split("/")  # each class also has a file of bounding boxes
    return len(parts) == 4 and parts[0] == "train" and parts[2] == "images"


def _read_annotations(tree: _Tree, classes: Collection[str]) -> dict[str, str]:
    """Return the WordNet id of each validation image. A line holds both and a bounding box, separated by tabs."""
    name = "val/val_annotations.txt"
    wnids = {}
    for number, line in enumerate(_read_lines(tree, name), 1):
        image, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in classes:
            raise _damage_error(tree, name, f"line {number} names no class of wnids.txt: {line!r}")
        wnids[image] = wnid
    return wnids


def _read_lines(tree: _Tree, name: str) -> list[str]:
    if name not in tree.names:
        raise TINY_IMAGENET.damage_error(tree.path, f"it holds no {name}")
    try:
        return tree.read(name).decode().splitlines()
    except _UNREADABLE as error:
        raise _damage_error(tree, name, error) from error


def _require_same(tree: _Tree, where: str, names: Collection[str], expected: Collection[str]) -> None:
    """Raise MissingImagesError if a published name is missing, or an unknown one is present."""
    for what, wrong in (("holds no", set(expected) - set(names)), ("holds a foreign", set(names) - set(expected))):
        if wrong:
            raise TINY_IMAGENET.damage_error(tree.path, f"{where} {what} {min(wrong)}")


def _damage_error(tree: _Tree, name: str, reason: object) -> MissingImagesError:
    return TINY_IMAGENET.damage_error(tree.describe(name), reason, remove=tree.path)


# Errors of damaged files, in a zip file (RuntimeError: encrypted, or an unknown compression) or in a folder.
_UNREADABLE = (OSError, BadZipFile, ZlibError, EOFError, RuntimeError, ValueError)


def _decode_all(tree: _Tree, names: Sequence[str]) -> Tensor:
    """Return the pixels (N, 3, 64, 64), uint8, of the named images."""
    pixels = np.empty((len(names), 3, _SIDE, _SIDE), np.uint8)

    def decode(start: int) -> None:
        for i, name in enumerate(names[start : start + _CHUNK], start):
            pixels[i] = _decode(tree, name)

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(decode, range(0, len(names), _CHUNK)):
            pass  # raises the first error
    return torch.from_numpy(pixels)


def _decode(tree: _Tree, name: str) -> np.ndarray:
    """Return one image (3, 64, 64); a gray image gets three equal channels."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(tree.read(name)), formats=("JPEG",)) as image:
            if image.size != (_SIDE, _SIDE):
                raise ValueError(f"it is {image.width} x {image.height} pixels instead of {_SIDE} x {_SIDE}")
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except UnidentifiedImageError as error:
        raise _damage_error(tree, name, "it is no JPEG image") from error
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise _damage_error(tree, name, error) from error
