"""What all commands share: --version and other options, errors as one line with exit status 2."""

import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from .._util import one_line, user_cache_folder
from ..errors import ModelZooError
from .display import hide_information, log_lines

INTERRUPTED = 130  # exit status of a command that was stopped with Ctrl-C


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"{Path(sys.argv[0]).name} {version('modelzoo-datasets')}")
        raise typer.Exit


def _hide_information(quiet: bool) -> bool:
    if quiet:
        hide_information()
    return quiet


def _use_plugin(path: Path | None) -> None:
    if path is not None:
        from ..plugins import use_plugin

        use_plugin(path)


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", callback=_hide_information, help="Show no progress bars and no lines but warnings.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Engine = Annotated[str, typer.Option("--engine", help="auto, native (a compiled kernel), cuda or torch.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Cores to use; all by default.", show_default=False)]
ImagesRoot = Annotated[Path, typer.Option("--images-root", help="Where image datasets lie, or are downloaded to.")]
Plugin = Annotated[
    Path | None,
    typer.Option(
        "--plugin",
        callback=_use_plugin,
        is_eager=True,
        help="Python file that registers architectures or images of your own.",
        show_default=False,
    ),
]
DEFAULT_IMAGES_ROOT = user_cache_folder("images")


def new_app(help_text: str) -> typer.Typer:
    """A command without shell-completion options, its help and its tracebacks as Python writes them."""
    return typer.Typer(help=help_text, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def run(app: typer.Typer) -> None:
    """Run a command: expected failures end as one line on stderr and exit status 2, never as a traceback."""
    # Library chatter about downloads and caches has no place between our bars.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it warns of every try of a request
    name = Path(sys.argv[0]).name
    try:
        with log_lines(name):
            status = app(prog_name=name, standalone_mode=False)
    except (ModelZooError, OSError, typer.TyperException) as error:
        text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        print(f"{name}: {one_line(text) if text else type(error).__name__}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:  # typer turns Ctrl-C within a command into this status
        print(f"{name}: stopped; run the same command again to go on", file=sys.stderr)
    raise SystemExit(status if isinstance(status, int) else 0)


def entry_point(app: typer.Typer) -> Callable[[], Any]:
    """The function that a console script calls."""
    return lambda: run(app)
