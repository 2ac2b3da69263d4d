"""Errors that a user can cause or meet. Every message says what was expected, what came, and what to do.

`ModelZooError` is the base of them all. The subclasses are also Python's own `ValueError` or `OSError` where these say
the same, so that plain Python code can catch them without importing this module.
"""

import difflib
from collections.abc import Iterable

_MAX_NAMES = 40


class ModelZooError(Exception):
    """An expected failure. Commands print its message as one line and exit with status 2.

    Example:
        >>> from modelzoo_datasets import ModelZooError, read_recipe
        >>> try:
        ...     read_recipe("mnist-cnn-x")
        ... except ModelZooError as error:
        ...     print(error)
        unknown recipe 'mnist-cnn-x'; did you mean 'mnist-cnn-s'?
    """


class ArgumentError(ModelZooError, ValueError):
    """An argument of a function or an option of a command is out of range, or does not fit the others."""


class RecipeError(ModelZooError, ValueError):
    """A recipe is unknown or unreadable, or names something that cannot be trained."""


class FormatError(ModelZooError, ValueError):
    """A file or folder is not in a format that this release reads: missing, truncated, altered or another version."""


class FolderInUseError(ModelZooError):
    """The output folder already contains other files, which are never overwritten."""


class DiskFullError(ModelZooError):
    """A disk is full. After making room, run the same command again to resume."""


class MissingImagesError(ModelZooError):
    """An image dataset is missing or damaged on disk and cannot be downloaded."""


class HubError(ModelZooError, OSError):
    """A request to the Hub failed. The message says why and what to do."""


class HubAccessError(HubError):
    """The token is missing or invalid, or does not permit the request."""


class HubUnavailableError(HubError):
    """The Hub cannot be reached or refuses requests for now. Run the same command again later to resume."""


class DeviceError(ModelZooError):
    """This machine does not have the requested device or engine."""


class MissingExtraError(ModelZooError, ImportError):
    """A package of an optional extra is not installed. The message names the extra."""


class PluginError(ModelZooError):
    """A plugin file is missing or cannot be imported."""


class LostWorkerError(ModelZooError):
    """A worker process was killed or ended by itself. The same work may succeed when it is run again."""


class NotAChainError(ModelZooError):
    """A network has a layer, or an order of layers, that no compiled engine knows. The message says which."""


class CompilerError(ModelZooError):
    """There is no C++ compiler, or it failed. The message says which compiler and how it failed."""


class NoKernelError(ModelZooError):
    """The CUDA kernel cannot compute a network or a training. The message says why."""


class NoCompilerError(NoKernelError):
    """The CUDA kernel needs a compiler that is not installed on this machine."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return the message for an unknown name, with the most similar known name or a list of known names.

    Args:
        kind: The kind of thing that has the name, e.g. "architecture".
        name: The unknown name.
        choices: All known names.
    """
    return f"unknown {kind} {name!r}; {nearest_hint(name, choices)}"


def nearest_hint(name: str, choices: Iterable[str]) -> str:
    """Return "did you mean ...?" where a known name is similar, and a list of at most 40 known names otherwise."""
    names = list(choices)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return f"known: {', '.join(names[:_MAX_NAMES])}{more}"
