"""The commands: parse, read a recipe, call one function, print one result."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
