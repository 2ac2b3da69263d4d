"""Engines by name, and the engine that `auto` means on this machine. An engine is imported when it is chosen."""

import os
from typing import TYPE_CHECKING

from ..errors import DeviceError

if TYPE_CHECKING:
    from .base import Engine

ENGINES = ("auto", "torch", "native", "cuda")


def get_engine(name: str = "auto", num_threads: int | None = None) -> "Engine":
    """Return an engine by its name.

    Args:
        name: "torch", "native" or "cuda"; "auto" is "cuda" where torch sees a GPU, and "native" otherwise.
        num_threads: Number of CPU cores to use; by default all that this process may use.

    Raises:
        DeviceError: The engine is unknown or not available here, or `num_threads` is less than 1.

    Example:
        >>> get_engine("torch", num_threads=1).name
        'torch'
    """
    if name not in ENGINES:
        raise DeviceError(f"unknown engine {name!r}; this release has {', '.join(ENGINES)}")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = num_threads if num_threads is not None else available or 1
    if count < 1:
        raise DeviceError(f"threads must be at least 1, got {count}")
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "native"
    return _make_engine(name, count)


def _make_engine(name: str, num_threads: int) -> "Engine":
    if name == "torch":
        from .torch_engine import TorchEngine

        return TorchEngine(num_workers=num_threads)
    if name == "cuda":
        from .cuda.cuda_engine import CudaEngine

        return CudaEngine(num_threads=num_threads)
    from .native.native_engine import NativeEngine

    return NativeEngine(num_threads=num_threads)
