"""Image datasets in formats that torchvision reads: MNIST, Fashion-MNIST, SVHN and USPS."""

from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from .._util import one_line
from ..errors import MissingImagesError
from .fetch import Download, check_md5, fetch
from .image_data import Split


def read_mnist(root: Path) -> dict[str, Split]:
    """Read MNIST (N, 1, 28, 28) from the idx files in `root/MNIST/raw`."""
    return _read_idx("MNIST", root)


def read_fashion_mnist(root: Path) -> dict[str, Split]:
    """Read Fashion-MNIST (N, 1, 28, 28) from the idx files in `root/FashionMNIST/raw`."""
    return _read_idx("FashionMNIST", root)


def read_svhn(root: Path) -> dict[str, Split]:
    """Read the cropped digits of SVHN (N, 3, 32, 32), without `extra`, from `root/{train,test}_32x32.mat`."""
    from torchvision.datasets import SVHN

    splits = {}
    for split in ("train", "test"):
        _fetch_and_check("SVHN", SVHN.split_list[split], root)
        dataset = SVHN(root, split=split)
        splits[split] = Split(torch.as_tensor(dataset.data).contiguous(), torch.as_tensor(dataset.labels).long())
    return splits


def read_usps(root: Path) -> dict[str, Split]:
    """Read USPS (N, 1, 16, 16) from `root/usps.bz2` and `root/usps.t.bz2`, in the format of LIBSVM."""
    from torchvision.datasets import USPS

    splits = {}
    for split in ("train", "test"):
        _fetch_and_check("USPS", USPS.split_list[split], root)
        dataset = USPS(root, train=split == "train")
        splits[split] = Split(torch.as_tensor(dataset.data).unsqueeze(1), torch.as_tensor(dataset.targets).long())
    return splits


def _fetch_and_check(dataset: str, resource: list[str], root: Path) -> None:
    """Download a missing file and check it, because torchvision would accept the rest of an interrupted download."""
    url, name, md5 = resource
    download = Download(dataset, url, md5)
    fetch(download, root / name)
    check_md5(download, root / name, md5)


def _read_idx(kind: str, root: Path) -> dict[str, Split]:
    # Imported here, because it takes seconds and only these images need it.
    from torchvision import datasets

    published: Any = getattr(datasets, kind)
    # Without this method, torchvision would prefer pickled files that its old releases left in `processed`.
    safe_class = type(kind, (published,), {"_check_legacy_exist": lambda self: False})
    folder = root / kind / "raw"
    splits = {}
    for split in ("train", "test"):
        try:
            dataset = safe_class(root, train=split == "train", download=True)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError, HTTPException) as error:
            if all((folder / name.removesuffix(".gz")).is_file() for name, _ in published.resources):
                raise MissingImagesError(
                    f"{kind} in {folder} is damaged; remove that folder to download it again"
                ) from error
            raise MissingImagesError(
                f"{kind} is not in {folder}, and downloading it failed "
                f"({one_line(error)}); put its idx files there and pass "
                f"--images-root {root}"
            ) from error
        pixels = torch.as_tensor(dataset.data).unsqueeze(1)
        splits[split] = Split(pixels, torch.as_tensor(dataset.targets).long())
    return splits
