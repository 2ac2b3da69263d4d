"""Only plain files are read, and only inside of the folder that was named."""

import os
import threading
from pathlib import Path

import pytest

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import check_plain_file, is_inside, read_json, read_tensors
from modelzoo_datasets.zoo.json_files import MAX_JSON_BYTES


def write_to_pipe(path: Path, content: bytes) -> None:
    """Write to a pipe once somebody opens it: a reader that does not look at the kind of the file gets the content."""

    def write() -> None:
        try:
            path.write_bytes(content)
        except OSError:  # the reader closed it
            return

    os.mkfifo(path)
    threading.Thread(target=write, daemon=True).start()


@pytest.mark.parametrize("read", [read_json, read_tensors], ids=["json", "safetensors"])
def test_a_pipe_is_refused_without_reading(tmp_path: Path, read: object) -> None:
    write_to_pipe(tmp_path / "file", b"{}")
    with pytest.raises(FormatError) as caught:
        read(tmp_path / "file")  # type: ignore[operator]
    expected = f"{tmp_path / 'file'} is a named pipe, expected a plain file; remove it, or copy its folder again"
    assert str(caught.value) == expected


def test_a_device_is_refused() -> None:
    with pytest.raises(FormatError, match="/dev/zero is a device, expected a plain file"):
        read_json(Path("/dev/zero"))


def test_a_huge_json_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "zoo.json").open("wb") as file:
        file.truncate(10**12)  # sparse: takes no room on the disk
    with pytest.raises(FormatError) as caught:
        read_json(tmp_path / "zoo.json")
    assert str(caught.value) == (
        f"{tmp_path / 'zoo.json'} has 1,000,000,000,000 bytes, expected at most {MAX_JSON_BYTES:,}"
    )


def test_deep_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text("[" * 1_000_000)
    with pytest.raises(FormatError, match="^cannot read .*zoo.json: "):
        read_json(tmp_path / "zoo.json")


def test_links_that_lead_out_of_the_folder_are_outside(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    for path in (folder, other):
        path.mkdir()
        (path / "file").write_bytes(b"content")
    (folder / "out").symlink_to(other / "file")
    (folder / "above").symlink_to(other)
    (folder / "within").symlink_to("file")
    assert check_plain_file(folder / "within", folder) == 7
    assert not is_inside(folder / "above" / "file", folder)
    with pytest.raises(FormatError) as caught:
        check_plain_file(folder / "out", folder)
    assert str(caught.value) == f"{folder / 'out'} is a link that leads out of {folder}; put the file itself there"
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be named by a link
    assert is_inside(tmp_path / "link" / "file", tmp_path / "link")


def test_links_of_the_hubs_cache_are_inside(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "0123", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abc").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"")
    (snapshot / "file").symlink_to("../../blobs/abc")
    (snapshot / "other").symlink_to("../../secret")
    assert is_inside(snapshot / "file", snapshot)
    assert not is_inside(snapshot / "other", snapshot)
