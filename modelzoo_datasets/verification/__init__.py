"""Verification: check that a zoo folder or a dataset folder is what it claims to be."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
