"""Run commands and calls with a limit of memory, as an attacker's file meets them: status, one line, peak of memory."""

import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.processes import call_command, execute, fork

from modelzoo_datasets.zoo import memory_limit

_SLACK = 1_500_000_000  # addresses, not memory: stacks of threads, arenas of the allocator, libraries loaded late


@dataclass(frozen=True)
class Limited:
    """The end of a process."""

    status: int | None
    lines: list[str]  # on stderr
    peak: int  # bytes of memory beyond those at its start
    seconds: float


def run_limited(words: Sequence[str | Path], source: Path, timeout: float = 60) -> Limited:
    """Run a command that reads `source`, with no more memory than the limit for its size."""
    return _run(call_command, [str(word) for word in words], source, timeout)


def run_code_limited(code: str, source: Path, timeout: float = 60) -> Limited:
    """Run Python code that reads `source`."""
    return _run(execute, code, source, timeout)


def size_of(source: Path) -> int:
    """Bytes of a file, or of all files of a folder, as they are on the disk: holes count nothing."""
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    return sum(min(path.stat().st_size, 512 * path.stat().st_blocks) for path in files)


def _run(work: Callable[[str, Any], None], task: Any, source: Path, timeout: float) -> Limited:
    with tempfile.TemporaryDirectory() as folder:
        out, report = Path(folder) / "out", Path(folder) / "peak"
        start = time.monotonic()
        process = fork(
            _work_limited, (work, str(source.parent), task, memory_limit(size_of(source)), str(report)), {}, out
        )
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(str(task), timeout)
        lines = Path(f"{out}-e").read_text().splitlines()
        return Limited(process.exitcode, lines, int(report.read_text()), time.monotonic() - start)


def _work_limited(work: Callable[[str, Any], None], folder: str, task: Any, limit: int, report: str) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _read_status("VmRSS")
    most = _read_status("VmSize") + limit + _SLACK
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        work(folder, task)
    finally:
        Path(report).write_text(str(_read_status("VmHWM") - before))


def _read_status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])
