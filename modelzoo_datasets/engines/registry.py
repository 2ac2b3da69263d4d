"""Engines by name, and the engine that `auto` means on this machine. An engine is imported when it is chosen."""

import logging
import os
from typing import TYPE_CHECKING

from ..errors import DeviceError

if TYPE_CHECKING:
    from .base import Engine

ENGINES = ("auto", "torch", "native", "cuda")
_LOG = logging.getLogger(__name__)


def get_engine(name: "str | Engine" = "auto", num_threads: int | None = None, *, gpu_share: float = 1.0) -> "Engine":
    """Return an engine by its name.

    Args:
        name: "torch", "native" or "cuda"; "auto" is "cuda" where torch sees a GPU on which that engine passes its
            self-check, and "native" otherwise. An engine is returned as it is.
        num_threads: Number of CPU cores to use; by default all that this process may use.
        gpu_share: Share of the memory of the GPU that belongs to this process.

    Raises:
        DeviceError: The engine is unknown, not available here or fails its self-check, or `num_threads` is less than 1.

    Example:
        >>> get_engine("torch", num_threads=1).name
        'torch'
    """
    if not isinstance(name, str):
        return name
    if name not in ENGINES:
        raise DeviceError(f"unknown engine {name!r}; this release has {', '.join(ENGINES)}")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = num_threads if num_threads is not None else available or 1
    if count < 1:
        raise DeviceError(f"threads must be at least 1, got {count}")
    if name == "auto":
        return _choose_engine(count, gpu_share)
    return _make_engine(name, count, gpu_share)


def _choose_engine(num_threads: int, gpu_share: float) -> "Engine":
    """Return the fastest engine that is known to be right on this machine, and log why a GPU is not used."""
    import torch

    if torch.cuda.is_available():
        try:
            return _make_engine("cuda", num_threads, gpu_share)
        except DeviceError as error:
            _LOG.warning("--engine auto is native here: %s", error)
    return _make_engine("native", num_threads, gpu_share)


def _make_engine(name: str, num_threads: int, gpu_share: float) -> "Engine":
    if name == "torch":
        from .torch_engine import TorchEngine

        return TorchEngine(num_workers=num_threads)
    if name == "cuda":
        from .cuda.cuda_engine import CudaEngine
        from .cuda.device_check import explain_unsound

        engine = CudaEngine(num_threads=num_threads, memory_share=gpu_share)
        if (reason := explain_unsound(engine)) is not None:
            raise DeviceError(f"engine 'cuda' {reason}; use --engine native or torch")
        return engine
    from .native.native_engine import NativeEngine

    return NativeEngine(num_threads=num_threads)
