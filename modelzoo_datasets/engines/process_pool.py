"""Worker processes that do one call at a time and send its results as they come.

Every worker has a pipe of its own, and nothing in common with others but inputs that it reads: one that is killed,
whatever it was doing, leaves nothing behind that another one, or this process, would wait for.
"""

import dataclasses
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import LostWorkerError
from ..plugins import VARIABLE as PLUGINS

_RESULT, _DONE, _FAILED = "result", "done", "failed"  # what a worker says
_PATIENCE = 5  # seconds for a worker that has hung up to end


def in_workers(
    count: int, function: Callable[..., Iterator[Any]], shared: tuple[Any, ...], calls: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """Yield (index of a call, result) for every result of `function(*shared, *call)`, those of a call in their order.

    Whoever closes the iterator, or fails while it waits, stops all workers at once; when it has ended, none is left.

    Args:
        count: workers; they run on one thread each.
        function: found by its name in the workers.
        shared: what all calls get first; its tensors are moved to shared memory, so that workers have no copies.

    Raises:
        LostWorkerError: a worker was killed.
        Exception: what a call raised, as soon as it did.
    """
    workers: list[_Worker] = []
    context, portable = _context(), _converted(shared, Tensor, _shared)
    try:
        for _ in range(min(count, len(calls))):
            workers.append(_Worker(context, function, portable))
        yield from _results(workers, calls)
    finally:
        for worker in workers:
            worker.stop()


def _results(workers: Sequence["_Worker"], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Give every worker a call, and another one as soon as it is done."""
    open_calls, busy = enumerate(calls), dict[Any, tuple[_Worker, int]]()

    def give(worker: _Worker) -> None:
        if (following := next(open_calls, None)) is None:
            busy.pop(worker.connection, None)
        else:
            busy[worker.connection] = (worker, following[0])
            worker.send(following[1])

    for worker in workers:
        give(worker)
    while busy:
        for connection in wait(list(busy)):
            worker, index = busy[connection]
            kind, value = worker.receive()
            if kind == _FAILED:
                raise value
            if kind == _DONE:
                give(worker)
            else:
                yield index, value


class _Worker:
    """One process, as seen from here."""

    def __init__(self, context: Any, function: Callable[..., Iterator[Any]], shared: tuple[Any, ...]) -> None:
        self.connection, theirs = context.Pipe()
        # A daemon: should this process exit with the work half done, the workers end with it.
        arguments = (theirs, function, shared, os.environ.get(PLUGINS))
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()  # theirs alone now, so that their end is noticed here

    def send(self, call: tuple[Any, ...]) -> None:
        try:
            self.connection.send(_packed(call))
        except OSError as error:
            raise self._lost() from error

    def receive(self) -> tuple[str, Any]:
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        return kind, _unpacked(value)

    def _lost(self) -> LostWorkerError:
        self._process.join(timeout=_PATIENCE)
        if (status := self._process.exitcode) is not None and status >= 0:
            return LostWorkerError(
                f"a worker process ended with status {status} by itself and said why above; a script that trains needs "
                "'if __name__ == \"__main__\":' before what it does"
            )
        return LostWorkerError(
            "a worker process was killed, most often for want of memory; run the same command again to go on, with "
            "fewer --threads"
        )

    def stop(self) -> None:
        if self._process.exitcode is None:
            self._process.kill()  # it owns nothing that could be left half done
            self._process.join()
        self.connection.close()


def _context() -> Any:
    """Workers are forked from a clean server that has imported torch once; elsewhere each imports it itself."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Optimizers import dynamo at their first step, seconds of work: once in the server, not in every worker.
    context.set_forkserver_preload([str(__package__), "torch._dynamo"])
    return context


def _serve(
    connection: Any, function: Callable[..., Iterator[Any]], shared: tuple[Any, ...], plugin_files: str | None
) -> None:
    """What a worker does until it is stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    if plugin_files is not None:  # the server that this was forked from may have been started before they were named
        os.environ[PLUGINS] = plugin_files
    inputs = _unpacked(shared)
    with suppress(EOFError, OSError):
        while True:
            for said in _said(function, (*inputs, *_unpacked(connection.recv()))):
                connection.send(said)


def _said(function: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    try:
        for result in function(*arguments):
            yield _RESULT, _packed(result)
    except Exception as error:
        yield _FAILED, _portable(error)
    else:
        yield _DONE, None


def _portable(error: Exception) -> Exception:
    """An error that can be sent, with its traceback as a note."""
    error.add_note(traceback.format_exc())
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _exit_with_parent() -> None:
    """A killed parent cannot tell its workers to stop; without this they would train on for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _packed(value: Any) -> Any:
    """Tensors as plain arrays: as tensors they would travel as shared memory, the whole of what they are a part of."""
    return _converted(value, Tensor, lambda tensor: tensor.detach().numpy())


def _unpacked(value: Any) -> Any:
    """The inverse of `_packed`."""
    return _converted(value, np.ndarray, torch.from_numpy)


def _shared(tensor: Tensor) -> Any:
    """The tensor in shared memory; a plain array, of which every worker gets a copy, where there is not enough."""
    try:
        return tensor.share_memory_()
    except RuntimeError:
        return tensor.numpy()


def _converted(value: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    """A value with all that is of this kind in it converted, wherever in dataclasses, mappings and tuples it is."""
    if isinstance(value, kind):
        return convert(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: _converted(part, kind, convert) for name, part in fields.items()})
    if isinstance(value, Mapping):
        return {name: _converted(part, kind, convert) for name, part in value.items()}
    return tuple(_converted(part, kind, convert) for part in value) if isinstance(value, tuple) else value
