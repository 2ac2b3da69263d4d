"""Image datasets that torchvision reads and downloads."""

from pathlib import Path
from typing import Any

import torch

from ..errors import MissingImagesError
from .images import Split


def read_mnist(root: Path) -> dict[str, Split]:
    """MNIST from `root/MNIST/raw`, in its own idx files."""
    return _read("MNIST", root)


def read_fashion_mnist(root: Path) -> dict[str, Split]:
    """Fashion-MNIST from `root/FashionMNIST/raw`, in its own idx files."""
    return _read("FashionMNIST", root)


def _read(kind: str, root: Path) -> dict[str, Split]:
    # Imported here: it takes seconds, and only these images need it.
    from torchvision import datasets

    dataset: Any = getattr(datasets, kind)
    folder = root / kind / "raw"
    splits = {}
    for split in ("train", "test"):
        try:
            found = dataset(root, train=split == "train", download=True)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
            if all((folder / name.removesuffix(".gz")).is_file() for name, _ in dataset.resources):
                raise MissingImagesError(
                    f"{kind} in {folder} is damaged; remove that folder to download it again"
                ) from error
            raise MissingImagesError(
                f"{kind} is not in {folder}, and downloading it failed "
                f"({' '.join(str(error).split())}); put its idx files there and pass "
                f"--images-root {root}"
            ) from error
        pixels = torch.as_tensor(found.data).unsqueeze(1)
        splits[split] = Split(pixels, torch.as_tensor(found.targets).long())
    return splits
