"""The device: its precision, and CUDA graphs and streams, which capture a whole step once and replay it.

On the CPU a step is simply called. Not run on a GPU yet: the tests run the step itself, on the CPU, and the calls of
CUDA on a fake device.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..common import one_thread

_WARM_UPS = 2  # libraries choose algorithms and allocate in the first calls, which must not be captured


class GraphPool:
    """Memory for the intermediate results of several graphs, which never run at the same time.

    No result of a step outlives it, so that all graphs may use the same memory: it is as large as the largest needs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.handle = torch.cuda.graph_pool_handle() if device.type == "cuda" else None


class GraphedStep:
    """A step that reads and writes tensors at fixed addresses and never waits for the device."""

    def __init__(self, step: Callable[[], None], pool: GraphPool, state: Sequence[Tensor]) -> None:
        """Wrap a step; it is captured at its first call.

        Args:
            step: The step.
            pool: Memory of the graphs of the device of all tensors.
            state: All tensors that outlive a step; they are restored after warming up.
        """
        self._step, self._pool = step, pool
        self._state = state
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._pool.stream is None:
            self._step()
            return
        if self._graph is None:
            self._graph = self._capture(self._pool.stream)
        self._graph.replay()

    def _capture(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        """Warm up and capture in one stream of the device; torch's own default would stay on the first device."""
        current = torch.cuda.current_stream(self._pool.device)
        before = [tensor.clone() for tensor in self._state]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._step()
        current.wait_stream(stream)
        for tensor, old in zip(self._state, before, strict=True):
            tensor.copy_(old)
        del before  # not held beside the memory of the graph; torch gives back what warming up took
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool.handle, stream=stream):
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
    """Make a GPU the current one, with float32 products in float32, deterministic convolutions and one host thread."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_thread())
        stack.enter_context(full_precision())
        stack.enter_context(_change_attribute(torch.backends.cudnn, "benchmark", False))
        stack.enter_context(_change_attribute(torch.backends.cudnn, "deterministic", True))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32, never in TF32, whatever the process has chosen outside.

    The switches of old and new torch are set together, so that code within can read each of them. (torch refuses to
    read `allow_tf32` where they contradict each other.)

    Example:
        >>> with full_precision():
        ...     torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        (False, False)
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    with contextlib.ExitStack() as stack:
        stack.enter_context(_change(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"))
        stack.enter_context(_change_attribute(convolutions, "allow_tf32", False))
        for owner in (products, getattr(convolutions, "conv", None), getattr(convolutions, "rnn", None)):
            stack.enter_context(_change_attribute(owner, "fp32_precision", "ieee"))
        yield


def _change_attribute(owner: Any, name: str, value: Any) -> contextlib.AbstractContextManager[None]:
    return _change(partial(getattr, owner, name), partial(setattr, owner, name), value)


@contextlib.contextmanager
def _change(read: Callable[[], Any], write: Callable[[Any], object], value: Any) -> Iterator[None]:
    """Change a switch for a while; one that this torch does not have, or refuses to read, is left alone."""
    try:
        before = read()
    except (AttributeError, RuntimeError):
        before = value
    if before == value:
        yield
        return
    write(value)
    try:
        yield
    finally:
        write(before)
