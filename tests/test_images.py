"""Image datasets: the published splits and values, and plain words where files are missing or damaged."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch.utils.data import random_split
from torchvision import transforms

from modelzoo_datasets.errors import MissingImagesError, RecipeError
from modelzoo_datasets.images import Images, get_image_dataset, image_dataset_names, load_images
from modelzoo_datasets.images.embedded import read_fashion_mnist_5k

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


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder and does not talk about it."""

    def log_message(self, *args: object) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    """Says nothing when torchvision hangs up on its first request, which only looks for redirects."""

    def handle_error(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(server_folder: Path) -> Iterator[str]:
    """A web server on loopback with the compressed files."""
    server = QuietServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(server_folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def use_mirror(patch: pytest.MonkeyPatch, kind: str, url: str, folder: Path) -> None:
    """Point torchvision at another server, whose files have other checksums."""
    resources = [(f"{name}.gz", hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()) for name in IDX_FILES]
    patch.setattr(getattr(torchvision.datasets, kind), "mirrors", [url])
    patch.setattr(getattr(torchvision.datasets, kind), "resources", resources)


@pytest.fixture
def nobody_listens() -> str:
    """A mirror that refuses every connection."""
    server = QuietServer(("127.0.0.1", 0), QuietHandler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}/"


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


def test_the_embedded_images_have_the_shapes_and_splits_they_promise(images: Images) -> None:
    sizes = {name: tuple(split.pixels.shape) for name, split in images.splits.items()}
    assert sizes == {
        "train": (4200, 1, 28, 28),
        "validation": (800, 1, 28, 28),
        "test": (1000, 1, 28, 28),
    }
    for split in images.splits.values():
        assert split.pixels.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert len(split) == len(split.pixels)
        assert set(split.labels.tolist()) == set(range(images.classes))


def test_train_and_validation_are_disjoint_and_together_the_official_train(images: Images) -> None:
    official = read_fashion_mnist_5k(Path())["train"]
    parts = random_split(range(5000), (4200, 800), generator=torch.Generator().manual_seed(42))
    assert sorted([*parts[0].indices, *parts[1].indices]) == list(range(5000))
    for name, part in zip(("train", "validation"), parts, strict=True):
        assert torch.equal(images.splits[name].pixels, official.pixels[part.indices])
        assert torch.equal(images.labels(name), official.labels[part.indices])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_inputs_are_what_torchvision_transforms_give(images: Images, split: str) -> None:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(images.mean, images.std)])
    inputs = images.inputs(split)
    assert inputs.dtype == torch.float32
    for i in range(0, len(inputs), 50):
        picture = images.splits[split].pixels[i, 0].numpy()[:, :, None]
        assert torch.equal(inputs[i], transform(picture))


def test_pixels_are_normalised_with_the_published_constants() -> None:
    published = {"mnist": (0.1307, 0.3081)}  # all the others: 0.5, 0.5
    for name in image_dataset_names():
        mean, std = published.get(name, (0.5, 0.5))
        dataset = get_image_dataset(name)
        assert (dataset.mean, dataset.std) == ((mean,), (std,))


def test_the_fingerprint_tells_images_apart(images: Images, few_images: Images) -> None:
    again = load_images("fashion-mnist-5k", Path())
    assert again.fingerprint == images.fingerprint != few_images.fingerprint
    again.splits["test"].pixels[0, 0, 0, 0] += 1
    changed = Images(**{f: getattr(again, f) for f in ("name", "classes", "mean", "std", "splits")})
    assert changed.fingerprint != images.fingerprint


def test_the_licence_of_the_embedded_images_ships_with_them() -> None:
    notice = (files("modelzoo_datasets.images") / "data" / "FASHION_MNIST_LICENSE").read_text()
    assert "Zalando SE" in notice
    assert "The above copyright notice and this permission notice shall be included" in notice


def test_unknown_images_are_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        load_images("fashion-mnist-5", Path())
    assert str(caught.value) == "unknown images 'fashion-mnist-5'; did you mean 'fashion-mnist-5k'?"
    with pytest.raises(RecipeError, match="^unknown images 'zzz'; known: mnist, fashion-mnist, "):
        load_images("zzz", Path())


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
    assert str(caught.value) == (
        f"FashionMNIST is not in {tmp_path}/FashionMNIST/raw, and downloading it failed "
        f"(Error downloading {name}: Tried {mirror}, got: File not found or corrupted.); "
        f"put its idx files there and pass --images-root {tmp_path}"
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
