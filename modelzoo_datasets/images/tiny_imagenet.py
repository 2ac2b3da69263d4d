"""Tiny ImageNet: 200 classes, 100,000 training and 10,000 labelled validation images of 64 x 64, as JPEG files."""

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import MissingImagesError
from .fetch import Source, fetch
from .image_data import Split

TINY_IMAGENET = Source(
    "Tiny ImageNet", "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)
_NAME = "tiny-imagenet-200"
_SIDE = 64  # pixels
_CHUNK = 500  # images that a thread decodes before it is handed more


class _Folder:
    """The unpacked files; names are relative, with slashes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = (Path(at, name) for at, _, names in os.walk(path) for name in names)
        self.names = [file.relative_to(path).as_posix() for file in found]

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def place(self, name: str) -> str:
        return str(self.path / name)


class _Zip:
    """The files in the zip file, under the same names."""

    def __init__(self, path: Path) -> None:
        self.path, self.zip = path, ZipFile(path)
        inside = (name.removeprefix(f"{_NAME}/") for name in self.zip.namelist() if name.startswith(f"{_NAME}/"))
        self.names = [name for name in inside if name and not name.endswith("/")]

    def read(self, name: str) -> bytes:
        return self.zip.read(f"{_NAME}/{name}")

    def place(self, name: str) -> str:
        return f"{_NAME}/{name} in {self.path}"


_Tree = _Folder | _Zip


def read_tiny_imagenet(root: Path) -> dict[str, Split]:
    """Tiny ImageNet (N, 3, 64, 64) from `root/tiny-imagenet-200`, else from `root/tiny-imagenet-200.zip` as it is.

    A class's number is its place among the sorted WordNet ids; images are in the order of class and name. The official
    validation images are the test split (as in 2209.14764); the official test images have no labels.
    """
    folder, archive = root / _NAME, root / f"{_NAME}.zip"
    if folder.is_dir():
        return _read(_Folder(folder))
    fetch(TINY_IMAGENET, archive)
    try:
        tree = _Zip(archive)
    except (BadZipFile, OSError) as error:
        raise TINY_IMAGENET.damaged(archive, error) from error
    with tree.zip:
        return _read(tree)


def _read(tree: _Tree) -> dict[str, Split]:
    classes = {wnid: number for number, wnid in enumerate(sorted(_lines(tree, "wnids.txt")))}
    annotated = _annotations(tree, classes)
    wnids = {name: name.split("/")[1] for name in sorted(tree.names) if _is_training_image(name)}
    _require_same(tree, "train", set(wnids.values()), classes)
    tests = {name.split("/")[2]: name for name in sorted(tree.names) if name.startswith("val/images/")}
    _require_same(tree, "val/images", tests, annotated)
    train_labels = [classes[wnid] for wnid in wnids.values()]
    test_labels = [classes[annotated[name]] for name in tests]
    return {
        "train": Split(_decoded(tree, list(wnids)), torch.tensor(train_labels)),
        "test": Split(_decoded(tree, list(tests.values())), torch.tensor(test_labels)),
    }


def _is_training_image(name: str) -> bool:
    parts = name.split("/")  # beside `images`, each class has a file of bounding boxes
    return len(parts) == 4 and parts[0] == "train" and parts[2] == "images"


def _annotations(tree: _Tree, classes: Collection[str]) -> dict[str, str]:
    """Name of each validation image -> its WordNet id; a line holds both and a bounding box, with tabs between."""
    name = "val/val_annotations.txt"
    found = {}
    for number, line in enumerate(_lines(tree, name), 1):
        image, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in classes:
            raise _damaged(tree, name, f"line {number} names no class of wnids.txt: {line!r}")
        found[image] = wnid
    return found


def _lines(tree: _Tree, name: str) -> list[str]:
    if name not in tree.names:
        raise TINY_IMAGENET.damaged(tree.path, f"it holds no {name}")
    try:
        return tree.read(name).decode().splitlines()
    except _UNREADABLE as error:
        raise _damaged(tree, name, error) from error


def _require_same(tree: _Tree, where: str, found: Collection[str], expected: Collection[str]) -> None:
    """Nothing that was published may be missing, and nothing else may be mixed in."""
    for what, names in (("holds no", set(expected) - set(found)), ("holds a foreign", set(found) - set(expected))):
        if names:
            raise TINY_IMAGENET.damaged(tree.path, f"{where} {what} {min(names)}")


def _damaged(tree: _Tree, name: str, reason: object) -> MissingImagesError:
    return TINY_IMAGENET.damaged(tree.place(name), reason, remove=tree.path)


# What a damaged file raises, in a zip file (RuntimeError: encrypted or compressed in another way) or on its own.
_UNREADABLE = (OSError, BadZipFile, ZlibError, EOFError, RuntimeError, ValueError, Image.DecompressionBombError)


def _decoded(tree: _Tree, names: Sequence[str]) -> Tensor:
    """Pixels (N, 3, 64, 64) uint8 of the named images."""
    pixels = np.empty((len(names), 3, _SIDE, _SIDE), np.uint8)

    def decode(start: int) -> None:
        for i, name in enumerate(names[start : start + _CHUNK], start):
            pixels[i] = _decode(tree, name)

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(decode, range(0, len(names), _CHUNK)):
            pass  # raises the first error
    return torch.from_numpy(pixels)


def _decode(tree: _Tree, name: str) -> np.ndarray:
    """One image (3, 64, 64); some are gray and get three equal channels."""
    try:
        with Image.open(BytesIO(tree.read(name)), formats=("JPEG",)) as image:
            if image.size != (_SIDE, _SIDE):
                raise ValueError(f"it is {image.width} x {image.height} pixels instead of {_SIDE} x {_SIDE}")
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except UnidentifiedImageError as error:
        raise _damaged(tree, name, "it is no JPEG image") from error
    except _UNREADABLE as error:
        raise _damaged(tree, name, error) from error
