"""Compiling and launching the kernel of a chain on the GPU, by NVRTC through CuPy.

Not run on a GPU yet. What has been done: nvcc compiles the kernel, and its arithmetic is tested in a CPU build.
"""

import importlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import NoCompilerError
from .block_kernel import THREADS, Block

_KERNEL = Path(__file__).parent / "kernel"
_PARTS = ("mersenne", "activations", "stage", "epoch")  # each needs those before it
OPTIONS = ("-std=c++17",)  # of NVRTC, nvcc and C++ compilers; no fast math: saturated has to be exactly saturated


# Trains M models for one epoch: takes the fields of the kernel's `Epoch` (17,) int64, on the device, and M.
Launch = Callable[[Tensor, int], None]
# Makes a kernel for the sizes of a block.
Compile = Callable[[Block], Launch]


def source_of(block: Block) -> str:
    """The whole kernel as one text, so that a cache of compiled kernels sees every change."""
    parts = [_part("portable"), block.head, *map(_part, _PARTS)]
    return "\n".join(parts)


def _part(name: str) -> str:
    """A file of the kernel without what holds only among files."""
    lines = (_KERNEL / f"{name}.cuh").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith(("#pragma once", '#include "')))


@lru_cache(maxsize=64)
def compiled_by_cupy(block: Block) -> Launch:
    """The kernel on the current GPU; launches go into torch's current stream. CuPy keeps on disk what it has compiled.

    Raises:
        NoCompilerError: CuPy is not installed, or cannot compile.
    """
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise NoCompilerError(f"{error}; pip install 'modelzoo-datasets[cuda]'") from error
    try:
        kernel = cupy.RawKernel(source_of(block), "train_epoch", options=OPTIONS, backend="nvrtc")
        kernel.max_dynamic_shared_size_bytes = block.shared_bytes  # this compiles it
    except (cupy.cuda.compiler.CompileException, RuntimeError) as error:  # the second where a library is not found
        raise NoCompilerError(f"CuPy: {str(error).strip().splitlines()[0]}") from error

    def launch(fields: Tensor, models: int) -> None:
        with cupy.cuda.Device(fields.device.index), cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
            kernel((models,), (THREADS,), (cupy.uint64(fields.data_ptr()),), shared_mem=block.shared_bytes)

    return launch
