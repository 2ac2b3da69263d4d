"""Options that several commands share, and the frame of every command: an expected error is one line, exit status 2."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from .._util import one_line, user_cache_folder
from ..errors import ArgumentError, ModelZooError
from ..plugins import use_plugin
from ..zoo import STORAGES
from .display import hide_information, log_lines

# Base class of the errors about the words of a command line; typer has no public name for it in all of its releases.
_USAGE_ERRORS: tuple[Any, ...] = typer.BadParameter.__mro__[1:2]
INTERRUPTED = 130  # exit status of a command that was stopped with Ctrl-C


def _print_version(is_set: bool) -> None:
    if is_set:
        print(f"{Path(sys.argv[0]).name} {__version__}")
        raise typer.Exit


def _use_plugin(path: Path | None) -> None:
    if path is not None:
        use_plugin(path)


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", callback=hide_information, help="Show warnings only: no progress bars, no log.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Engine = Annotated[
    str, typer.Option("--engine", help="auto, native (a compiled CPU kernel), cuda, or torch (the reference).")
]
Threads = Annotated[int | None, typer.Option("--threads", help="Number of CPU cores; all by default.")]
ImagesRoot = Annotated[
    Path, typer.Option("--images-root", help="Folder of the image datasets; missing ones are downloaded into it.")
]
Plugin = Annotated[
    Path | None,
    typer.Option(
        "--plugin",
        callback=_use_plugin,
        is_eager=True,
        help="Python file that registers your own architectures or images.",
    ),
]
Parent = Annotated[
    Path | None,
    typer.Option(
        "--parent",
        help="For sparsified twins: the zoo folder of their parents; by default the one beside the twins' folder.",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="states: one file per state; packed: one file per 100 models, for zoos of many states.",
        show_default="states",
    ),
]
Layout = Annotated[str | None, typer.Option("--layout", hidden=True)]  # the former name of --storage
DEFAULT_IMAGES_ROOT = user_cache_folder("images")


def resolve_storage(storage: str | None, layout: str | None) -> str:
    """Return how states are stored, from --storage or from its former name --layout.

    Raises:
        ArgumentError: The two options contradict each other, or the value is unknown.
    """
    if None not in (storage, layout) and storage != layout:
        raise ArgumentError(
            f"--storage {storage} and --layout {layout} contradict each other: --layout is the former name of "
            "--storage; pass only --storage"
        )
    value = storage or layout or STORAGES[0]
    if value not in STORAGES:
        raise ArgumentError(f"--storage must be {' or '.join(STORAGES)}, got {value!r}")
    return value


def new_app(help_text: str) -> typer.Typer:
    """Return a command without options for shell completion, whose help and tracebacks are plain text."""
    return typer.Typer(help=help_text, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def run(app: typer.Typer) -> None:
    """Run a command and exit. An expected error is printed as one line on stderr, and the exit status is 2."""
    # Libraries must not draw between our progress bars.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it warns of every retry of a request
    name = Path(sys.argv[0]).name
    try:
        with log_lines(name):
            status = app(prog_name=name, standalone_mode=False)
    except (ModelZooError, OSError, *_USAGE_ERRORS) as error:
        print(f"{name}: {one_line(_describe_error(error, name))}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:  # typer turns Ctrl-C within a command into this status
        print(f"{name}: stopped; run the same command again to resume", file=sys.stderr)
    raise SystemExit(status if isinstance(status, int) else 0)


def _describe_error(error: Any, name: str) -> Any:
    if not isinstance(error, _USAGE_ERRORS):
        return error
    command = error.ctx.command_path if error.ctx is not None else name
    return f"{error.format_message().rstrip('.')}; see {command} --help"


def entry_point(app: typer.Typer) -> Callable[[], Any]:
    """Return the function that a console script calls."""
    return lambda: run(app)
