"""A program: write a zoo of random states over and over, killed with SIGKILL at its 1st, 2nd, ... step on the disk.

    killed_writers.py FOLDER        prints as JSON, per layout and step, which models were finished, which the next run
                                    wrote, and whether it ended with the bytes of a zoo that was written undisturbed

A step is a file begun, flushed, renamed or removed, or a folder removed. The zoo is written in two parts, the second
model of the grid first.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from helpers.processes import hashes
from helpers.random_zoos import recipe, write_zoo

from modelzoo_datasets.zoo import atomic_io

RECIPE = recipe(models=2, epochs=1)


def kill_at(step: int) -> None:
    """Let this process be killed just before that step."""
    steps = iter(range(1, step))

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return call

    os.fsync = counted(os.fsync)
    atomic_io.own_partial_path = counted(atomic_io.own_partial_path)
    for name in ("replace", "unlink", "rmdir"):
        setattr(Path, name, counted(getattr(Path, name)))


def in_child(work: Callable[[], Any]) -> int:
    """Run in a process of its own; returns its exit status, negative for the signal that killed it."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def try_step(step: int, storage: str, folder: Path, whole: dict[str, str]) -> dict[str, Any] | None:
    """One kill and one further run; None where the work ends before that step."""
    shutil.rmtree(folder, ignore_errors=True)

    def killed() -> None:
        kill_at(step)
        write_zoo(folder, RECIPE, storage, [2])
        write_zoo(folder, RECIPE, storage)

    status = in_child(killed)
    if status == 0:
        return None
    assert status == -signal.SIGKILL, status
    finished = {path.stem for path in folder.glob("progress/*.json")}
    if (folder / "states.parquet").is_file():
        finished |= set(pq.read_table(folder / "states.parquet")["model_id"].to_pylist())
    written = write_zoo(folder, RECIPE, storage)
    return {"finished": sorted(finished), "written": written, "same": hashes(folder) == whole}


def steps(storage: str, folder: Path) -> list[dict[str, Any]]:
    """What became of a kill at every step."""
    write_zoo(folder / "whole", RECIPE, storage)
    whole, found = hashes(folder / "whole"), []
    while (tried := try_step(len(found) + 1, storage, folder / "killed", whole)) is not None:
        found.append(tried)
    return found


if __name__ == "__main__":
    out = Path(sys.argv[1])
    print(json.dumps({storage: steps(storage, out / storage) for storage in ("states", "packed")}))
