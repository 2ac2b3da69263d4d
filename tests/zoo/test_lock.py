"""One process at a time writes an output; who it is, is said; what a killed process left is taken over."""

import json
import multiprocessing
import os
import random
import re
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import fork
from helpers.refused_locks import can_refuse, refuse_locks

from modelzoo_datasets.errors import FolderInUseError
from modelzoo_datasets.zoo import OutputLock, own_partial_path
from modelzoo_datasets.zoo.lock import locate_lock

FORKED = multiprocessing.get_context("forkserver")
THIS_PROCESS = rf"process {os.getpid()} on \S+ since [\d-]{{10}} [\d:]{{8}} UTC \(.*\)"


def write_owner(path: Path, **changes: Any) -> None:
    """A lock file of a process that is gone, with changes."""
    locate_lock(path).unlink(missing_ok=True)
    with OutputLock(path):
        owner = json.loads(locate_lock(path).read_text())
    locate_lock(path).write_text(json.dumps(owner | {"pid": gone()} | changes))


def gone() -> int:
    """The id of a process that has ended."""
    if child := os.fork():
        os.waitpid(child, 0)
        return child
    os._exit(0)


def refused(path: Path) -> str:
    with pytest.raises(FolderInUseError) as caught:
        OutputLock(path)
    return str(caught.value)


def in_child(work: Callable[[], object]) -> int:
    """Exit status of a process that does it; 1 for any error."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_second_writer_is_told_who_the_first_is_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "a" / "zoo"
    for _ in range(2):
        with OutputLock(out):
            assert [path.name for path in out.parent.iterdir()] == [".zoo.lock"]
            for same in (out, tmp_path / "a" / ".." / "a" / "zoo"):
                assert re.fullmatch(
                    rf"another process is writing {re.escape(str(same))}: {THIS_PROCESS}; wait until it ends, or "
                    "choose another --out",
                    refused(same),
                )
        assert not list(out.parent.iterdir())
    with pytest.raises(KeyError), OutputLock(out):
        raise KeyError
    assert not list(out.parent.iterdir())


def test_a_link_to_a_folder_has_the_lock_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "link").symlink_to("zoo")
    with OutputLock(tmp_path / "link"):
        assert "another process is writing" in refused(tmp_path / "zoo")


def test_what_a_killed_process_left_is_taken_over_and_removed(tmp_path: Path) -> None:
    out, others = tmp_path / "zoo", ("other.partial", ".zoo2.1-0123abcd.partial", ".zoo.partial", ".zoo.1-abcd.partial")

    def killed() -> None:
        OutputLock(out)
        own_partial_path(out).mkdir()
        (own_partial_path(out)).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    for name in others:
        (tmp_path / name).mkdir()
    assert in_child(killed) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3 + len(others)
    with OutputLock(out):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others), "what is not of this output stays"


def test_a_forked_process_neither_releases_the_lock_nor_outlives_its_release(tmp_path: Path) -> None:
    lock = OutputLock(tmp_path / "zoo")
    assert in_child(lock.release) == 0
    assert "another process" in refused(tmp_path / "zoo")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    lock.release()
    OutputLock(tmp_path / "zoo").release()
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)


def test_the_lock_of_another_machine_is_never_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "zoo"
    write_owner(out, host="far", boot="another", pid=7, command="modelzoo-build zoo", since="2026-01-02 03:04:05+00:00")
    assert refused(out) == (
        f"another process is writing {out}: process 7 on far since 2026-01-02 03:04:05 UTC (modelzoo-build zoo); wait "
        f"until it ends, or choose another --out; if that process is gone, delete {tmp_path}/.zoo.lock"
    )
    for changes in ({"host": "far"}, {"boot": "earlier"}, {"ends_with_process": False}):
        write_owner(out, **changes)  # another container of this machine, or before it was started again
        OutputLock(out).release()
    write_owner(out, ends_with_process=False, pid=os.getpid())
    assert "if that process is gone, delete" in refused(out)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "\0" * 5000])
def test_a_lock_file_without_an_owner_is_taken_over_where_nobody_has_locked_it(text: str, tmp_path: Path) -> None:
    locate_lock(tmp_path / "zoo").write_text(text)
    OutputLock(tmp_path / "zoo").release()
    assert not list(tmp_path.iterdir())


def test_what_is_no_lock_file_is_not_touched(tmp_path: Path) -> None:
    path = locate_lock(tmp_path / "zoo")
    os.mkfifo(path)
    assert refused(tmp_path / "zoo") == f"{path} is no lock file, but lies where one must be; remove it"
    path.unlink()
    (tmp_path / "mine").write_text("mine")
    path.symlink_to("mine")
    with pytest.raises(OSError, match=re.escape(str(path))):
        OutputLock(tmp_path / "zoo")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user, whom only root can become")
def test_a_folder_whose_parent_cannot_be_written_has_its_lock_within() -> None:
    with tempfile.TemporaryDirectory() as parent:  # that another user may enter
        Path(parent).chmod(0o755)
        folder = Path(parent) / "zoo"
        folder.mkdir()
        os.chown(folder, 12345, -1)

        def as_another() -> None:
            os.setuid(12345)
            with OutputLock(folder):
                assert [path.name for path in folder.iterdir()] == [".lock"]
            assert not list(folder.iterdir())

        assert in_child(as_another) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user, whom only root can become")
def test_another_user_is_told_who_writes_and_takes_over_what_is_left() -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o777)
        out = Path(parent) / "zoo"

        def as_another() -> None:
            os.setuid(12345)
            assert re.search(THIS_PROCESS, refused(out))

        def after_it() -> None:
            os.setuid(12345)
            OutputLock(out).release()

        with OutputLock(out):
            assert in_child(as_another) == 0
        write_owner(out)
        assert in_child(after_it) == 0
        assert not list(Path(parent).iterdir())


needs_refusal = pytest.mark.skipif(not can_refuse(), reason="needs filters of system calls")


def refusing(work: Callable[[], object], out: Path) -> str:
    """What a process writes to stderr that does it where the kernel refuses locks."""
    process = fork(_refusing, (work,), os.environ, out)
    process.join(60)
    assert process.exitcode == 0, Path(f"{out}-e").read_text()
    return Path(f"{out}-e").read_text()


def _refusing(work: Callable[[], object]) -> None:
    refuse_locks()
    work()


def write_here() -> None:
    with OutputLock(Path(os.environ["OUT"])):
        for _ in range(2):
            try:
                OutputLock(Path(os.environ["OUT"]))
            except FolderInUseError as error:
                print(error)
    OutputLock(Path(os.environ["OUT"])).release()


def leave() -> None:
    OutputLock(Path(os.environ["OUT"]))


@needs_refusal
def test_where_locks_are_refused_it_is_said_and_the_file_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "disk" / "zoo"
    monkeypatch.setenv("OUT", str(out))
    warning = refusing(write_here, tmp_path / "out")
    assert warning == (
        f"the file system of {out} refuses to lock files (No locks available); {out.parent}/.zoo.lock protects it: if "
        "this process is killed, delete that file\n"
    )
    first, second = (tmp_path / "out").read_text().splitlines()
    end = f"wait until it ends, or choose another --out; if that process is gone, delete {out.parent}/.zoo.lock"
    assert first == second and first.endswith(end)
    assert not list(out.parent.iterdir())
    refusing(leave, tmp_path / "killed")
    assert [path.name for path in out.parent.iterdir()] == [".zoo.lock"]
    with pytest.raises(AssertionError, match=f"if that process is gone, delete {out.parent}"):
        refusing(leave, tmp_path / "out")
    OutputLock(out).release()  # where locks are not refused, the process is seen to be gone


def contend(folder: str, barrier: Barrier, refused: bool, seed: int) -> None:
    """Take the lock a hundred times and see that nobody else has it."""
    if refused:
        refuse_locks()
    generator, taken = random.Random(seed), 0
    out, mark = Path(folder) / "zoo", Path(folder) / "mark"
    barrier.wait()
    while taken < int(os.environ["ROUNDS"]):
        try:
            lock = OutputLock(out)
        except FolderInUseError as error:
            assert "another process is writing" in str(error)
            continue
        with lock:
            mark.touch(exist_ok=False)
            time.sleep(generator.random() / 2000)
            mark.unlink()
            taken += 1
    print(taken)


@pytest.mark.parametrize("refused", [False, pytest.param(True, marks=needs_refusal)])
@pytest.mark.parametrize("rounds", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_of_racing_processes_one_at_a_time_has_the_lock(
    refused: bool, rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDS", str(rounds))
    barrier = FORKED.Barrier(3)
    racers = [fork(contend, (str(tmp_path), barrier, refused, i), os.environ, tmp_path / f"out{i}") for i in range(3)]
    for i, racer in enumerate(racers):
        racer.join(300)
        assert racer.exitcode == 0, (tmp_path / f"out{i}-e").read_text()
    assert not (tmp_path / ".zoo.lock").exists() and not (tmp_path / "mark").exists()
