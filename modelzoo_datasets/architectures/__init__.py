"""The architectures of the zoos: build, initialize and permute networks by name."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
