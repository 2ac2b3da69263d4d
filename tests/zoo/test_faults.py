"""What can happen to a folder while it is written: a kill, a full disk, a second process, a model that diverges."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.full_disk import files_no_larger_than
from helpers.mounts import in_mounts_of_our_own
from helpers.paths import TESTS
from helpers.processes import BIN, hashes, run
from helpers.random_zoos import add_model, recipe, write_zoo, zoo_info

from modelzoo_datasets import generate_zoo, read_recipe
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.errors import DiskFullError, FolderInUseError
from modelzoo_datasets.zoo import ZooFolder, ZooWriter
from modelzoo_datasets.zoo.atomic_io import AtomicFile, write_bytes
from modelzoo_datasets.zoo.tables import read_arrow
from modelzoo_datasets.zoo.writer import MAX_PENDING_BYTES, WriterPool

PATIENCE = 300  # seconds that no wait of these tests comes near
TORCH = ("--engine", "torch", "--quiet")  # what made the zoos that these are held against


class Broken(Exception):
    """A write that fails."""


def fail() -> None:
    raise Broken


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_zoo_killed_at_any_step_on_the_disk_ends_with_the_same_bytes_and_repeats_nothing(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-m", "helpers.killed_writers", tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr[-1000:]
    found = json.loads(result.stdout)
    models = ["seed-00001", "seed-00002"]
    for storage in ("states", "packed"):
        steps = found[storage]
        assert len(steps) > 30
        assert all(step["same"] for step in steps)
        for step in steps:
            assert step["written"] == [model for model in models if model not in step["finished"]]
        # Of two parts, both have been killed with nothing, something and everything finished.
        assert {tuple(step["finished"]) for step in steps} == {(), ("seed-00002",), tuple(models)}


def test_what_belongs_together_is_written_in_order_whatever_else_is_written() -> None:
    written: dict[str, list[int]] = {f"model-{i}": [] for i in range(8)}
    writers = WriterPool()
    for number in range(50):
        for key, numbers in written.items():
            writers.submit(key, 10, lambda numbers=numbers, number=number: numbers.append(number))  # type: ignore[misc]
    writers.close()
    assert all(numbers == list(range(50)) for numbers in written.values())
    assert writers.seconds_writing > 0


def test_the_first_failed_write_is_raised_and_nothing_is_written_after_it() -> None:
    writers, written = WriterPool(), threading.Event()
    writers.submit("a", 1, fail)
    for key in ("a", "b", "c", "d"):
        with pytest.raises(Broken):
            writers.flush()
        with pytest.raises(Broken):
            writers.submit(key, 1, written.set)
    with pytest.raises(Broken):
        writers.close()
    writers.abandon()  # keeps it to itself
    with pytest.raises(Broken):
        writers.close()
    assert not written.is_set()


def test_what_was_handed_over_before_a_failure_of_its_own_thread_is_dropped() -> None:
    writers, begin, written = WriterPool(), threading.Event(), threading.Event()
    writers.submit("a", 1, lambda: (begin.wait(PATIENCE), fail())[0])  # type: ignore[func-returns-value]
    writers.submit("a", 1, written.set)
    begin.set()
    with pytest.raises(Broken):
        writers.close()
    assert not written.is_set()


def test_training_waits_only_when_the_disk_is_behind_by_the_stated_bytes() -> None:
    writers, disk, waiting = WriterPool(), threading.Event(), threading.Event()
    writers.submit("a", MAX_PENDING_BYTES - 10, lambda: None if disk.wait(PATIENCE) else fail())
    writers.submit("b", 10, lambda: None)  # exactly the limit: at once
    assert writers.seconds_waiting < PATIENCE / 2

    def release() -> None:
        until(waiting.is_set)
        time.sleep(0.05)
        disk.set()

    threading.Thread(target=release).start()
    waiting.set()
    writers.submit("b", 2 * MAX_PENDING_BYTES, lambda: None)  # too large: alone, but never refused
    assert disk.is_set(), "it waited for the disk"
    assert writers.seconds_waiting >= 0.04
    writers.close()


def test_a_failure_wakes_whoever_waits_for_the_disk() -> None:
    writers, disk = WriterPool(), threading.Event()
    writers.submit("a", MAX_PENDING_BYTES, lambda: fail() if disk.wait(PATIENCE) else None)
    threading.Timer(0.05, disk.set).start()
    with pytest.raises(Broken):
        writers.submit("b", 1, lambda: None)
    with pytest.raises(Broken):
        writers.close()


def test_ctrl_c_while_the_rest_is_written_drops_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    writers, disk, begun, written = WriterPool(), threading.Event(), threading.Event(), threading.Event()
    writers.submit("a", 1, lambda: (begun.set(), disk.wait(PATIENCE))[0])  # type: ignore[func-returns-value]
    writers.submit("a", 1, written.set)
    until(begun.is_set)
    join, calls = writers._join, []

    def interrupted() -> None:
        if not calls:
            calls.append(1)
            threading.Timer(0.05, disk.set).start()
            raise KeyboardInterrupt
        join()

    monkeypatch.setattr(writers, "_join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writers.abandon()
    assert disk.is_set(), "it came back only when no thread was writing any more"
    assert not written.is_set()


@pytest.mark.parametrize("storage", ["states", "packed"])
def test_a_write_that_fails_is_the_failure_of_the_command_and_the_zoo_goes_on_from_there(
    storage: str, tmp_path: Path
) -> None:
    chosen, out = recipe(models=3, epochs=1), tmp_path / "zoo"
    grid = chosen.members("seed")
    write_zoo(tmp_path / "whole", chosen, storage)
    with (
        pytest.raises(OSError, match=r"^\[Errno 27\] File too large: '.*seed-00002.*safetensors'$"),
        ZooWriter(out, zoo_info(chosen, storage)) as writer,
    ):
        add_model(writer, grid[0])
        writer.pool.flush()
        with files_no_larger_than(5000):
            add_model(writer, grid[1])
            writer.pool.close()
    assert [path.name for path in out.glob("progress/*.json")] == ["seed-00001.json"]
    assert not list(out.rglob("*.partial")), "half of a file takes room and is of no use"
    assert write_zoo(out, chosen, storage) == ["seed-00002", "seed-00003"]
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_full_disk_is_told_with_the_file_that_had_no_room(tmp_path: Path) -> None:
    full = Path("/dev/full")  # every write to it fails as on a full disk
    if not full.exists():
        pytest.skip("needs /dev/full")
    path = tmp_path / "file"
    file = AtomicFile(path)
    file._file.close()
    file._file = full.open("wb", buffering=0)
    with pytest.raises(DiskFullError) as caught:
        file.write(b"x")
    assert str(caught.value) == (
        f"the disk is full: no room for {path}; make room there and run the same command again to go on"
    )
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_damaged_counts_as_none(tmp_path: Path) -> None:
    chosen, out = recipe(models=3, epochs=1), tmp_path / "zoo"
    grid = chosen.members("seed")
    for damage in ("", "[", "{}", "[3]", "[]", '[{"model_id": "seed-00002", "epoch": "none"}]'):
        shutil.rmtree(out, ignore_errors=True)
        with ZooWriter(out, zoo_info(chosen, "states")) as writer:
            for member in grid[:2]:
                add_model(writer, member)
        (out / "progress" / "seed-00002.json").write_text(damage)
        with ZooWriter(out, zoo_info(chosen, "states")) as writer:
            assert writer.find_finished(grid) == {"seed-00001"}


def test_a_folder_is_let_go_whatever_goes_wrong_with_it(tmp_path: Path) -> None:
    chosen = recipe(models=1, epochs=1)
    with pytest.raises(Broken), ZooWriter(tmp_path / "zoo", zoo_info(chosen, "states")):
        fail()
    with pytest.raises(FolderInUseError, match="holds another zoo"):
        ZooWriter(tmp_path / "zoo", replace(zoo_info(chosen, "states"), images="others"))
    write_zoo(tmp_path / "zoo", chosen, "states")


DIVERGING = """\
images = "fashion-mnist-5k"
architecture = "cnn-s"
seed = 1

[configs.wild]
epochs = 2
batch_size = 1000
seeds = [1]
activation = "relu"
optimizer = "sgd"
init = "kaiming_normal"
lr = [1e-2, 1e7, 1e30]
"""


def test_a_diverged_model_is_kept_marked_and_measured_as_far_as_it_can_be(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "wild.toml").write_text(DIVERGING)
    chosen, out = read_recipe(str(tmp_path / "wild.toml")), tmp_path / "zoo"
    options = {"engine": engine, "images_root": tmp_path, "storage": "packed"}
    for part in (range(2, 4), None):  # made in parts, so that rows come from the table and from records
        generate_zoo(chosen, out, config="wild", models=part, **options)  # type: ignore[arg-type]
    generate_zoo(chosen, tmp_path / "at once", config="wild", **options)  # type: ignore[arg-type]
    assert hashes(out) == hashes(tmp_path / "at once")
    zoo = ZooFolder.open(out)
    states = zip(zoo.states["model_id"], zoo.states["epoch"], strict=True)
    finite = [bool(zoo.weights(model, epoch).isfinite().all()) for model, epoch in states]
    assert zoo.states["finite"].tolist() == finite
    diverged = ~zoo.states.groupby("model_id")["finite"].all()
    assert zoo.models["diverged"].tolist() == diverged.tolist()
    assert zoo.models["diverged"].any() and not zoo.models["diverged"].all()
    table = read_arrow(out / "states.parquet").to_pandas()
    measured = table[["train_loss", "val_loss", "test_loss"]].to_numpy()
    assert not (abs(measured) == float("inf")).any(), "no finite number is missing, not infinite"
    lost = table[~table["finite"]]
    assert len(lost) and lost["test_loss"].isna().any()
    assert table[["train_acc", "val_acc", "test_acc", "ggap"]].notna().all().all()


def test_losses_that_are_no_numbers_leave_records_that_are_strict_json(tmp_path: Path) -> None:
    chosen, out = recipe(models=1, epochs=1), tmp_path / "zoo"
    (member,) = chosen.members("seed")
    infinite = {"train_loss": float("inf"), "train_acc": 0.25, "test_loss": float("nan"), "test_acc": 0.125}
    with ZooWriter(out, zoo_info(chosen, "states")) as writer:
        for epoch in range(2):
            writer.add(member, epoch, torch.full((2464,), float("-inf")), infinite, torch.ones(10))
        writer.pool.flush()

        def refuse(word: str) -> None:
            raise AssertionError(word)

        rows = json.loads((out / "progress" / "seed-00001.json").read_text(), parse_constant=refuse)
        writer.complete([member])
    for row in rows:
        assert (row["train_loss"], row["test_loss"]) == (None, None)
        assert (row["train_acc"], row["test_acc"], row["ggap"], row["finite"]) == (0.25, 0.125, 0.125, False)
    assert read_arrow(out / "states.parquet").to_pylist() == rows
    assert read_arrow(out / "models.parquet")["diverged"].to_pylist() == [True]


def test_a_disk_that_runs_full_is_one_line_and_with_more_room_the_same_command_goes_on(
    tiny_recipe: Path, tiny_hyp_zoo: Path, tmp_path: Path
) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    command = f"{BIN}/modelzoo-generate {tiny_recipe}/hyp --engine torch --threads 1 --quiet --out {disk}/zoo"
    script = f"""
    mount -t tmpfs -o size=130k tmpfs {disk} || exit 9
    {command}; echo status $?
    ls {disk}/zoo/progress
    mount -o remount,size=50m {disk}
    {command}; echo status $?
    cp -r {disk}/zoo {kept}
    """
    result = in_mounts_of_our_own(script)
    *finished, trained, last = result.stdout.splitlines()[1:]
    assert result.stdout.startswith("status 2\n"), result.stderr
    (line,) = result.stderr.splitlines()
    file = line.removeprefix("modelzoo-generate: the disk is full: no room for ").partition(";")[0]
    assert line == (
        f"modelzoo-generate: the disk is full: no room for {file}; make room there and run the same command again to "
        "go on"
    )
    assert Path(file).is_relative_to(disk / "zoo")
    assert 0 < len(finished) < 8
    assert (trained, last) == (f"{disk}/zoo: tiny/hyp, {8 - len(finished)} models trained", "status 0")
    assert hashes(kept) == hashes(tiny_hyp_zoo)


def test_of_two_processes_on_one_folder_the_second_is_refused_and_the_first_undisturbed(
    tiny_recipe: Path, tiny_hyp_zoo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "zoo"
    command: list[str | Path] = ["modelzoo-generate", f"{tiny_recipe}/hyp", "--out", out, "--threads", "1", *TORCH]
    words = [str(BIN / command[0]), *map(str, command[1:])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        try:
            until(lambda: bool(list(out.glob("progress/*.json"))))
            first.send_signal(signal.SIGSTOP)  # so that it is in the middle of its work however long the second takes
            before = hashes(out)
            second = run(command)
            assert second.returncode == 2
            assert re.fullmatch(
                rf"modelzoo-generate: another process is writing {out}: process {first.pid} on \S+ since "
                rf"[\d :-]{{19}} UTC \(modelzoo-generate {tiny_recipe}/hyp\); wait until it ends, or choose "
                r"another --out\n",
                second.stderr,
            )
            assert hashes(out) == before
        finally:
            first.send_signal(signal.SIGCONT)
        _, told = first.communicate(timeout=PATIENCE)
    assert (first.returncode, told) == (0, "")
    assert hashes(out) == hashes(tiny_hyp_zoo)


def test_what_lies_in_the_way_of_a_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=f"'{tmp_path / 'file'}'$"):
        write_bytes(tmp_path / "file" / "below", b"x")
    assert (tmp_path / "file").read_text() == "mine"
