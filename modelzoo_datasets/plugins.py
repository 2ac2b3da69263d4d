"""Plugins: Python files, passed with --plugin, that register architectures and image datasets of the user.

The paths are passed on in an environment variable, so that worker processes, also on a cluster, import the files too.
Installed packages register theirs by entry points. No recipe, zoo folder or dataset can cause an import.
"""

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

from ._util import one_line
from .errors import PluginError, unknown

VARIABLE = "MODELZOO_PLUGINS"  # paths, separated as in PATH
GROUP = "modelzoo_datasets.plugins"  # entry points of packages: a module, or a function without arguments
_log = logging.getLogger(__name__)
_loaded: set[str] = set()  # paths, and names of entry points


def use_plugin(path: Path) -> None:
    """Import a plugin file in this process and in every process that it starts.

    Raises:
        PluginError: The file does not exist, or its import fails.
    """
    before = os.environ.get(VARIABLE, "")
    paths = [part for part in before.split(os.pathsep) if part]
    if (word := str(path.absolute())) not in paths:
        os.environ[VARIABLE] = os.pathsep.join([*paths, word])
    try:
        load_plugins()
    except BaseException:
        os.environ[VARIABLE] = before  # so that a notebook can name another file
        raise


def load_function(text: str) -> Callable[..., Any]:
    """Return a function of a plugin, which is imported as `use_plugin` does.

    Args:
        text: FILE:FUNCTION.

    Raises:
        PluginError: There is no such file or function, or the import fails.
    """
    file, colon, name = text.rpartition(":")
    if not colon:
        raise PluginError(f"expected FILE:FUNCTION, such as score.py:score; got {text!r}")
    use_plugin(Path(file))
    function = getattr(sys.modules[_name_module(Path(file))], name, None)
    if not callable(function):
        raise PluginError(f"plugin {file} has no function {name!r}; define it at the top of the file")
    return cast(Callable[..., Any], function)


def load_plugins() -> None:
    """Import the plugins of installed packages, and all files that the environment variable names, each once.

    Raises:
        PluginError: A file does not exist, or its import fails.
    """
    if GROUP not in _loaded:
        _loaded.add(GROUP)
        for entry in entry_points(group=GROUP):
            _load_entry(entry)
    for word in os.environ.get(VARIABLE, "").split(os.pathsep):
        if word and word not in _loaded:
            _loaded.add(word)  # before the import, because the file itself uses the registries
            try:
                _import(Path(word))
            except BaseException:
                _loaded.discard(word)
                raise


def has_plugins() -> bool:
    """Return whether there are plugins that may register more names, without importing them."""
    return bool(os.environ.get(VARIABLE) or entry_points(group=GROUP))


def explain_unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return the message for a name that nobody registered; arguments as for `unknown`."""
    return f"{unknown(kind, name, choices)}; to use your own, pass --plugin FILE, a Python file that registers it"


def _load_entry(entry: EntryPoint) -> None:
    """Import the plugin of a package; a broken package must not stop those who do not need it."""
    try:
        plugin = entry.load()
        if callable(plugin):
            plugin()
    except Exception as error:
        package = entry.dist.name if entry.dist is not None else entry.value
        _log.warning(
            "plugin %s of package %s registers nothing: %s: %s; update or remove the package",
            *(entry.name, package, type(error).__name__, one_line(error)),
        )


def _name_module(path: Path) -> str:
    return f"modelzoo_plugin_{path.stem}"


def _import(path: Path) -> None:
    if not path.is_file():
        raise PluginError(
            f"there is no plugin file {path}; pass the Python file that registers your architectures or images"
        )
    name = _name_module(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its objects can be sent to other processes
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"plugin {path}: {type(error).__name__}: {error}") from error
