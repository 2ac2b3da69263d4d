"""Plugins: Python files, passed with --plugin, that register architectures and image datasets of the user.

The paths are passed on in an environment variable, so that worker processes, also on a cluster, import the files too.
No recipe, zoo folder or dataset can cause an import.
"""

import importlib.util
import os
import sys
from pathlib import Path

from .errors import PluginError

VARIABLE = "MODELZOO_PLUGINS"  # paths, separated as in PATH
_loaded: set[str] = set()


def use_plugin(path: Path) -> None:
    """Import a plugin file in this process and in every process that it starts.

    Raises:
        PluginError: The file does not exist, or its import fails.
    """
    paths = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    if (word := str(path.absolute())) not in paths:
        os.environ[VARIABLE] = os.pathsep.join([*paths, word])
    load_plugins()


def load_plugins() -> None:
    """Import all plugin files that the environment variable names, each once.

    Raises:
        PluginError: A file does not exist, or its import fails.
    """
    for word in os.environ.get(VARIABLE, "").split(os.pathsep):
        if word and word not in _loaded:
            _loaded.add(word)  # before the import, because the file itself uses the registries
            try:
                _import(Path(word))
            except BaseException:
                _loaded.discard(word)
                raise


def _import(path: Path) -> None:
    if not path.is_file():
        raise PluginError(f"there is no plugin file {path}")
    name = f"modelzoo_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its objects can be sent to other processes
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"plugin {path}: {type(error).__name__}: {error}") from error
