"""Engines by name, and which one `auto` means on this machine."""

import os

import torch

from ..errors import DeviceError
from .base import Engine
from .cuda.cuda_engine import CudaEngine
from .native.native_engine import NativeEngine
from .torch.torch_engine import TorchEngine

ENGINES = ("auto", "torch", "native", "cuda")


def get_engine(name: str = "auto", num_threads: int | None = None) -> Engine:
    """The engine of that name on `num_threads` cores (all that this process may use, if not said).

    `auto` is `cuda` where torch sees a GPU, else `native`.

    Raises:
        DeviceError: no such engine here, or fewer than one thread.
    """
    if name not in ENGINES:
        raise DeviceError(f"unknown engine {name!r}; this release has {', '.join(ENGINES)}")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = num_threads if num_threads is not None else available or 1
    if count < 1:
        raise DeviceError(f"threads must be at least 1, got {count}")
    if name == "torch":
        return TorchEngine(num_workers=count)
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return CudaEngine(num_threads=count)
    return NativeEngine(num_threads=count)
