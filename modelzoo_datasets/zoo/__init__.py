"""A zoo folder on disk: its typed description, its tables, its weights, and safe ways to write and read them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
