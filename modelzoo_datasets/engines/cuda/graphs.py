"""A step that is launched as one: captured into a CUDA graph on a GPU, called as it is on the CPU.

Not run on a GPU yet: what is tested is the step itself, on the CPU.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..common import one_thread

_WARM_UPS = 2  # libraries choose and allocate in the first calls, which a capture must not see


class Replay:
    """Calls `step`, which reads and writes tensors that stay where they are and waits for nothing."""

    def __init__(self, step: Callable[[], None], device: torch.device, changed: Sequence[Tensor]) -> None:
        self._step, self._device = step, device
        self._changed = changed  # all that outlives a step: put back after warming up
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._device.type != "cuda":
            self._step()
            return
        if self._graph is None:
            self._graph = self._captured()
        self._graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        before = [tensor.clone() for tensor in self._changed]
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._step()
        torch.cuda.current_stream(self._device).wait_stream(side)
        for tensor, old in zip(self._changed, before, strict=True):
            tensor.copy_(old)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph


class Branches:
    """Independent parts of a step: each in a stream of its own on a GPU, one after the other on the CPU."""

    def __init__(self, device: torch.device, count: int) -> None:
        streams = count if device.type == "cuda" and count > 1 else 0
        self._device, self._streams = device, [torch.cuda.Stream(device) for _ in range(streams)]

    @contextlib.contextmanager
    def branch(self, number: int) -> Iterator[None]:
        """What is launched within runs beside other branches, after all that was launched before."""
        if not self._streams:
            yield
            return
        stream = self._streams[number]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            yield

    def join(self) -> None:
        """What is launched from here on runs after all branches."""
        for stream in self._streams:
            torch.cuda.current_stream(self._device).wait_stream(stream)


@contextlib.contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Within, a GPU is the current one, products of float32 are float32, and the host works on one thread."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_thread())
        stack.enter_context(full_precision())
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Within, float32 products are float32: no TF32, whatever the process has chosen outside."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, convolution.fp32_precision
    matmul.fp32_precision = convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, convolution.fp32_precision = before
