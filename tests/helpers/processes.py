"""Run the real commands as real processes.

Commands of the package run in processes forked from one that has imported torch, pandas and matplotlib, but neither
`huggingface_hub` nor what uses it: each reads its environment and its files anew, as a command does, and starts in a
fraction of a second. `tests/cli/test_startup.py` and those that kill commands start them from the shell's side.
"""

import contextlib
import hashlib
import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from helpers.paths import ROOT

BIN = Path(sys.executable).parent
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
_PRELOADED = [
    "typer",
    "pandas",
    "torch._dynamo",
    "modelzoo_datasets.plots.population_plots",
    "modelzoo_datasets.analysis.similarity",
    "modelzoo_datasets.engines.torch_engine",
]
_FORKED = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Start the process that others are forked from, unless it runs."""
    _FORKED.set_forkserver_preload(_PRELOADED)
    forkserver.ensure_running()


def fork(work: Callable[..., Any], args: Sequence[Any], environment: Mapping[str, str], out: Path) -> Any:
    """Start a function in a forked process with these environment variables; its output goes to `out` and `out-e`."""
    start_server()
    process = _FORKED.Process(target=_work, args=(work, tuple(args), dict(environment), str(out)))
    process.start()
    return process


def _work(work: Callable[..., Any], args: tuple[Any, ...], environment: Mapping[str, str], out: str) -> None:
    assert "huggingface_hub" not in sys.modules, "it would have read another environment"
    os.environ.clear()
    os.environ.update(environment)
    with Path(out).open("w") as stdout, Path(f"{out}-e").open("w") as stderr:
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            work(*args)


def call_command(folder: str, words: Sequence[str]) -> None:
    """Call the entry point of a command in a folder."""
    os.chdir(folder)
    sys.argv = list(words)
    find_command(words[0])()


def find_command(name: str) -> Callable[[], None]:
    """The function that the script of a command calls, as pyproject.toml names it."""
    module, _, function = SCRIPTS[name].partition(":")
    command: Callable[[], None] = getattr(importlib.import_module(module), function)
    return command


def execute(folder: str, code: str) -> None:
    """Execute Python code in a folder."""
    os.chdir(folder)
    exec(compile(code, "code", "exec"), {"__name__": "__main__"})


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run to the end; nothing is raised for a failure."""
    words = [str(word) for word in command]
    if words[0].startswith("modelzoo-"):
        return _run_forked(call_command, words, cwd, env, timeout)
    words[0] = str(BIN / words[0])
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout)


def run_code(code: str, *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python code to its end in a forked process; nothing is raised for a failure."""
    return _run_forked(execute, code, cwd, env, 300)


def _run_forked(
    work: Callable[[str, Any], None], task: Any, cwd: Path | None, env: Mapping[str, str] | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Call `work(folder, task)` in a forked process and return its status and output."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        process = fork(work, (str(cwd or Path.cwd()), task), os.environ if env is None else env, out)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(task, timeout)
        return subprocess.CompletedProcess(task, process.exitcode, out.read_text(), Path(f"{out}-e").read_text())


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
