"""The Hub: push a folder to a repo, download files of a repo. No other room talks to the Hub."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
