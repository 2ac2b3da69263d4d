"""Worker processes that run one call at a time and send its results as they come.

Every worker has its own pipe and shares nothing with the others but read-only inputs. So a worker that is killed, at
whatever moment, leaves nothing behind that another worker or this process would wait for.
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

_RESULT, _DONE, _FAILED = "result", "done", "failed"  # kinds of messages from a worker
_JOIN_SECONDS = 5  # for a worker that has closed its pipe to end


def run_in_processes(
    num_workers: int, function: Callable[..., Iterator[Any]], shared: tuple[Any, ...], calls: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """Yield the index of a call and a result, for every result of `function(*shared, *call)`.

    The results of one call come in their order. Closing the iterator, or an error, stops all workers at once; when the
    iterator has ended, no worker is left.

    Args:
        num_workers: Number of processes; each uses one thread.
        function: A generator function that workers can import by its name.
        shared: The first arguments of all calls. Tensors are moved to shared memory, so that workers have no copies.
        calls: The further arguments of each call.

    Raises:
        LostWorkerError: A worker was killed or ended by itself.
        Exception: The error of a call, as soon as it is raised.
    """
    workers: list[_Worker] = []
    context, inputs = _start_context(), _map_instances(shared, Tensor, _share_memory)
    try:
        for _ in range(min(num_workers, len(calls))):
            workers.append(_Worker(context, function, inputs))
        yield from _distribute(workers, calls)
    finally:
        for worker in workers:
            worker.stop()


def _distribute(workers: Sequence["_Worker"], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Give every worker a call, and another one as soon as it has finished."""
    open_calls, busy = enumerate(calls), dict[Any, tuple[_Worker, int]]()

    def send_next(worker: _Worker) -> None:
        if (item := next(open_calls, None)) is None:
            busy.pop(worker.connection, None)
        else:
            busy[worker.connection] = (worker, item[0])
            worker.send(item[1])

    for worker in workers:
        send_next(worker)
    while busy:
        for connection in wait(list(busy)):
            worker, index = busy[connection]
            kind, value = worker.receive()
            if kind == _FAILED:
                raise value
            if kind == _DONE:
                send_next(worker)
            else:
                yield index, value


class _Worker:
    """One worker process, as its parent sees it."""

    def __init__(self, context: Any, function: Callable[..., Iterator[Any]], shared: tuple[Any, ...]) -> None:
        self.connection, worker_end = context.Pipe()
        # A daemon: if this process exits in the middle of the work, the workers end with it.
        arguments = (worker_end, function, shared, os.environ.get(PLUGINS))
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        worker_end.close()  # only the worker holds it now, so that its end is noticed here

    def send(self, call: tuple[Any, ...]) -> None:
        try:
            self.connection.send(_to_arrays(call))
        except OSError as error:
            raise self._make_lost_error() from error

    def receive(self) -> tuple[str, Any]:
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._make_lost_error() from error
        return kind, _to_tensors(value)

    def _make_lost_error(self) -> LostWorkerError:
        self._process.join(timeout=_JOIN_SECONDS)
        if (status := self._process.exitcode) is not None and status >= 0:
            return LostWorkerError(
                f"a worker process ended by itself with exit status {status}; its own message is above. A script that "
                "trains needs 'if __name__ == \"__main__\":' before the code that it runs"
            )
        return LostWorkerError(
            "a worker process was killed, most often for lack of memory; run the same command again to resume, with "
            "fewer --threads"
        )

    def stop(self) -> None:
        if self._process.exitcode is None:
            self._process.kill()  # it owns nothing that could be left half done
            self._process.join()
        self.connection.close()


def _start_context() -> Any:
    """Fork workers from a clean server process that has imported torch once; without fork, each worker imports it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Optimizers import dynamo at their first step, which takes seconds: once in the server, not in every worker.
    context.set_forkserver_preload([f"{__package__}.torch_engine", "torch._dynamo"])
    return context


def _serve(
    connection: Any, function: Callable[..., Iterator[Any]], shared: tuple[Any, ...], plugin_files: str | None
) -> None:
    """Run calls in a worker until it is stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    if plugin_files is not None:  # the fork server may have been started before the variable was set
        os.environ[PLUGINS] = plugin_files
    inputs = _to_tensors(shared)
    with suppress(EOFError, OSError):
        while True:
            for message in _call(function, (*inputs, *_to_tensors(connection.recv()))):
                connection.send(message)


def _call(function: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the messages that one call sends to the parent."""
    try:
        for result in function(*arguments):
            yield _RESULT, _to_arrays(result)
    except Exception as error:
        yield _FAILED, _make_portable(error)
    else:
        yield _DONE, None


def _make_portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process, with the traceback as a note."""
    error.add_note(traceback.format_exc())
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _exit_with_parent() -> None:
    """End this worker when its parent ends: a killed parent cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _to_arrays(value: Any) -> Any:
    """Convert all tensors to arrays; a tensor would travel as shared memory, with the whole storage it is a view of."""
    return _map_instances(value, Tensor, lambda tensor: tensor.detach().numpy())


def _to_tensors(value: Any) -> Any:
    """Invert `_to_arrays`."""
    return _map_instances(value, np.ndarray, torch.from_numpy)


def _share_memory(tensor: Tensor) -> Any:
    """Move a tensor to shared memory; if there is not enough, return an array, which is copied to every worker."""
    try:
        return tensor.share_memory_()
    except RuntimeError:
        return tensor.numpy()


def _map_instances(value: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    """Convert all objects of a class within dataclasses, mappings and tuples, however deep."""
    if isinstance(value, kind):
        return convert(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        changes = {name: _map_instances(part, kind, convert) for name, part in fields.items()}
        return dataclasses.replace(value, **changes)
    if isinstance(value, Mapping):
        return {name: _map_instances(part, kind, convert) for name, part in value.items()}
    return tuple(_map_instances(part, kind, convert) for part in value) if isinstance(value, tuple) else value
