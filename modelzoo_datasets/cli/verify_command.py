"""modelzoo-verify: check a zoo folder or a dataset folder."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._util import one_line
from ..zoo import require_zoo_file
from .app import DEFAULT_IMAGES_ROOT, ImagesRoot, Parent, Plugin, Quiet, Threads, Version, entry_point, new_app
from .display import print_table, show_progress

if TYPE_CHECKING:
    from ..verification import Check

_MAX_LINES = 3  # problems, and notes, that are printed of each check
_FAILED = 1  # exit status
app = new_app("Verify a zoo folder or a dataset folder.")


@app.command(epilog="Example: modelzoo-verify zoo/seed --retrain 1")
def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder from modelzoo-generate or modelzoo-build.")],
    states: Annotated[int, typer.Option(min=0, help="Number of states per zoo to measure again.")] = 10,
    retrain: Annotated[int, typer.Option(min=0, help="Number of models per zoo to train again.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the random choice of these states and models.")] = 0,
    engine: Annotated[
        str, typer.Option("--engine", help="native, cuda or torch; auto is the engine that made the zoo.")
    ] = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    parent: Parent = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Check the hash of every state and the tables of a folder, and measure and train some of its models again.

    Exit status 0: every check passed. 1: a check failed, with its problems on stderr. 2: nothing could be checked.
    """
    require_zoo_file(folder, or_dataset=True)
    from ..engines import get_engine

    selected = None if engine == "auto" else get_engine(engine, threads)
    from ..verification import verify_folder

    with show_progress(quiet) as progress:
        checks = verify_folder(
            folder,
            engine=selected,
            num_threads=threads,
            images_root=images_root,
            states=states,
            retrain=retrain,
            seed=seed,
            parent=parent,
            progress=progress,
        )
    _print_checks(checks)
    if any(check.problems for check in checks):
        raise typer.Exit(_FAILED)


def _print_checks(checks: Sequence["Check"]) -> None:
    import pandas as pd

    print_table(pd.DataFrame([{"check": c.name, "n": f"{c.n:,}", "result": _result(c.n, c.problems)} for c in checks]))
    for check in checks:
        for note in _shorten(check.notes):
            print(f"{check.name}: {note}")
        for problem in _shorten(check.problems):
            print(f"modelzoo-verify: {check.name}: {one_line(problem)}", file=sys.stderr)


def _shorten(lines: Sequence[str]) -> list[str]:
    """Return the first lines, and one that counts the others."""
    rest = len(lines) - _MAX_LINES
    return [*lines[:_MAX_LINES], *([f"and {rest:,} more"] if rest > 0 else [])]


def _result(n: int, problems: Sequence[str]) -> str:
    if problems:
        return f"FAILED ({len(problems):,})"
    return "passed" if n else "nothing to check"


main = entry_point(app)
