"""Readers of image datasets as their authors publish them, and the transforms that the published zoos apply to them.

torchvision reads the idx, MATLAB and LIBSVM files of MNIST, Fashion-MNIST, SVHN and USPS. CIFAR and STL-10 are read
from their binary versions, because the Python version of CIFAR, which torchvision reads, is pickled.

N images, C channels, H height, W width
"""

from collections.abc import Callable
from http.client import HTTPException
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._util import one_line
from ..errors import MissingImagesError
from ..extras import translate_import_errors
from .fetch import Download, check_md5, fetch, fetch_unpacked
from .image_data import OFFICIAL_SPLITS, Split

if TYPE_CHECKING:
    from PIL.Image import Image

CIFAR10 = Download(
    "CIFAR-10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
)
CIFAR100 = Download(
    "CIFAR-100", "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"
)
STL10 = Download(
    "STL-10", "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"
)
_BILINEAR = 2  # `PIL.Image.Resampling.BILINEAR`
STL10_MD5 = {  # checksums of the files in the archive; the unlabeled images are not used
    "stl10_binary/train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "stl10_binary/train_y.bin": "5a34089d4802c674881badbb80307741",
    "stl10_binary/test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "stl10_binary/test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
}


def read_fashion_mnist_5k(root: Path) -> dict[str, Split]:
    """Return 5,000 training and 1,000 test images of Fashion-MNIST (MIT license, (c) 2017 Zalando SE).

    They ship with the package, so that the demo needs no download; the argument `root` is ignored.
    """
    data = files("modelzoo_datasets.images") / "data" / "fashion_mnist_5k.npz"
    with as_file(data) as path, np.load(path, allow_pickle=False) as arrays:
        return {
            split: Split(
                torch.from_numpy(arrays[f"x_{split}"]).unsqueeze(1),
                torch.from_numpy(arrays[f"y_{split}"]).long(),
            )
            for split in OFFICIAL_SPLITS
        }


def read_mnist(root: Path) -> dict[str, Split]:
    """Read MNIST (N, 1, 28, 28) from the idx files in `root/MNIST/raw`."""
    return _read_idx("MNIST", root)


def read_fashion_mnist(root: Path) -> dict[str, Split]:
    """Read Fashion-MNIST (N, 1, 28, 28) from the idx files in `root/FashionMNIST/raw`."""
    return _read_idx("FashionMNIST", root)


def _read_idx(kind: str, root: Path) -> dict[str, Split]:
    # Imported here, because it takes seconds and only these images need it.
    with translate_import_errors(f"images of {kind}", "generate"):
        from torchvision import datasets

    published: Any = getattr(datasets, kind)
    # Without this method, torchvision would prefer pickled files that its old releases left in `processed`.
    safe_class = type(kind, (published,), {"_check_legacy_exist": lambda self: False})
    folder = root / kind / "raw"
    splits = {}
    for split in OFFICIAL_SPLITS:
        try:
            dataset = safe_class(root, train=split == "train", download=True)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError, HTTPException) as error:
            if all((folder / name.removesuffix(".gz")).is_file() for name, _ in published.resources):
                raise MissingImagesError(
                    f"{kind} in {folder} is damaged; remove that folder to download it again"
                ) from error
            raise MissingImagesError(
                f"{kind} is not in {folder}, and downloading it failed ({one_line(error)}); put its idx files there "
                f"and pass --images-root {root}"
            ) from error
        splits[split] = _to_split(dataset.data, dataset.targets)
    return splits


def read_svhn(root: Path) -> dict[str, Split]:
    """Read the cropped digits of SVHN (N, 3, 32, 32), without `extra`, from `root/{train,test}_32x32.mat`."""
    with translate_import_errors("images of SVHN", "generate"):
        from torchvision.datasets import SVHN

    splits = {}
    for split in OFFICIAL_SPLITS:
        _fetch_and_check("SVHN", SVHN.split_list[split], root)
        dataset = SVHN(root, split=split)
        splits[split] = _to_split(dataset.data, dataset.labels)
    return splits


def read_usps(root: Path) -> dict[str, Split]:
    """Read USPS (N, 1, 16, 16) from `root/usps.bz2` and `root/usps.t.bz2`, in the format of LIBSVM."""
    with translate_import_errors("images of USPS", "generate"):
        from torchvision.datasets import USPS

    splits = {}
    for split in OFFICIAL_SPLITS:
        _fetch_and_check("USPS", USPS.split_list[split], root)
        dataset = USPS(root, train=split == "train")
        splits[split] = _to_split(dataset.data, dataset.targets)
    return splits


def _to_split(pixels: Any, labels: Any) -> Split:
    """Return a split of the pixels (N, C, H, W) or (N, H, W) and the labels (N,) of a dataset of torchvision."""
    images = torch.as_tensor(pixels)
    return Split((images.unsqueeze(1) if images.ndim == 3 else images).contiguous(), torch.as_tensor(labels).long())


def _fetch_and_check(dataset: str, resource: list[str], root: Path) -> None:
    """Download a missing file and check it, because torchvision would accept the rest of an interrupted download."""
    url, name, md5 = resource
    download = Download(dataset, url, md5)
    fetch(download, root / name)
    check_md5(download, root / name, md5)


def read_cifar10(root: Path) -> dict[str, Split]:
    """Read CIFAR-10 (N, 3, 32, 32) from `root/cifar-10-batches-bin`, unpacked from `root/cifar-10-binary.tar.gz`."""
    folder = "cifar-10-batches-bin"
    train = [f"{folder}/data_batch_{i}.bin" for i in range(1, 6)]
    return _read_cifar(CIFAR10, root, {"train": train, "test": [f"{folder}/test_batch.bin"]}, labels=1)


def read_cifar100(root: Path) -> dict[str, Split]:
    """Read CIFAR-100 (N, 3, 32, 32) with fine labels from `root/cifar-100-binary`, unpacked from its `.tar.gz`."""
    paths = {split: [f"cifar-100-binary/{split}.bin"] for split in OFFICIAL_SPLITS}
    return _read_cifar(CIFAR100, root, paths, labels=2)


def _read_cifar(download: Download, root: Path, paths: dict[str, list[str]], labels: int) -> dict[str, Split]:
    """Read records of `labels` bytes, of which the last is used, and 3 x 32 x 32 bytes, channel by channel."""
    fetch_unpacked(download, root / download.url.split("/")[-1], [name for names in paths.values() for name in names])
    splits = {}
    for split, names in paths.items():
        records = np.concatenate([_read_records(download, root / name, labels + 3 * 32 * 32) for name in names])
        pixels = torch.from_numpy(records[:, labels:].reshape(-1, 3, 32, 32))
        splits[split] = Split(pixels, torch.from_numpy(records[:, labels - 1]).long())
    return splits


def _read_records(download: Download, path: Path, size: int) -> np.ndarray:
    """Return the records (N, size) of one file."""
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % size:
        raise download.damage_error(path, f"its {len(content):,} bytes are not records of {size:,}")
    return content.reshape(-1, size)


def read_stl10(root: Path) -> dict[str, Split]:
    """Read the labeled images of STL-10 (N, 3, 96, 96) from `root/stl10_binary`, unpacked from its `.tar.gz`."""
    fetch_unpacked(STL10, root / "stl10_binary.tar.gz", list(STL10_MD5))
    for name, md5 in STL10_MD5.items():
        check_md5(STL10, root / name, md5)
    splits = {}
    for split in OFFICIAL_SPLITS:
        columns_first = np.fromfile(root / f"stl10_binary/{split}_X.bin", np.uint8).reshape(-1, 3, 96, 96)
        pixels = torch.from_numpy(columns_first).mT.contiguous()
        labels = np.fromfile(root / f"stl10_binary/{split}_y.bin", np.uint8)  # from 1
        splits[split] = Split(pixels, torch.from_numpy(labels).long() - 1)
    return splits


def resize(pixels: Tensor, *, size: int) -> Tensor:
    """Return pixels (N, C, size, size) by bilinear interpolation, with antialiasing when images shrink."""
    return _transform(pixels, lambda image: image.resize((size, size), _BILINEAR))


def crop_gray(pixels: Tensor, *, size: int) -> Tensor:
    """Return the gray center crops (N, 1, size, size) of color images (N, 3, H, W)."""
    y, x = ((n - size) // 2 for n in pixels.shape[2:])
    return _transform(pixels, lambda image: image.convert("L").crop((x, y, x + size, y + size)))


def _transform(pixels: Tensor, function: Callable[["Image"], "Image"]) -> Tensor:
    """Apply a PIL function to each image and stack the results."""
    with translate_import_errors("resized images", "generate"):
        from PIL import Image

    arrays = pixels.squeeze(1) if pixels.shape[1] == 1 else pixels.movedim(1, 3)  # (N, H, W) or (N, H, W, C)
    results = np.stack([np.asarray(function(Image.fromarray(array))) for array in arrays.numpy()])
    stacked = torch.from_numpy(results)
    return stacked.unsqueeze(1) if stacked.ndim == 3 else stacked.movedim(3, 1).contiguous()
