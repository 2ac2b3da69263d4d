"""Image datasets published as binary records: CIFAR-10, CIFAR-100 and STL-10.

CIFAR is read from its binary version, because the Python version, which torchvision reads, is pickled.
"""

from pathlib import Path

import numpy as np
import torch

from .fetch import Download, check_md5, fetch_unpacked
from .image_data import Split

CIFAR10 = Download(
    "CIFAR-10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
)
CIFAR100 = Download(
    "CIFAR-100", "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"
)
STL10 = Download(
    "STL-10", "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"
)
STL10_MD5 = {  # checksums of the files in the archive; the unlabeled images are not used
    "stl10_binary/train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "stl10_binary/train_y.bin": "5a34089d4802c674881badbb80307741",
    "stl10_binary/test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "stl10_binary/test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
}


def read_cifar10(root: Path) -> dict[str, Split]:
    """Read CIFAR-10 (N, 3, 32, 32) from `root/cifar-10-batches-bin`, unpacked from `root/cifar-10-binary.tar.gz`."""
    folder = "cifar-10-batches-bin"
    train = [f"{folder}/data_batch_{i}.bin" for i in range(1, 6)]
    return _read_cifar(CIFAR10, root, {"train": train, "test": [f"{folder}/test_batch.bin"]}, labels=1)


def read_cifar100(root: Path) -> dict[str, Split]:
    """Read CIFAR-100 (N, 3, 32, 32) with fine labels from `root/cifar-100-binary`, unpacked from its `.tar.gz`."""
    files = {split: [f"cifar-100-binary/{split}.bin"] for split in ("train", "test")}
    return _read_cifar(CIFAR100, root, files, labels=2)


def read_stl10(root: Path) -> dict[str, Split]:
    """Read the labeled images of STL-10 (N, 3, 96, 96) from `root/stl10_binary`, unpacked from its `.tar.gz`."""
    fetch_unpacked(STL10, root / "stl10_binary.tar.gz", list(STL10_MD5))
    for name, md5 in STL10_MD5.items():
        check_md5(STL10, root / name, md5)
    splits = {}
    for split in ("train", "test"):
        columns_first = np.fromfile(root / f"stl10_binary/{split}_X.bin", np.uint8).reshape(-1, 3, 96, 96)
        pixels = torch.from_numpy(columns_first).mT.contiguous()
        labels = np.fromfile(root / f"stl10_binary/{split}_y.bin", np.uint8)  # from 1
        splits[split] = Split(pixels, torch.from_numpy(labels).long() - 1)
    return splits


def _read_cifar(download: Download, root: Path, files: dict[str, list[str]], labels: int) -> dict[str, Split]:
    """Read records of `labels` bytes, of which the last is used, and 3 x 32 x 32 bytes, channel by channel."""
    fetch_unpacked(download, root / download.url.split("/")[-1], [name for names in files.values() for name in names])
    splits = {}
    for split, names in files.items():
        records = np.concatenate([_records(download, root / name, labels + 3 * 32 * 32) for name in names])
        pixels = torch.from_numpy(records[:, labels:].reshape(-1, 3, 32, 32))
        splits[split] = Split(pixels, torch.from_numpy(records[:, labels - 1]).long())
    return splits


def _records(download: Download, path: Path, size: int) -> np.ndarray:
    """Return the records (N, size) of one file."""
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % size:
        raise download.damage_error(path, f"its {len(content):,} bytes are not records of {size:,}")
    return content.reshape(-1, size)
