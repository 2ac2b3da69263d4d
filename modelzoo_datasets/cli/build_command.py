"""modelzoo-build: zoo folders -> dataset folder."""

from pathlib import Path
from typing import Annotated

import typer

from ..recipes import find_recipe
from ..zoo import require_zoo_file
from .app import Out, Plugin, Quiet, Version, entry_point, new_app
from .display import show_progress

app = new_app("Build a dataset folder.")


@app.command(epilog="Example: modelzoo-build zoo/seed zoo/hyp --out dataset")
def command(
    zoos: Annotated[list[Path], typer.Argument(metavar="ZOO_DIR...", help="Zoo folders, one per config.")],
    out: Out,
    repo_id: Annotated[
        str | None, typer.Option(help="ORG/NAME that the examples in the card load; by default the folder.")
    ] = None,
    builder: Annotated[
        str | None, typer.Option(help="TOML file with title, license and text of the card, as in builders/.")
    ] = None,
    keep_diverged: Annotated[
        bool, typer.Option("--keep-diverged", help="Include models that have weights which are not finite.")
    ] = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Combine zoo folders into one dataset folder: Parquet files per config, a card, and the layout of the weights."""
    for zoo in zoos:
        require_zoo_file(zoo)
    if builder is not None:
        find_recipe("builders", builder)
    from ..builder import build_dataset

    with show_progress(quiet) as progress:
        is_new = build_dataset(
            zoos, out, repo_id=repo_id, builder=builder, keep_diverged=keep_diverged, progress=progress
        )
    print(f"{out}: {'built' if is_new else 'is already the dataset of these zoos'}")


main = entry_point(app)
