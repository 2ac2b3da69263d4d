"""Compile the kernel for one GPU with CuPy, and launch it once before it is used.

Not run on a GPU yet: the tests replace CuPy, and check launches of a CPU build of the kernel.
"""

import importlib
import math
from functools import lru_cache
from math import prod
from typing import Any

import torch

from ..._util import one_line
from ...errors import NoCompilerError, NoKernelError
from .block_kernel import GPU_OPTIONS, THREADS, Block, KernelEpoch, LaunchKernel, kernel_source


def import_cupy() -> Any:
    """Import CuPy and return its module.

    Raises:
        NoCompilerError: CuPy is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise NoCompilerError(f"{one_line(error)}; pip install 'modelzoo-datasets[cuda]'") from error


def find_compiler_versions() -> dict[str, str]:
    """Return the versions of CuPy and of its NVRTC, by name.

    Raises:
        NoCompilerError: As of `import_cupy`, or NVRTC is missing.
    """
    cupy = import_cupy()
    try:
        nvrtc = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    except (AttributeError, OSError, RuntimeError) as error:
        raise NoCompilerError(f"CuPy: {one_line(error)}") from error
    return {"cupy": str(cupy.__version__), "nvrtc": nvrtc}


@lru_cache(maxsize=64)
def compile_with_cupy(block: Block, device_index: int) -> LaunchKernel:
    """Compile the kernel for a GPU with NVRTC. CuPy caches compiled kernels on disk.

    Launches go into the current stream of torch.

    Args:
        block: Sizes of the kernel.
        device_index: Number of the GPU; a compiled kernel and its shared memory belong to one GPU.

    Raises:
        NoKernelError: The GPU has too little shared memory.
        NoCompilerError: CuPy is not installed or cannot compile.
    """
    cupy = import_cupy()
    properties = torch.cuda.get_device_properties(device_index)
    check_shared_memory(block, getattr(properties, "shared_memory_per_block_optin", block.memory_bytes))
    try:
        with cupy.cuda.Device(device_index):
            kernel = cupy.RawKernel(kernel_source(block), "train_epoch", options=GPU_OPTIONS, backend="nvrtc")
            kernel.max_dynamic_shared_size_bytes = block.memory_bytes  # compiles it
    except (cupy.cuda.compiler.CompileException, RuntimeError) as error:  # RuntimeError if a library is missing
        raise NoCompilerError(f"CuPy: {str(error).strip().splitlines()[0]}") from error

    def launch(fields: torch.Tensor, num_models: int) -> None:
        stream = cupy.cuda.Stream.from_external(torch.cuda.current_stream(device_index))
        with cupy.cuda.Device(device_index), stream:
            kernel((num_models,), (THREADS,), (cupy.uint64(fields.data_ptr()),), shared_mem=block.memory_bytes)

    return launch


def check_shared_memory(block: Block, available: int) -> None:
    """Check that a block fits into the shared memory that a GPU gives to one thread block.

    The sizes of a block decide the order of sums, so it is not made smaller: results are those of every other GPU.

    Raises:
        NoKernelError: It does not fit.
    """
    if block.memory_bytes > available:
        raise NoKernelError(
            f"a model needs {block.memory_bytes:,} bytes of shared memory, and a thread block of this GPU has "
            f"{available:,}"
        )


def check_launch(launch: LaunchKernel, block: Block, device: torch.device) -> None:
    """Train a model without weights on one black image, at a rate of zero, and check what comes back.

    Raises:
        NoCompilerError: The launch failed, or its result is wrong.
    """

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    channels, height, width = block.stages[0].input_shape
    try:
        losses, weights = zeros(1, dtype=torch.float64), zeros(3, 1, block.num_parameters)
        epoch = KernelEpoch(
            pixels=zeros(1, channels, height, width, dtype=torch.uint8),
            labels=zeros(1, dtype=torch.int32),
            orders=zeros(1, 1, dtype=torch.int32),
            pixel_table=zeros(channels, 256),
            weights=weights[0],
            first_moment=weights[1],
            second_moment=weights[2],
            rates=zeros(1, 1, 5),
            table_of_model=zeros(1, dtype=torch.int32),
            adaptive=zeros(1, dtype=torch.int32),
            activations=zeros(1, len(block.stages), dtype=torch.int32),
            dropouts=zeros(1, len(block.stages)),
            seeds=zeros(1, dtype=torch.uint32),
            losses=losses,
            correct=zeros(1, dtype=torch.int64),
        )
        launch(epoch.pack_fields(batch_size=1), 1)
        loss = losses.item()  # waits for the launch
    except RuntimeError as error:
        raise NoCompilerError(f"its first launch failed: {one_line(error)}") from error
    expected = math.log(prod(block.stages[-1].output_shape))  # since all logits are equal
    if not math.isclose(loss, expected, rel_tol=1e-5) or bool((weights[0] != 0).any()):
        raise NoCompilerError(f"its first launch computed a loss of {loss:.6g} instead of {expected:.6g}")
