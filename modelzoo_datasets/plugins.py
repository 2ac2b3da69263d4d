"""A user's own architectures and image datasets: a Python file that registers them, named by --plugin.

The name travels in an environment variable, so that worker processes, and those of a cluster, import the file too.
Nothing is ever imported because a recipe, a zoo folder or a dataset says so.
"""

import importlib.util
import os
import sys
from pathlib import Path

from .errors import PluginError

VARIABLE = "MODELZOO_PLUGINS"  # paths, separated as in PATH
_loaded: set[str] = set()


def use_plugin(path: Path) -> None:
    """Import a plugin file here and in every process started from here."""
    named = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    if (word := str(path.absolute())) not in named:
        os.environ[VARIABLE] = os.pathsep.join([*named, word])
    load_plugins()


def load_plugins() -> None:
    """Import what the environment names, each file once.

    Raises:
        PluginError: there is no such file, or its import fails.
    """
    for word in os.environ.get(VARIABLE, "").split(os.pathsep):
        if word and word not in _loaded:
            _loaded.add(word)  # first: the file itself asks the registries for names
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
        raise PluginError(f"plugin {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that what it defines can be sent to other processes
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"plugin {path}: {type(error).__name__}: {error}") from error
