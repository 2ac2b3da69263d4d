"""modelzoo-verify: is a zoo folder or a dataset folder what it says?"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .._util import one_line
from .app import DEFAULT_IMAGES_ROOT, ImagesRoot, Plugin, Quiet, Threads, Version, entry_point, new_app
from .display import show_progress

_SHOWN = 3  # problems, and notes, of each check
_FAILED = 1  # exit status
app = new_app("Verify a zoo folder or a dataset folder.")


@app.command(epilog="Example: modelzoo-verify zoo/seed --retrain 1")
def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What modelzoo-generate or modelzoo-build wrote.")],
    states: Annotated[int, typer.Option(min=0, help="States of each zoo whose metrics are measured again.")] = 10,
    retrain: Annotated[int, typer.Option(min=0, help="Models of each zoo that are trained again.")] = 0,
    seed: Annotated[int, typer.Option(help="Draws which states and models.")] = 0,
    engine: Annotated[str, typer.Option("--engine", help="native, cuda or torch; the zoo's own by default.")] = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    parent: Annotated[
        Path | None,
        typer.Option(help="Of sparsified twins: their parents' zoo folder; beside DIR.", show_default=False),
    ] = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Read every state of a folder and hold it against its hash, its tables against its recipe, and measure again.

    Exit status 0: all is as it says. 1: something is not, said on stderr. 2: there is no folder that can be verified.
    """
    import pandas as pd

    from ..engines import get_engine
    from ..verification import verify_folder
    from .table import print_table

    with show_progress(quiet) as progress:
        checks = verify_folder(
            folder,
            engine=None if engine == "auto" else get_engine(engine, threads),
            num_threads=threads,
            images_root=images_root,
            states=states,
            retrain=retrain,
            seed=seed,
            parent=parent,
            progress=progress,
        )
    print_table(pd.DataFrame([{"check": c.name, "n": f"{c.n:,}", "result": _result(c.n, c.problems)} for c in checks]))
    for check in checks:
        for note in check.notes[:_SHOWN]:
            print(f"{check.name}: {note}")
        if len(check.notes) > _SHOWN:
            print(f"{check.name}: and {len(check.notes) - _SHOWN:,} more")
        for problem in check.problems[:_SHOWN]:
            print(f"modelzoo-verify: {check.name}: {one_line(problem)}", file=sys.stderr)
        if len(check.problems) > _SHOWN:
            print(f"modelzoo-verify: {check.name}: and {len(check.problems) - _SHOWN:,} more", file=sys.stderr)
    if any(check.problems for check in checks):
        raise typer.Exit(_FAILED)


def _result(n: int, problems: list[str]) -> str:
    if problems:
        return f"FAILED ({len(problems):,})"
    return "passed" if n else "nothing to check"


main = entry_point(app)
