"""Whom a cache folder can be trusted with."""

import grp
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelzoo_datasets.zoo.private_folder import explain_distrust

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")


@pytest.fixture
def parent() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder).resolve()


def test_folders_of_this_user_are_trusted_whether_they_exist_or_not(parent: Path) -> None:
    folder = parent / "a" / "cache"
    assert explain_distrust(folder) is None
    folder.mkdir(parents=True)
    for mode in (0o700, 0o755, 0o500):
        folder.chmod(mode)
        assert explain_distrust(folder) is None


@pytest.mark.parametrize("place", [".", "a", "a/cache"])
def test_a_folder_that_others_can_write_to_or_change_above_is_not_trusted(place: str, parent: Path) -> None:
    folder = parent / "a" / "cache"
    folder.mkdir(parents=True)
    (parent / place).chmod(0o777)
    named = parent / place
    assert explain_distrust(folder) == (
        f"other users can write to {named}; run chmod go-w {named}, or set another cache folder"
    )
    named.chmod(0o1777)
    assert (explain_distrust(folder) is None) == (place != "a/cache"), "in a folder like /tmp nobody replaces files"


def test_a_link_is_followed(parent: Path) -> None:
    (parent / "real").mkdir(mode=0o700)
    (parent / "real").chmod(0o777)
    (parent / "link").symlink_to("real")
    assert f"other users can write to {parent / 'real'}" in str(explain_distrust(parent / "link"))


@as_root
def test_a_folder_or_a_folder_above_of_another_user_is_not_trusted(parent: Path) -> None:
    (parent / "a" / "cache").mkdir(parents=True)
    for path in (parent / "a", parent / "a" / "cache"):
        os.chown(path, 12345, -1)
        assert explain_distrust(parent / "a" / "cache") == f"{path} belongs to another user; set another cache folder"
        os.chown(path, 0, -1)


def test_the_group_of_this_user_alone_may_write(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with umask 002 where each user has a group of his own."""
    folder = parent / "cache"
    folder.mkdir()
    folder.chmod(0o775)
    uid, gid = os.geteuid(), folder.stat().st_gid
    user = pwd.struct_passwd(("ann", "x", uid, gid, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    for name, number, members, trusted in (
        ("ann", gid, [], True),
        ("ann", gid, ["ann"], True),
        ("ann", gid, ["ann", "bob"], False),
        ("users", gid, [], gid == uid),
        ("ann", gid + 1, [], False),
    ):
        group = grp.struct_group((name, "x", number, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _, group=group: group)
        monkeypatch.setattr(pwd, "getpwuid", lambda _, n=number: pwd.struct_passwd(("ann", "x", uid, n, "", "/", "/")))
        assert (explain_distrust(folder) is None) == trusted, (name, members)
