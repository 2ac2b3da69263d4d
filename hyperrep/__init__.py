"""Hyper-representations: auto-encoders of neural network weights, their probes, samplers and evaluation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autoencoder import HyperRepresentation as HyperRepresentation
    from .recipe import read_hyper_recipe as read_hyper_recipe
    from .run import evaluate as evaluate
    from .run import train as train
    from .sampled import SampledModel as SampledModel
    from .storage import load_representation as load_representation

# Loaded at first use, as in modelzoo_datasets.
_HOMES = {
    "HyperRepresentation": "autoencoder",
    "SampledModel": "sampled",
    "evaluate": "run",
    "load_representation": "storage",
    "read_hyper_recipe": "recipe",
    "train": "run",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
