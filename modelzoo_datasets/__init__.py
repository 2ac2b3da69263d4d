"""Model zoos as datasets: generate, publish and load populations of neural networks."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .building import build as build
    from .engines import get_engine as get_engine
    from .errors import ModelZooError as ModelZooError
    from .generating import generate as generate
    from .hub import push as push
    from .loading import Zoo as Zoo
    from .loading import load_zoo as load_zoo
    from .loading import stream_zoo as stream_zoo
    from .recipes import read_recipe as read_recipe

__version__ = version("modelzoo-datasets")

# The public names and where they live. Loaded at first use: torch takes seconds, and a --help should not.
_HOMES = {
    "ModelZooError": "errors",
    "Zoo": "loading",
    "build": "building",
    "generate": "generating",
    "get_engine": "engines",
    "load_zoo": "loading",
    "push": "hub",
    "read_recipe": "recipes",
    "stream_zoo": "loading",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
