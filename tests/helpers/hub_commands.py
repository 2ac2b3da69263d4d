"""Run commands and functions against a Hub on loopback, each in a separate process with separate caches."""

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from .processes import fork


@dataclass(frozen=True)
class Result:
    """The exit status and output of a process."""

    returncode: int | None
    stdout: str
    stderr: str


@dataclass
class Client:
    """A machine that uses the Hub, with its own caches, token and environment."""

    home: Path
    endpoint: str
    token: str | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a process on this machine."""
        quiet = {name: "1" for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK")}
        token = {"HF_TOKEN": self.token} if self.token else {}
        return {"HF_HOME": str(self.home), "HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", **quiet, **token}

    def start(self, work: Callable[..., Any], *args: Any, **environment: str) -> "Running":
        """Start a function in a separate process."""
        self.home.mkdir(parents=True, exist_ok=True)
        out = self.home / f"out-{len(list(self.home.glob('out-*')))}"
        others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return Running(fork(work, args, others | self.environment() | environment, out), out)

    def run(self, work: Callable[..., Any], *args: Any, **environment: str) -> Result:
        """Run a function in a separate process."""
        return self.start(work, *args, **environment).result()

    def push(self, *words: str | Path, **environment: str) -> Result:
        """Run modelzoo-push with these arguments."""
        return self.run(pushes, *map(str, words), **environment)


@dataclass
class Running:
    """A running process."""

    process: Any
    out: Path

    def result(self) -> Result:
        """Wait for the end of the process."""
        self.process.join(120)
        assert self.process.exitcode is not None, "still running after two minutes"
        read = [Path(f"{self.out}{end}").read_text() if Path(f"{self.out}{end}").exists() else "" for end in ("", "-e")]
        return Result(self.process.exitcode, *read)


def pushes(*words: str) -> None:
    """Run the command modelzoo-push."""
    sys.argv = ["modelzoo-push", *words]
    from hyperrep.cli.push_command import main

    main()


def commands(folder: str, lines: Sequence[str]) -> None:
    """Run commands in a folder one after the other, until one fails."""
    os.chdir(folder)
    for line in lines:
        sys.argv = shlex.split(line)
        name = sys.argv[0]
        try:
            entry_points(group="console_scripts")[name].load()()
        except SystemExit as end:
            if end.code:
                raise


def pushes_in_commits_of_five(*words: str) -> None:
    """Run modelzoo-push with at most five files per commit."""
    from modelzoo_datasets.hub import push

    push._FILES_PER_COMMIT = 5
    pushes(*words)


def loads(source: str, *requests: Mapping[str, Any], most_bytes: int | None = None) -> None:
    """Call `load_zoo` once per request, and print the states per split and a hash of all weights, or the error.

    Args:
        most_bytes: that a file may have, as if the disk were full then.
    """
    import hashlib
    import resource

    from modelzoo_datasets import ModelZooError, load_zoo

    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    for options in requests:
        try:
            zoo = load_zoo(source, **options)
        except ModelZooError as error:
            print(f"{type(error).__name__}: {error}")
        else:
            counts = zoo.table["split"].value_counts().sort_index().to_dict()
            print(counts, hashlib.sha256(zoo.weights.numpy().tobytes()).hexdigest())


def loads_onto_a_full_disk(source: str, options: Mapping[str, Any]) -> None:
    """Call `load_zoo` on a machine where no file can be larger than 100 kB."""
    loads(source, options, most_bytes=100_000)


def loads_in(folder: str, source: str) -> None:
    """Call `load_zoo` in a folder."""
    os.chdir(folder)
    loads(source, {})


def prints(code: str) -> None:
    """Run any code."""
    exec(compile(code, "code", "exec"), {})


def shown(source: Path, **options: Any) -> str:
    """Return what `loads` prints for a local folder."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        loads(str(source), options)
    return text.getvalue()
