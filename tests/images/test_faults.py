"""Files that are missing, cut off, altered or of another number are refused in one line, and leave nothing behind."""

import dataclasses
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.real_files import N, files_in, md5_of, use_server

from modelzoo_datasets.errors import MissingImagesError
from modelzoo_datasets.images import image_formats, load_images
from modelzoo_datasets.images.fetch import Download, fetch

# image dataset -> kind, its name as people write it, and the file that it wants first
FIRST = {
    "svhn": ("SVHN", "SVHN", "train_32x32.mat"),
    "usps": ("USPS", "USPS", "usps.bz2"),
    "cifar10": ("CIFAR10", "CIFAR-10", "cifar-10-binary.tar.gz"),
    "cifar100": ("CIFAR100", "CIFAR-100", "cifar-100-binary.tar.gz"),
    "stl10-28": ("STL10", "STL-10", "stl10_binary.tar.gz"),
}
Folders = dict[str, Path]
Patch = pytest.MonkeyPatch


def refusal(name: str, root: Path) -> str:
    with pytest.raises(MissingImagesError) as caught:
        load_images(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def told_missing(name: str, root: Path, url: str, reason: str) -> str:
    _, dataset, file = FIRST[name]
    return (
        f"{dataset}: {root}/{file} is missing, and downloading it from {url}{file} failed ({reason}); "
        "put it there, or pass its folder with --images-root"
    )


def lay(kind: str, folders: Folders, root: Path) -> None:
    """Put the official files in place."""
    for file in folders[kind].iterdir():
        (root / file.name).write_bytes(file.read_bytes())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", FIRST)
def test_missing_files_without_network_say_where_to_put_them(
    name: str, server_folders: Folders, nobody_listens: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    kind = FIRST[name][0]
    use_server(monkeypatch, kind, nobody_listens, server_folders[kind])
    reason = "<urlopen error [Errno 111] Connection refused>"
    assert refusal(name, tmp_path) == told_missing(name, tmp_path, nobody_listens, reason)
    assert files_in(tmp_path) == set()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", FIRST)
def test_a_broken_connection_leaves_nothing_and_the_next_try_succeeds(
    name: str,
    server_folders: Folders,
    serve: Callable[[Path], str],
    serve_and_hang_up: Callable[[Path], str],
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    kind, _, file = FIRST[name]
    url = serve_and_hang_up(server_folders[kind])
    use_server(monkeypatch, kind, url, server_folders[kind])
    size = (server_folders[kind] / file).stat().st_size
    reason = f"the connection ended after 1,000 of {size:,} bytes"
    assert refusal(name, tmp_path) == told_missing(name, tmp_path, url, reason)
    assert files_in(tmp_path) == set()
    use_server(monkeypatch, kind, serve(server_folders[kind]), server_folders[kind])
    assert len(load_images(name, tmp_path).splits["test"]) == N["test"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", FIRST)
def test_a_download_with_a_wrong_checksum_is_not_kept(
    name: str,
    server_folders: Folders,
    serve: Callable[[Path], str],
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    kind, _, file = FIRST[name]
    right = (server_folders[kind] / file).read_bytes()
    altered = tmp_path / "server"
    altered.mkdir()
    (altered / file).write_bytes(right[:-1])
    url, root = serve(altered), tmp_path / "images"
    use_server(monkeypatch, kind, url, server_folders[kind])
    reason = f"its MD5 checksum is {md5_of(right[:-1])} instead of {md5_of(right)}"
    assert refusal(name, root) == told_missing(name, root, url, reason)
    (altered / file).unlink()
    assert refusal(name, root) == told_missing(name, root, url, "HTTP Error 404: File not found")
    assert files_in(root) == set()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("keep", [0, 500, -1])
def test_a_truncated_file_is_named(
    name: str, keep: int, server_folders: Folders, nobody_listens: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    kind, dataset, file = FIRST[name]
    lay(kind, server_folders, tmp_path)
    use_server(monkeypatch, kind, nobody_listens, server_folders[kind])
    right = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(right[:keep])
    assert refusal(name, tmp_path) == (
        f"{dataset}: {tmp_path}/{file} is damaged (its MD5 checksum is {md5_of(right[:keep])} instead of "
        f"{md5_of(right)}); remove it to get it again from {nobody_listens}{file}"
    )
    assert not any(tmp_path.rglob("*.bin"))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "file", "size"),
    [
        ("cifar10", "cifar-10-batches-bin/data_batch_4.bin", 3073),
        ("cifar10-28", "cifar-10-batches-bin/test_batch.bin", 3073),
        ("cifar100", "cifar-100-binary/test.bin", 3074),
    ],
)
@pytest.mark.parametrize("keep", [0, 500, -1])
def test_a_truncated_cifar_batch_is_named(
    name: str, file: str, size: int, keep: int, server_folders: Folders, tmp_path: Path, monkeypatch: Patch
) -> None:
    kind, dataset, archive = FIRST[name.removesuffix("-28")]
    lay(kind, server_folders, tmp_path)
    use_server(monkeypatch, kind, "http://its.server/", server_folders[kind])
    whole = load_images(name, tmp_path).fingerprint
    right = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(right[:keep])
    assert refusal(name, tmp_path) == (
        f"{dataset}: {tmp_path}/{file} is damaged (its {len(right[:keep]):,} bytes are not records of {size:,}); "
        f"remove it to get it again from http://its.server/{archive}"
    )
    (tmp_path / file).unlink()
    assert load_images(name, tmp_path).fingerprint == whole


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("file", image_formats.STL10_MD5)
def test_an_altered_file_of_stl10_is_named(
    file: str, server_folders: Folders, tmp_path: Path, monkeypatch: Patch
) -> None:
    lay("STL10", server_folders, tmp_path)
    use_server(monkeypatch, "STL10", "http://its.server/", server_folders["STL10"])
    whole = load_images("stl10", tmp_path).fingerprint
    right = (tmp_path / file).read_bytes()
    wrong = bytes([*right[:-1], right[-1] ^ 1])
    (tmp_path / file).write_bytes(wrong)
    assert refusal("stl10", tmp_path) == (
        f"STL-10: {tmp_path}/{file} is damaged (its MD5 checksum is {md5_of(wrong)} instead of {md5_of(right)}); "
        "remove it to get it again from http://its.server/stl10_binary.tar.gz"
    )
    (tmp_path / file).unlink()
    assert load_images("stl10", tmp_path).fingerprint == whole


def test_an_archive_that_lacks_a_file_is_named(server_folders: Folders, tmp_path: Path, monkeypatch: Patch) -> None:
    archive = tmp_path / "cifar-100-binary.tar.gz"
    with tarfile.open(server_folders["CIFAR100"] / archive.name) as whole, tarfile.open(archive, "w:gz") as part:
        content = whole.extractfile("cifar-100-binary/train.bin")
        part.addfile(whole.getmember("cifar-100-binary/train.bin"), content)
    source = dataclasses.replace(image_formats.CIFAR100, md5=md5_of(archive.read_bytes()))
    monkeypatch.setattr(image_formats, "CIFAR100", source)
    assert refusal("cifar100", tmp_path) == (
        f"CIFAR-100: {archive} is damaged (it holds no cifar-100-binary/test.bin); "
        "remove it to get it again from https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    )


def test_a_folder_that_cannot_be_unpacked_to_is_named(
    server_folders: Folders, tmp_path: Path, monkeypatch: Patch
) -> None:
    lay("CIFAR10", server_folders, tmp_path)
    use_server(monkeypatch, "CIFAR10", "http://its.server/", server_folders["CIFAR10"])
    blocked = tmp_path / "cifar-10-batches-bin"
    blocked.touch()
    assert refusal("cifar10", tmp_path) == (
        f"CIFAR-10: cannot unpack {tmp_path}/cifar-10-binary.tar.gz ([Errno 17] File exists: '{blocked}'); "
        "unpack it there by hand"
    )


@pytest.mark.parametrize(("name", "expected"), [("svhn", 73_257), ("usps", 7_291), ("cifar10", 50_000)])
def test_too_few_images_are_refused(
    name: str, expected: int, server_folders: Folders, tmp_path: Path, monkeypatch: Patch
) -> None:
    kind = FIRST[name][0]
    lay(kind, server_folders, tmp_path)
    use_server(monkeypatch, kind, "http://its.server/", server_folders[kind])
    assert refusal(name, tmp_path) == (
        f"images {name}: expected {expected:,} train images, found {N['train']} below {tmp_path}; "
        "remove its files to have them downloaded again"
    )


@pytest.mark.usefixtures("small")
def test_labels_that_no_class_has_are_refused(server_folders: Folders, tmp_path: Path, monkeypatch: Patch) -> None:
    lay("CIFAR10", server_folders, tmp_path)
    use_server(monkeypatch, "CIFAR10", "http://its.server/", server_folders["CIFAR10"])
    load_images("cifar10", tmp_path)
    batch = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    batch.write_bytes(bytes([10, *batch.read_bytes()[1:]]))
    assert refusal("cifar10", tmp_path) == (
        f"images cifar10: expected test labels from 0 to 9, found 0 to 10 below {tmp_path}; "
        "remove its files to have them downloaded again"
    )


@pytest.mark.usefixtures("small")
def test_a_label_too_few_is_refused(server_folders: Folders, tmp_path: Path, monkeypatch: Patch) -> None:
    lay("STL10", server_folders, tmp_path)
    use_server(monkeypatch, "STL10", "http://its.server/", server_folders["STL10"])
    load_images("stl10", tmp_path)
    name = "stl10_binary/test_y.bin"
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    monkeypatch.setitem(image_formats.STL10_MD5, name, md5_of((tmp_path / name).read_bytes()))
    assert refusal("stl10", tmp_path) == (
        f"images stl10: expected 20 test labels, found 19 below {tmp_path}; "
        "remove its files to have them downloaded again"
    )


def test_many_may_want_the_same_file_at_once(serve: Callable[[Path], str], tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "file").write_bytes(content)
    source = Download("Numbers", f"{serve(tmp_path / 'server')}file", md5_of(content))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: fetch(source, tmp_path / "here" / "file"), range(8)))
    assert files_in(tmp_path / "here") == {"file"}
    assert (tmp_path / "here" / "file").read_bytes() == content
