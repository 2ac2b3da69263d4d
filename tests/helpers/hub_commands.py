"""Our commands and functions against a Hub on loopback, each in a process of its own with its own caches.

The processes are forked from one that has imported torch and matplotlib, but neither `huggingface_hub` nor what uses
it: each reads its environment and its files anew, as a command does, and starts in a fraction of a second.
"""

import contextlib
import io
import multiprocessing
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["typer", "hyperrep.report.tables", "modelzoo_datasets.analysis.similarity"])


@dataclass(frozen=True)
class Result:
    """How a process ended."""

    returncode: int | None
    stdout: str
    stderr: str


@dataclass
class Client:
    """A machine that uses the Hub: its caches, its token, its environment."""

    home: Path
    endpoint: str
    token: str | None = None

    def environment(self) -> dict[str, str]:
        """What a process of this machine sees."""
        quiet = {name: "1" for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK")}
        token = {"HF_TOKEN": self.token} if self.token else {}
        return {"HF_HOME": str(self.home), "HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", **quiet, **token}

    def start(self, work: Callable[..., Any], *args: Any, **environment: str) -> "Running":
        """Begin some work in a process of its own."""
        self.home.mkdir(parents=True, exist_ok=True)
        out = self.home / f"out-{len(list(self.home.glob('out-*')))}"
        process = _FORKED.Process(target=_work, args=(work, args, self.environment() | environment, str(out)))
        process.start()
        return Running(process, out)

    def run(self, work: Callable[..., Any], *args: Any, **environment: str) -> Result:
        """Do some work in a process of its own."""
        return self.start(work, *args, **environment).result()

    def push(self, *words: str | Path, **environment: str) -> Result:
        """modelzoo-push with these words."""
        return self.run(pushes, *map(str, words), **environment)


@dataclass
class Running:
    """Work in progress."""

    process: Any
    out: Path

    def result(self) -> Result:
        """Wait for its end."""
        self.process.join(120)
        assert self.process.exitcode is not None, "still running after two minutes"
        read = [Path(f"{self.out}{end}").read_text() if Path(f"{self.out}{end}").exists() else "" for end in ("", "-e")]
        return Result(self.process.exitcode, *read)


def _work(work: Callable[..., Any], args: tuple[Any, ...], environment: Mapping[str, str], out: str) -> None:
    assert "huggingface_hub" not in sys.modules, "it would have read another environment"
    for name in [name for name in os.environ if name.startswith("HF_")]:
        del os.environ[name]
    os.environ.update(environment)
    with Path(out).open("w") as told, Path(f"{out}-e").open("w") as errors:
        os.dup2(told.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(errors):
            work(*args)


def pushes(*words: str) -> None:
    """The command modelzoo-push."""
    sys.argv = ["modelzoo-push", *words]
    from hyperrep.cli.push_command import main

    main()


def executes(folder: str, program: str) -> None:
    """A program in a folder."""
    os.chdir(folder)
    exec(program, {"__name__": "__main__"})


def commands(folder: str, lines: Sequence[str]) -> None:
    """Our commands in a folder, one after the other, up to the first that fails."""
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
    """The command modelzoo-push where the Hub takes no more than five files in a commit."""
    from modelzoo_datasets.hub import push

    push._FILES_PER_COMMIT = 5
    pushes(*words)


def loads(source: str, *requests: Mapping[str, Any], most_bytes: int | None = None) -> None:
    """`load_zoo` once per request: prints the states of each split and a hash of all weights, or the error.

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
    """`load_zoo` where no file can have more than 100 kB."""
    loads(source, options, most_bytes=100_000)


def loads_in(folder: str, source: str) -> None:
    """`load_zoo` where a folder is the current one."""
    os.chdir(folder)
    loads(source, {})


def prints(code: str) -> None:
    """Any code."""
    exec(compile(code, "code", "exec"), {})


def shown(source: Path, **options: Any) -> str:
    """What `loads` prints of a folder."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        loads(str(source), options)
    return text.getvalue()
