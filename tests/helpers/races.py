"""Commands that start at the same time, as real processes."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

from helpers.processes import find_command, fork

_FORKED = multiprocessing.get_context("forkserver")


def race(
    commands: Sequence[Sequence[str | Path]],
    delays: Sequence[float],
    folder: Path,
    *,
    with_lock: bool = True,
    patience: float = 300,
) -> list[subprocess.CompletedProcess[str]]:
    """Run commands that meet at a barrier, and then start after these seconds; their output goes through `folder`.

    Without the lock of outputs, each believes that it is alone.
    """
    folder.mkdir()
    barrier = _FORKED.Barrier(len(commands))
    outs = [folder / str(i) for i in range(len(commands))]
    racers = [
        fork(_start_together, ([str(word) for word in words], barrier, delay, with_lock), os.environ, out)
        for words, delay, out in zip(commands, delays, outs, strict=True)
    ]
    results = []
    for racer, words, out in zip(racers, commands, outs, strict=True):
        racer.join(patience)
        if racer.exitcode is None:
            racer.kill()
        told = Path(f"{out}-e").read_text()
        results.append(subprocess.CompletedProcess(list(words), racer.exitcode or 0, out.read_text(), told))
    return results


def _start_together(words: list[str], barrier: Barrier, delay: float, with_lock: bool) -> None:
    sys.argv = words
    main = find_command(words[0])
    if not with_lock:
        from modelzoo_datasets.zoo.lock import OutputLock

        OutputLock._acquire = lambda self: os.open(os.devnull, os.O_RDONLY)  # type: ignore[method-assign]
    barrier.wait()
    time.sleep(delay)
    main()
