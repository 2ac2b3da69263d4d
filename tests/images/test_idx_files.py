"""MNIST and Fashion-MNIST: the published splits, and plain words where files are missing or damaged."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch.utils.data import random_split

from modelzoo_datasets.errors import MissingImagesError
from modelzoo_datasets.images import Images, load_images

KINDS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
IDX_FILES = {
    "train-images-idx3-ubyte": ("train", "pixels"),
    "train-labels-idx1-ubyte": ("train", "labels"),
    "t10k-images-idx3-ubyte": ("test", "pixels"),
    "t10k-labels-idx1-ubyte": ("test", "labels"),
}
OFFICIAL_SIZES = {"train": 60_000, "test": 10_000}


@pytest.fixture(scope="module")
def official() -> dict[tuple[str, str], np.ndarray]:
    """Pseudo-random images and labels of the official sizes: no two images alike, yet quickly compressed."""
    draws = np.random.default_rng(0)
    arrays = {}
    for split, n in OFFICIAL_SIZES.items():
        pixels = np.zeros((n, 28, 28), np.uint8)
        pixels[:, 0] = draws.integers(256, size=(n, 28), dtype=np.uint8)
        arrays[split, "pixels"] = pixels
        arrays[split, "labels"] = draws.integers(10, size=n, dtype=np.uint8)
    return arrays


@pytest.fixture(scope="module")
def idx_folder(official: dict[tuple[str, str], np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four idx files, written as the format says: magic number, sizes (big-endian), bytes."""
    folder = tmp_path_factory.mktemp("idx")
    for name, key in IDX_FILES.items():
        array = official[key]
        header = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
        (folder / name).write_bytes(header + array.tobytes())
    return folder


@pytest.fixture(scope="module")
def server_folder(idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same four files as the official servers have them: compressed."""
    folder = tmp_path_factory.mktemp("server")
    for name in IDX_FILES:
        content = gzip.compress((idx_folder / name).read_bytes(), compresslevel=1)
        (folder / f"{name}.gz").write_bytes(content)
    return folder


@pytest.fixture
def mirror(server_folder: Path, serve: Callable[[Path], str]) -> str:
    """A web server on loopback with the compressed files."""
    return serve(server_folder)


def use_mirror(patch: pytest.MonkeyPatch, kind: str, url: str, folder: Path) -> None:
    """Point torchvision at another server, whose files have other checksums."""
    resources = [(f"{name}.gz", hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()) for name in IDX_FILES]
    patch.setattr(getattr(torchvision.datasets, kind), "mirrors", [url])
    patch.setattr(getattr(torchvision.datasets, kind), "resources", resources)


def put(idx_folder: Path, root: Path, kind: str) -> Path:
    raw = root / kind / "raw"
    raw.mkdir(parents=True)
    for name in IDX_FILES:
        (raw / name).hardlink_to(idx_folder / name)
    return raw


def check_against(official: dict[tuple[str, str], np.ndarray], images: Images) -> None:
    """The splits are those of torch's random_split with seed 42."""
    sizes = (50_000, 10_000)
    parts = random_split(range(60_000), sizes, generator=torch.Generator().manual_seed(42))
    expected = {"train": ("train", parts[0].indices), "validation": ("train", parts[1].indices)}
    expected["test"] = ("test", list(range(10_000)))
    assert set(images.splits) == set(expected)
    for name, (source, index) in expected.items():
        pixels, labels = images.splits[name].pixels, images.splits[name].labels
        assert pixels.dtype == torch.uint8 and labels.dtype == torch.int64
        assert np.array_equal(pixels.squeeze(1).numpy(), official[source, "pixels"][index])
        assert np.array_equal(labels.numpy(), official[source, "labels"][index])


@pytest.mark.parametrize("name", KINDS)
def test_images_are_read_from_their_own_idx_files_without_any_download(
    name: str,
    official: dict[tuple[str, str], np.ndarray],
    idx_folder: Path,
    nobody_listens: str,
    server_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(idx_folder, tmp_path, KINDS[name])
    use_mirror(monkeypatch, KINDS[name], nobody_listens, server_folder)
    check_against(official, load_images(name, tmp_path))


def test_what_old_releases_of_torchvision_pickled_is_not_read(
    official: dict[tuple[str, str], np.ndarray], idx_folder: Path, tmp_path: Path
) -> None:
    put(idx_folder, tmp_path, "MNIST")
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)), processed / name)
    check_against(official, load_images("mnist", tmp_path))


def test_images_that_are_missing_are_downloaded(
    official: dict[tuple[str, str], np.ndarray],
    mirror: str,
    server_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_mirror(monkeypatch, "MNIST", mirror, server_folder)
    check_against(official, load_images("mnist", tmp_path))


def test_a_download_with_a_wrong_checksum_is_refused_and_done_again_next_time(
    official: dict[tuple[str, str], np.ndarray],
    mirror: str,
    server_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_mirror(monkeypatch, "FashionMNIST", mirror, server_folder)
    with monkeypatch.context() as patch:
        name = "t10k-labels-idx1-ubyte.gz"
        wrong = [(f"{n}.gz", "0" * 32) for n in IDX_FILES]
        right = torchvision.datasets.FashionMNIST.resources
        patch.setattr(torchvision.datasets.FashionMNIST, "resources", [*right[:3], wrong[3]])
        with pytest.raises(MissingImagesError) as caught:
            load_images("fashion-mnist", tmp_path)
    told = str(caught.value).replace(f"Error downloading {name}: Tried {mirror}, got: ", "")  # as new torchvision says
    assert told == (
        f"FashionMNIST is not in {tmp_path}/FashionMNIST/raw, and downloading it failed "
        f"(File not found or corrupted.); put its idx files there and pass --images-root {tmp_path}"
    )
    check_against(official, load_images("fashion-mnist", tmp_path))


def test_missing_images_without_network_say_where_to_put_them(
    nobody_listens: str, server_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirror(monkeypatch, "MNIST", nobody_listens, server_folder)
    with pytest.raises(MissingImagesError) as caught:
        load_images("mnist", tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f"MNIST is not in {tmp_path}/MNIST/raw, and downloading it failed "
        "(Error downloading train-images-idx3-ubyte.gz: "
    )
    assert message.endswith(f"); put its idx files there and pass --images-root {tmp_path}")
    assert "\n" not in message


@pytest.mark.parametrize("name", IDX_FILES)
@pytest.mark.parametrize("keep", [0, 3, 1000])
def test_a_damaged_file_is_never_taken_for_images(
    name: str,
    keep: int,
    idx_folder: Path,
    nobody_listens: str,
    server_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = put(idx_folder, tmp_path, "MNIST")
    (raw / name).unlink()
    (raw / name).write_bytes((idx_folder / name).read_bytes()[:keep])
    use_mirror(monkeypatch, "MNIST", nobody_listens, server_folder)
    with pytest.raises(MissingImagesError) as caught:
        load_images("mnist", tmp_path)
    assert str(caught.value) == f"MNIST in {raw} is damaged; remove that folder to download it again"


def test_too_few_images_are_refused(
    official: dict[tuple[str, str], np.ndarray], idx_folder: Path, tmp_path: Path
) -> None:
    raw = put(idx_folder, tmp_path, "MNIST")
    for name, (split, what) in IDX_FILES.items():
        if split == "train":
            array = official[split, what][:100]
            header = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
            (raw / name).unlink()
            (raw / name).write_bytes(header + array.tobytes())
    with pytest.raises(MissingImagesError) as caught:
        load_images("mnist", tmp_path)
    assert str(caught.value) == (
        f"images mnist: expected 60,000 train images, found 100 below {tmp_path}; "
        "remove its files to have them downloaded again"
    )
