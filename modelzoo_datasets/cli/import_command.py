"""modelzoo-import: published originals -> zoo folder."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..importers import check_source
from ..zoo import check_zoo_folder
from .app import (
    DEFAULT_IMAGES_ROOT,
    ImagesRoot,
    Layout,
    Out,
    Parent,
    Plugin,
    Quiet,
    Storage,
    Version,
    entry_point,
    new_app,
    resolve_storage,
)
from .display import show_progress

if TYPE_CHECKING:
    from ..importers import Imported

_log = logging.getLogger(__name__)
_FORMATS = (
    "model-zoos (2209.14764), small-cnn-zoo (2002.11448), weightclip (2607.03551) or safetensors (any architecture)."
)
app = new_app("Import a published zoo.")


@app.command(epilog="Example: modelzoo-import tune_zoo_mnist_uniform.zip --format model-zoos --out zoos/seed")
def command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder, zip or tar archive of the originals.")],
    out: Out,
    format: Annotated[str, typer.Option("--format", help=_FORMATS)],
    name: Annotated[
        str | None, typer.Option(help="RECIPE/CONFIG to name the zoo; derived from SOURCE by default.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Images that the models saw; derived from SOURCE by default.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Architecture; derived from the shapes of the weights by default.")
    ] = None,
    inside: Annotated[str | None, typer.Option(help="Folder within SOURCE, if SOURCE holds several zoos.")] = None,
    splits: Annotated[
        Path | None, typer.Option(help="For small-cnn-zoo: CSV file of the splits of 2302.14040.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure losses and accuracies that the originals did not record.")
    ] = False,
    parent: Parent = None,
    storage: Storage = None,
    layout: Layout = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Convert a published zoo into a zoo folder, with bit-identical weights and the recorded metrics.

    No pickle is executed. Unreadable files are skipped and counted. You can stop the command at any time; running it
    again resumes it.
    """
    storage = resolve_storage(storage, layout)
    check_source(source, format)
    check_zoo_folder(out)
    from ..importers import Overrides, import_zoo

    with show_progress(quiet) as progress:
        imported = import_zoo(
            source,
            out,
            format=format,
            images_root=images_root,
            overrides=Overrides(name=name, images=images, architecture=architecture, inside=inside, splits=splits),
            parent=parent,
            storage=storage,
            measure=measure,
            progress=progress,
        )
    _warn(imported)
    note = "" if imported.added else "; it is finished already"
    counts = f"{imported.models:,} models, {imported.states:,} states; {imported.added:,} added"
    print(f"{out}: {imported.name}, {counts}{note}")


def _warn(imported: "Imported") -> None:
    for line in imported.skipped:
        _log.warning("%s", line)
    if imported.lost_states:
        _log.warning("%s states are missing for some epochs", f"{imported.lost_states:,}")
    if imported.diverged:
        _log.warning("%s models have weights that are not finite", f"{imported.diverged:,}")


main = entry_point(app)
