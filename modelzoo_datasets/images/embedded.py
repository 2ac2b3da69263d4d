"""Images that ship with the package, so that the demo needs no download."""

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch

from .image_data import Split


def read_fashion_mnist_5k(root: Path) -> dict[str, Split]:
    """Return 5,000 training and 1,000 test images of Fashion-MNIST (MIT license, (c) 2017 Zalando SE).

    The argument `root` is ignored.
    """
    data = files("modelzoo_datasets.images") / "data" / "fashion_mnist_5k.npz"
    with as_file(data) as path, np.load(path, allow_pickle=False) as arrays:
        return {
            split: Split(
                torch.from_numpy(arrays[f"x_{split}"]).unsqueeze(1),
                torch.from_numpy(arrays[f"y_{split}"]).long(),
            )
            for split in ("train", "test")
        }
