"""Model zoos as datasets: generate, publish and load populations of neural networks."""

from importlib.metadata import version

import lazy_loader

# The stub beside this file lists the public names. Each is imported at its first use, so that `--help` costs no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("modelzoo-datasets")
