"""The device: its precision, its memory, and CUDA graphs and streams, which capture a whole step once and replay it.

On the CPU a step is simply called. Not run on a GPU yet: the tests run the step itself, on the CPU.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..common import one_thread

_USED_SHARE = 0.8  # fraction of the free memory; the rest is for fragmentation and the workspace of convolutions
_CPU_BYTES = 1 << 30  # that a cohort may take on the CPU, where this engine is only tested
_WARM_UPS = 2  # libraries choose algorithms and allocate in the first calls, which must not be captured


class GraphedStep:
    """A step that reads and writes tensors at fixed addresses and never waits for the device."""

    def __init__(self, step: Callable[[], None], device: torch.device, state: Sequence[Tensor]) -> None:
        """Wrap a step; it is captured at its first call.

        Args:
            step: The step.
            device: Device of all tensors.
            state: All tensors that outlive a step; they are restored after warming up.
        """
        self._step, self._device = step, device
        self._state = state
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._device.type != "cuda":
            self._step()
            return
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        before = [tensor.clone() for tensor in self._state]
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._step()
        torch.cuda.current_stream(self._device).wait_stream(side)
        for tensor, old in zip(self._state, before, strict=True):
            tensor.copy_(old)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph


class StreamBranches:
    """Independent parts of a step: each in its own stream on a GPU, one after the other on the CPU."""

    def __init__(self, device: torch.device, count: int) -> None:
        num_streams = count if device.type == "cuda" and count > 1 else 0
        self._device, self._streams = device, [torch.cuda.Stream(device) for _ in range(num_streams)]

    @contextlib.contextmanager
    def branch(self, number: int) -> Iterator[None]:
        """Run what is launched within beside the other branches, after everything that was launched before."""
        if not self._streams:
            yield
            return
        stream = self._streams[number]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            yield

    def join(self) -> None:
        """Make everything that is launched from here on wait for all branches."""
        for stream in self._streams:
            torch.cuda.current_stream(self._device).wait_stream(stream)


@contextlib.contextmanager
def device_context(device: torch.device) -> Iterator[None]:
    """Make a GPU the current one, compute float32 products in float32, and use one thread of the host."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_thread())
        stack.enter_context(full_precision())
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32, never in TF32, whatever the process has chosen outside."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, convolution.fp32_precision
    matmul.fp32_precision = convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, convolution.fp32_precision = before


def choose_cohort_size(free_bytes: int, shared_bytes: int, model_bytes: int, num_models: int) -> int:
    """Return how many models to train at once, evenly distributed: 10 models, of which 6 fit, are two cohorts of 5.

    Args:
        free_bytes: Free memory of the device.
        shared_bytes: Memory taken once, whatever the number of models, e.g. by the images.
        model_bytes: Memory that one model takes in a step.
        num_models: Number of all models, at least 1.
    """
    max_models = max(1, int(_USED_SHARE * free_bytes - shared_bytes) // model_bytes)
    num_cohorts = -(-num_models // max_models)
    return -(-num_models // num_cohorts)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU; a fixed amount for the CPU, where this engine is only tested."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _CPU_BYTES
