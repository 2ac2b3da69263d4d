"""The engine of one GPU; see `engine`."""

from .engine import CudaEngine as CudaEngine
