"""Image datasets whose files torchvision reads: MNIST, Fashion-MNIST, SVHN, USPS."""

from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from .._util import one_line
from ..errors import MissingImagesError
from .fetch import Source, check_md5, fetch
from .image_data import Split


def read_mnist(root: Path) -> dict[str, Split]:
    """MNIST (N, 1, 28, 28) from `root/MNIST/raw`, in its own idx files."""
    return _read_idx("MNIST", root)


def read_fashion_mnist(root: Path) -> dict[str, Split]:
    """Fashion-MNIST (N, 1, 28, 28) from `root/FashionMNIST/raw`, in its own idx files."""
    return _read_idx("FashionMNIST", root)


def read_svhn(root: Path) -> dict[str, Split]:
    """SVHN (N, 3, 32, 32), cropped digits without `extra`, from `root/train_32x32.mat` and `root/test_32x32.mat`."""
    from torchvision.datasets import SVHN

    splits = {}
    for split in ("train", "test"):
        _fetch_checked("SVHN", SVHN.split_list[split], root)
        found = SVHN(root, split=split)
        splits[split] = Split(torch.as_tensor(found.data).contiguous(), torch.as_tensor(found.labels).long())
    return splits


def read_usps(root: Path) -> dict[str, Split]:
    """USPS (N, 1, 16, 16) from `root/usps.bz2` and `root/usps.t.bz2`, in LIBSVM's format."""
    from torchvision.datasets import USPS

    splits = {}
    for split in ("train", "test"):
        _fetch_checked("USPS", USPS.split_list[split], root)
        found = USPS(root, train=split == "train")
        splits[split] = Split(torch.as_tensor(found.data).unsqueeze(1), torch.as_tensor(found.targets).long())
    return splits


def _fetch_checked(dataset: str, published: list[str], root: Path) -> None:
    """Download what is missing ourselves: torchvision would take what a broken download left for the whole file."""
    url, name, md5 = published
    source = Source(dataset, url, md5)
    fetch(source, root / name)
    check_md5(source, root / name, md5)


def _read_idx(kind: str, root: Path) -> dict[str, Split]:
    # Imported here: it takes seconds, and only these images need it.
    from torchvision import datasets

    published: Any = getattr(datasets, kind)
    # torchvision would rather unpickle what its old releases left in `processed`.
    dataset = type(kind, (published,), {"_check_legacy_exist": lambda self: False})
    folder = root / kind / "raw"
    splits = {}
    for split in ("train", "test"):
        try:
            found = dataset(root, train=split == "train", download=True)
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
        pixels = torch.as_tensor(found.data).unsqueeze(1)
        splits[split] = Split(pixels, torch.as_tensor(found.targets).long())
    return splits
