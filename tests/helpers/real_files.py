"""Small files in the very formats of SVHN, USPS, CIFAR and STL-10, written by hand as their authors describe them."""

import bz2
import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision

from modelzoo_datasets.images import image_formats

SIZES = (37, 13, 20)  # train, validation, test
N = {"train": 50, "test": 20}  # as published
SHAPES = {"SVHN": (32, 32, 3), "USPS": (16, 16), "CIFAR10": (32, 32, 3), "CIFAR100": (32, 32, 3), "STL10": (96, 96, 3)}
Arrays = dict[tuple[str, str], np.ndarray]


def random_arrays() -> dict[str, Arrays]:
    """Pixels as PIL takes them, and labels from 0, of every kind: noise at two scales, so that resizing shows."""
    draws = np.random.default_rng(0)
    made: dict[str, Arrays] = {kind: {} for kind in SHAPES}
    for kind, shape in SHAPES.items():
        for split, n in N.items():
            coarse = draws.integers(256, size=(n, 4, 4, *shape[2:]), dtype=np.uint8)
            smooth = coarse.repeat(shape[0] // 4, axis=1).repeat(shape[1] // 4, axis=2)
            noise = draws.integers(256, size=(n, *shape), dtype=np.uint8)
            made[kind][split, "pixels"] = np.where(draws.random((n, *shape)) < 0.5, smooth, noise)
            made[kind][split, "labels"] = np.append(draws.permutation(10), draws.integers(10, size=n - 10))
    return made


def write_svhn(arrays: Arrays, folder: Path) -> None:
    """MATLAB files: X (32, 32, 3, N), y (N, 1) from 1 to 10, where 10 is the digit 0."""
    for split in N:
        labels = arrays[split, "labels"].astype(np.uint8)
        content = {"X": arrays[split, "pixels"].transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
        scipy.io.savemat(folder / f"{split}_32x32.mat", content, do_compression=True)


def write_usps(arrays: Arrays, folder: Path) -> None:
    """LIBSVM's text, compressed: a label from 1 to 10 and 256 pairs of place and value in [-1, 1]."""
    for split, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        # Readers cut down to whole numbers, so what stands in the file is somewhat above them.
        values = np.minimum((arrays[split, "pixels"].reshape(-1, 256) + 0.3) / 255 * 2 - 1, 1)
        lines = [
            " ".join([str(label + 1), *(f"{i}:{value:.6g}" for i, value in enumerate(row, 1))])
            for label, row in zip(arrays[split, "labels"], values, strict=True)
        ]
        (folder / name).write_bytes(bz2.compress("".join(f"{line} \n" for line in lines).encode()))


def _write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        folder = tarfile.TarInfo(next(iter(files)).split("/")[0])
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _planes(arrays: Arrays, split: str) -> np.ndarray:
    """Pixels channel by channel, (N, 3, H, W)."""
    return arrays[split, "pixels"].transpose(0, 3, 1, 2)


def write_cifar10(arrays: Arrays, folder: Path) -> None:
    """Records of a label and 3 x 32 x 32 bytes, the training images in five files."""
    files = {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n"}
    for split, parts in (("train", 5), ("test", 1)):
        records = np.column_stack([arrays[split, "labels"], _planes(arrays, split).reshape(N[split], -1)])
        for i, part in enumerate(np.split(records.astype(np.uint8), parts), 1):
            name = f"data_batch_{i}.bin" if split == "train" else "test_batch.bin"
            files[f"cifar-10-batches-bin/{name}"] = part.tobytes()
    _write_tar(folder / "cifar-10-binary.tar.gz", files)


def write_cifar100(arrays: Arrays, folder: Path) -> None:
    """Records of a coarse label (here one that would show if it were taken), the fine label and 3 x 32 x 32 bytes."""
    files = {"cifar-100-binary/fine_label_names.txt": b"apple\n"}
    for split in N:
        fine = arrays[split, "labels"]
        records = np.column_stack([19 - fine, fine, _planes(arrays, split).reshape(N[split], -1)])
        files[f"cifar-100-binary/{split}.bin"] = records.astype(np.uint8).tobytes()
    _write_tar(folder / "cifar-100-binary.tar.gz", files)


def write_stl10(arrays: Arrays, folder: Path) -> None:
    """Images channel by channel and column by column, labels from 1; unlabelled images beside them."""
    files = {"stl10_binary/unlabeled_X.bin": bytes(3 * 96 * 96), "stl10_binary/class_names.txt": b"airplane\n"}
    for split in N:
        files[f"stl10_binary/{split}_X.bin"] = _planes(arrays, split).transpose(0, 1, 3, 2).tobytes()
        files[f"stl10_binary/{split}_y.bin"] = (arrays[split, "labels"] + 1).astype(np.uint8).tobytes()
    _write_tar(folder / "stl10_binary.tar.gz", files)


WRITERS = {
    "SVHN": write_svhn,
    "USPS": write_usps,
    "CIFAR10": write_cifar10,
    "CIFAR100": write_cifar100,
    "STL10": write_stl10,
}
ARCHIVES = {"CIFAR10": "cifar-10-binary.tar.gz", "CIFAR100": "cifar-100-binary.tar.gz", "STL10": "stl10_binary.tar.gz"}


def md5_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def use_server(patch: pytest.MonkeyPatch, kind: str, url: str, folder: Path) -> None:
    """Point the readers at another server, whose files have other checksums."""
    if kind in ("SVHN", "USPS"):
        dataset = getattr(torchvision.datasets, kind)
        changed = {
            split: [f"{url}{name}", name, md5_of((folder / name).read_bytes())]
            for split, (_, name, _) in dataset.split_list.items()
            if split in N
        }
        patch.setattr(dataset, "split_list", changed)
        return
    archive = folder / ARCHIVES[kind]
    source = dataclasses.replace(
        getattr(image_formats, kind), url=f"{url}{archive.name}", md5=md5_of(archive.read_bytes())
    )
    patch.setattr(image_formats, kind, source)
    if kind == "STL10":
        with tarfile.open(archive) as tar:
            changed = {name: md5_of(tar.extractfile(name).read()) for name in image_formats.STL10_MD5}  # type: ignore[union-attr]
        patch.setattr(image_formats, "STL10_MD5", changed)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
