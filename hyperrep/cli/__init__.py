"""The commands of hyperrep: modelzoo-hyperrep, modelzoo-judge, modelzoo-push and modelzoo-demo."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
