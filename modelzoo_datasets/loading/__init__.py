"""Loading: a published zoo as one tensor, one table and plain modules; from a folder or from the Hub."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
