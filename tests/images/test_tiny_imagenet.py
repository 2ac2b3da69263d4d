"""Tiny ImageNet from its folder and from its zip file: real JPEG files, few of them."""

import dataclasses
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.real_files import files_in, md5_of
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, PILToTensor

from modelzoo_datasets.errors import MissingImagesError
from modelzoo_datasets.images import load_images, registry, tiny_imagenet

WNIDS = ["n02124075", "n04067472", "n01443537"]  # in no order, as in the real file
TRAIN_PER_CLASS = 11  # so that n_10 stands between n_1 and n_2
TESTS = 12
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
NAME = "tiny-imagenet-200"


def jpeg(draws: np.random.Generator, *, gray: bool = False, size: int = 64) -> bytes:
    """A smooth picture, as photographs are."""
    coarse = Image.fromarray(draws.integers(256, size=(5, 5, 3), dtype=np.uint8))
    picture = coarse.resize((size, size), Image.Resampling.BICUBIC).convert("L" if gray else "RGB")
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90)
    return content.getvalue()


def write(folder: Path) -> None:
    """All that the real archive holds, but less of it; every fifth image is gray."""
    draws = np.random.default_rng(0)
    files: dict[str, bytes] = {}
    annotations = []
    for wnid in WNIDS:
        for i in range(TRAIN_PER_CLASS):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(draws, gray=i % 5 == 0)
        boxes = (f"{wnid}_{i}.JPEG\t0\t0\t63\t63\n" for i in range(TRAIN_PER_CLASS))
        files[f"train/{wnid}/{wnid}_boxes.txt"] = "".join(boxes).encode()
    for i in range(TESTS):
        files[f"val/images/val_{i}.JPEG"] = jpeg(draws, gray=i % 5 == 0)
        annotations.append(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t32\t44\t62\n")
        files[f"test/images/test_{i}.JPEG"] = jpeg(draws)
    files["val/val_annotations.txt"] = "".join(annotations).encode()
    files["wnids.txt"] = "\n".join(WNIDS).encode()
    files["words.txt"] = b"n01443537\tgoldfish, Carassius auratus\n"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def zipped(folder: Path, path: Path) -> None:
    """The folder as a zip file, with entries for folders and in no order."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), key=lambda file: md5_of(file.name.encode())):
            archive.write(file, f"{NAME}/{file.relative_to(folder).as_posix()}")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the zip file and the folder that comes out of it."""
    root = tmp_path_factory.mktemp("tiny")
    write(root / NAME)
    zipped(root / NAME, root / f"{NAME}.zip")
    return root


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """The unpacked files, to be changed at will."""
    return Path(shutil.copytree(published / NAME, tmp_path / NAME))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry expects as many images as there are here."""
    entry = registry.get_image_dataset("tiny-imagenet")
    sizes = (TRAIN_PER_CLASS * len(WNIDS), 0, TESTS)
    monkeypatch.setitem(registry._DATASETS, "tiny-imagenet", dataclasses.replace(entry, sizes=sizes))


def use_server(patch: pytest.MonkeyPatch, url: str, published: Path) -> None:
    md5 = md5_of((published / f"{NAME}.zip").read_bytes())
    source = dataclasses.replace(tiny_imagenet.TINY_IMAGENET, url=f"{url}{NAME}.zip", md5=md5)
    patch.setattr(tiny_imagenet, "TINY_IMAGENET", source)


def check_against(published: Path, root: Path) -> None:
    """Train is what torchvision's ImageFolder makes of it; pixels are normalised on the scale of 0 to 255."""
    images = load_images("tiny-imagenet", root)
    assert set(images.splits) == {"train", "test"}
    assert images.input_shape == (3, 64, 64)
    mean, std = (tuple(255 * v for v in values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    transform = Compose([PILToTensor(), lambda pixels: pixels.float(), Normalize(mean, std)])
    train = ImageFolder(str(published / NAME / "train"), transform)
    assert images.labels("train").tolist() == [label for _, label in train.samples]
    torch.testing.assert_close(images.inputs("train"), torch.stack([image for image, _ in train]))
    tests = [published / NAME / "val" / "images" / name for name in sorted(f"val_{i}.JPEG" for i in range(TESTS))]
    wanted = torch.stack([transform(Image.open(file).convert("RGB")) for file in tests])
    torch.testing.assert_close(images.inputs("test"), wanted)
    number = {wnid: i for i, wnid in enumerate(train.classes)}
    labels = [number[WNIDS[int(file.stem.removeprefix("val_")) % 3]] for file in tests]
    assert images.labels("test").tolist() == labels
    for split in images.splits.values():
        assert split.pixels.dtype == torch.uint8 and split.labels.dtype == torch.int64


def test_the_folder_is_read(published: Path, folder: Path) -> None:
    check_against(published, folder.parent)


def test_the_zip_file_is_read_without_unpacking(published: Path, tmp_path: Path) -> None:
    shutil.copy(published / f"{NAME}.zip", tmp_path)
    check_against(published, tmp_path)
    assert files_in(tmp_path) == {f"{NAME}.zip"}


def test_some_of_the_images_are_gray(published: Path) -> None:
    files = (published / NAME / "train").rglob("*.JPEG")
    modes = {Image.open(io.BytesIO(file.read_bytes())).mode for file in files}
    assert modes == {"RGB", "L"}


def test_the_zip_file_is_downloaded_where_nothing_is(
    published: Path, serve: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_server(monkeypatch, serve(published), published)
    check_against(published, tmp_path)
    assert files_in(tmp_path) == {f"{NAME}.zip"}


def refusal(root: Path) -> str:
    with pytest.raises(MissingImagesError) as caught:
        load_images("tiny-imagenet", root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def told_damaged(what: object, reason: str, remove: object) -> str:
    return f"Tiny ImageNet: {what} is damaged ({reason}); remove {remove} to get it again from {URL}"


def test_a_broken_download_leaves_nothing(
    published: Path,
    serve_and_hang_up: Callable[[Path], str],
    nobody_listens: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = (published / f"{NAME}.zip").stat().st_size
    refused = "<urlopen error [Errno 111] Connection refused>"
    cut_off = f"the connection ended after 1,000 of {size:,} bytes"
    for url, reason in ((nobody_listens, refused), (serve_and_hang_up(published), cut_off)):
        use_server(monkeypatch, url, published)
        assert refusal(tmp_path) == (
            f"Tiny ImageNet: {tmp_path}/{NAME}.zip is missing, and downloading it from {url}{NAME}.zip failed "
            f"({reason}); put it there, or pass its folder with --images-root"
        )
        assert files_in(tmp_path) == set()


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_truncated_zip_file_is_named(keep: int, published: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.zip"
    path.write_bytes((published / path.name).read_bytes()[:keep])
    assert refusal(tmp_path) == told_damaged(path, "File is not a zip file", "it")


def test_a_file_altered_within_the_zip_file_is_named(published: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.zip"
    content = bytearray((published / path.name).read_bytes())
    name = f"{NAME}/train/{WNIDS[0]}/images/{WNIDS[0]}_7.JPEG"
    with zipfile.ZipFile(published / path.name) as archive:
        info = archive.getinfo(name)
    content[info.header_offset + 30 + len(name) + info.compress_size // 2] ^= 1
    path.write_bytes(content)
    message = refusal(tmp_path)
    assert message.startswith(f"Tiny ImageNet: {name} in {path} is damaged (")
    assert message.endswith(f"); remove {path} to get it again from {URL}")


def test_a_damaged_image_is_named(folder: Path) -> None:
    image = folder / "val" / "images" / "val_3.JPEG"
    right = image.read_bytes()
    image.write_bytes(right[:-300])
    message = refusal(folder.parent)
    assert message.startswith(f"Tiny ImageNet: {image} is damaged (image file is truncated (")
    assert message.endswith(f"); remove {folder} to get it again from {URL}")
    image.write_bytes(b"")
    assert refusal(folder.parent) == told_damaged(image, "it is no JPEG image", folder)
    image.write_bytes(jpeg(np.random.default_rng(0), size=48))
    told = told_damaged(image, "it is 48 x 48 pixels instead of 64 x 64", folder)
    assert refusal(folder.parent) == told


def test_what_does_not_belong_there_is_not_skipped(folder: Path) -> None:
    foreign = folder / "train" / WNIDS[0] / "images" / "picture.png"
    Image.new("RGB", (64, 64)).save(foreign)
    assert refusal(folder.parent) == told_damaged(foreign, "it is no JPEG image", folder)
    foreign.unlink()
    shutil.copy(folder / "val" / "images" / "val_0.JPEG", folder / "val" / "images" / "val_99.JPEG")
    assert refusal(folder.parent) == told_damaged(folder, "val/images holds a foreign val_99.JPEG", "it")


@pytest.mark.parametrize("name", ["wnids.txt", "val/val_annotations.txt"])
def test_a_missing_list_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert refusal(folder.parent) == told_damaged(folder, f"it holds no {name}", "it")


def test_missing_images_and_classes_are_named(folder: Path) -> None:
    (folder / "val" / "images" / "val_4.JPEG").unlink()
    assert refusal(folder.parent) == told_damaged(folder, "val/images holds no val_4.JPEG", "it")
    shutil.rmtree(folder / "train" / WNIDS[2])
    assert refusal(folder.parent) == told_damaged(folder, f"train holds no {WNIDS[2]}", "it")


def test_a_training_image_too_few_is_refused(folder: Path) -> None:
    (folder / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_4.JPEG").unlink()
    assert refusal(folder.parent) == (
        f"images tiny-imagenet: expected 33 train images, found 32 below {folder.parent}; "
        "remove its files to have them downloaded again"
    )


def test_lists_that_cannot_be_read_are_named(folder: Path) -> None:
    annotations = folder / "val" / "val_annotations.txt"
    right = annotations.read_text()
    annotations.write_text(right.replace(f"val_1.JPEG\t{WNIDS[1]}", "val_1.JPEG\tn1", 1))
    reason = "line 2 names no class of wnids.txt: 'val_1.JPEG\\tn1\\t0\\t32\\t44\\t62'"
    assert refusal(folder.parent) == told_damaged(annotations, reason, folder)
    annotations.write_bytes(b"\xff\xfe")
    assert refusal(folder.parent).startswith(f"Tiny ImageNet: {annotations} is damaged ('utf-8' codec can't decode ")
