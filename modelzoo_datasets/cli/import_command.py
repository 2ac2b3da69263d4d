"""modelzoo-import: published originals -> zoo folder."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .app import DEFAULT_IMAGES_ROOT, ImagesRoot, Out, Plugin, Quiet, Version, entry_point, new_app
from .display import show_progress

_FORMATS = "model-zoos (2209.14764), small-cnn-zoo (2002.11448), weightclip (2607.03551) or safetensors (of any kind)."
app = new_app("Import a published zoo.")


@app.command(epilog="Example: modelzoo-import tune_zoo_mnist_uniform.zip --format model-zoos --out zoos/seed")
def command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder, zip or tar of the originals.")],
    out: Out,
    format: Annotated[str, typer.Option("--format", help=_FORMATS)],
    name: Annotated[
        str | None, typer.Option(help="RECIPE/CONFIG of the zoo; by the names in SOURCE.", show_default=False)
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Images it was trained on; by the names in SOURCE.", show_default=False)
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Its architecture; by the shapes of its states.", show_default=False)
    ] = None,
    inside: Annotated[
        str | None, typer.Option(help="Folder within SOURCE, where that holds several zoos.", show_default=False)
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Of small-cnn-zoo: the CSV with its splits of 2302.14040.", show_default=False)
    ] = None,
    parent: Annotated[
        Path | None,
        typer.Option(help="Of sparsified twins: their parents' imported zoo folder; beside --out.", show_default=False),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="states: a file per state; packed: a file per 100 models, for many states.")
    ] = "states",
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Write the models of a published zoo as a zoo folder: their weights bit for bit, their metrics as recorded.

    Nothing is unpacked and no pickle is executed; what cannot be read is skipped and counted. Run it again to go on.
    """
    from ..importers import Overrides, import_zoo

    with show_progress(quiet) as progress:
        imported = import_zoo(
            source,
            out,
            format=format,
            images_root=images_root,
            overrides=Overrides(name=name, images=images, architecture=architecture, inside=inside, splits=splits),
            parent=parent,
            storage=layout,
            progress=progress,
        )
    for line in imported.skipped:
        print(f"modelzoo-import: {line}", file=sys.stderr)
    if imported.lacking:
        print(f"modelzoo-import: {imported.lacking:,} states are missing for some epochs", file=sys.stderr)
    if imported.diverged:
        print(f"modelzoo-import: {imported.diverged:,} models have weights that are not finite", file=sys.stderr)
    print(f"{out}: {imported.name}, {imported.models:,} models, {imported.states:,} states; {imported.added:,} added")


main = entry_point(app)
