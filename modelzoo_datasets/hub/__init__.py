"""The only package that talks to the Hub: push a folder to a repo, resolve a repo to local files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
