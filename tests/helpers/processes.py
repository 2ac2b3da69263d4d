"""Run the real commands as real processes."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BIN = Path(sys.executable).parent


def run(command: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    """Run to the end; nothing is raised for a failure."""
    words = [str(BIN / command[0]), *map(str, command[1:])]
    return subprocess.run(words, capture_output=True, text=True, **{"timeout": 300, **options})  # type: ignore[call-overload, no-any-return]


def kill_when(command: Sequence[str | Path], reached: Callable[[], bool], patience: float = 300) -> None:
    """Start a command and SIGKILL it as soon as `reached` says so; fails if it ends before."""
    words = [str(BIN / command[0]), *map(str, command[1:])]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + patience
        try:
            while not reached():
                assert process.poll() is None, f"ended with {process.returncode} before it was killed"
                assert time.monotonic() < until, f"not reached within {patience} s"
                time.sleep(0.002)
        finally:
            process.kill()


def hashes(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file, hidden ones included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
