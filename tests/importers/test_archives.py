"""Archives and folders with what points outside, and archives that are cut off."""

import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from helpers.originals import trial_name
from helpers.untrained_originals import checkpoint, imported, sound, write_zoo

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.importers.archives import FolderSource

OUTSIDE = "file that points outside of its folder or archive, or is no plain file"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "tune_zoo_uniform")


def test_a_zip_that_points_outside(zoo: Path, tmp_path: Path) -> None:
    path = tmp_path / "zoo.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(zoo.rglob("*")):
            archive.write(file, file.relative_to(zoo.parent))
        archive.writestr("../x", "out")
        archive.writestr("/etc/x", "out")
        archive.writestr("a\\..\\x", "out")
        link = zipfile.ZipInfo(f"{zoo.name}/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    found = imported(path, tmp_path / "in" / "zoo")
    assert found.skipped == [f"skipped 4: {OUTSIDE} (first: ../x)"]
    assert found.states == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "tune_zoo_uniform", "zoo.zip"]


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_a_tar_with_links(zoo: Path, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "zoo.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(zoo, zoo.name)
        for kind, name in ((tarfile.SYMTYPE, "symbolic"), (tarfile.LNKTYPE, "hard"), (tarfile.FIFOTYPE, "fifo")):
            member = tarfile.TarInfo(f"{zoo.name}/{name}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        outside = tarfile.TarInfo(f"{zoo.name}/../../x")
        outside.size = 3
        archive.addfile(outside, io.BytesIO(b"out"))
    found = imported(path, tmp_path / "in" / "zoo")
    assert found.skipped == [f"skipped 4: {OUTSIDE} (first: {zoo.name}/symbolic)"]
    assert found.states == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "tune_zoo_uniform", "zoo.tar"]


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_an_archive_that_was_not_downloaded_whole(zoo: Path, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "zoo.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(zoo / trial_name(1, 1), f"{zoo.name}/{trial_name(1, 1)}")
        archive.add(zoo / trial_name(2, 2), f"{zoo.name}/{trial_name(2, 2)}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    found = imported(path, tmp_path / "zoo")
    assert found.states >= 3
    cut = "skipped 1: file that is cut off or damaged, so the files behind that place are missing (first: zoo.tar)"
    assert cut in found.skipped, "the archive that the user named, not the temporary file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tune_zoo_uniform", "zoo", "zoo.tar"]
    assert sound(tmp_path / "zoo")


def test_a_folder_with_links_to_elsewhere(zoo: Path, tmp_path: Path) -> None:
    elsewhere = shutil.move(checkpoint(zoo, 1, 1), tmp_path / "elsewhere")
    checkpoint(zoo, 1, 1).symlink_to(elsewhere)
    moved = shutil.move(zoo / trial_name(3, 3), tmp_path / "trial")
    (zoo / trial_name(3, 3)).symlink_to(moved)
    found = imported(zoo, tmp_path / "zoo")
    assert (found.models, found.states) == (2, 5)
    assert found.skipped == [f"skipped 2: {OUTSIDE} (first: {trial_name(3, 3)})"]


def test_a_folder_that_may_not_be_read_is_counted() -> None:
    with tempfile.TemporaryDirectory() as name:  # the folders of pytest are closed to others
        folder = Path(name)
        for part in ("closed", "open"):
            (folder / part).mkdir()
            (folder / part / "file").write_bytes(b"x")
        folder.chmod(0o755)
        (folder / "closed").chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # to whom nothing is closed
                os.seteuid(65534)
            source = FolderSource(folder)
            with pytest.raises(FormatError) as caught:
                FolderSource(folder / "closed")
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o755)
        assert list(source.sizes) == ["open/file"]
        closed = "skipped 1: is a folder that cannot be read: Permission denied (first: closed)"
        assert source.skipped.lines() == [closed]
        assert str(caught.value) == f"cannot read {folder / 'closed'}: Permission denied"
