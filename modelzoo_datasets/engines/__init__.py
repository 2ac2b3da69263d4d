"""Engines train and evaluate populations of models. They differ in speed, never in what a model depends on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
