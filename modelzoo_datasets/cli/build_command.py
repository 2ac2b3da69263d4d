"""modelzoo-build: zoo folders -> dataset folder."""

from pathlib import Path
from typing import Annotated

import typer

from .app import Out, Plugin, Quiet, Version, entry_point, new_app
from .display import show_progress

app = new_app("Build a dataset folder.")


@app.command(epilog="Example: modelzoo-build zoo/seed zoo/hyp --out dataset")
def command(
    zoos: Annotated[list[Path], typer.Argument(metavar="ZOO_DIR...", help="One per config.")],
    out: Out,
    repo_id: Annotated[
        str | None,
        typer.Option(help="ORG/NAME for the examples in the card.", show_default=False),
    ] = None,
    builder: Annotated[
        str | None,
        typer.Option(help="TOML with title, license and text of the card; as in builders/.", show_default=False),
    ] = None,
    keep_diverged: Annotated[
        bool, typer.Option("--keep-diverged", help="Publish models with weights that are not finite too.")
    ] = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Write zoo folders as one dataset folder: Parquet files per config, a card, the layout of the weights."""
    from ..builder import build_dataset

    with show_progress(quiet) as progress:
        written = build_dataset(
            zoos,
            out,
            repo_id=repo_id,
            builder=builder,
            keep_diverged=keep_diverged,
            progress=progress,
        )
    print(f"{out}: {'built' if written else 'is already the dataset of these zoos'}")


main = entry_point(app)
