"""Small image datasets in their real formats, and the web servers on loopback that tests download them from."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.real_files import SHAPES, SIZES, WRITERS, Arrays, random_arrays

from modelzoo_datasets.images import registry


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder and does not talk about it."""

    def log_message(self, *args: object) -> None:
        pass


class BreakingHandler(QuietHandler):
    """Promises the whole file, sends the first 1,000 bytes of it and hangs up."""

    def copyfile(self, source, outputfile) -> None:  # type: ignore[no-untyped-def]
        outputfile.write(source.read(1000))


class QuietServer(ThreadingHTTPServer):
    """Says nothing when torchvision hangs up on its first request, which only looks for redirects."""

    def handle_error(self, *args: object) -> None:
        pass


@contextmanager
def running(folder: Path, handler: type[QuietHandler]) -> Iterator[str]:
    """A server of a folder; its address ends with a slash."""
    server = QuietServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Start a server of a folder."""
    with ExitStack() as servers:
        yield lambda folder: servers.enter_context(running(folder, QuietHandler))


@pytest.fixture
def serve_and_hang_up() -> Iterator[Callable[[Path], str]]:
    """Start a server whose connections break in the middle of a file."""
    with ExitStack() as servers:
        yield lambda folder: servers.enter_context(running(folder, BreakingHandler))


@pytest.fixture
def nobody_listens() -> str:
    """An address that refuses every connection."""
    server = QuietServer(("127.0.0.1", 0), QuietHandler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}/"


@pytest.fixture(scope="session")
def arrays() -> dict[str, Arrays]:
    """Pixels and labels of every kind."""
    return random_arrays()


@pytest.fixture(scope="session")
def server_folders(arrays: dict[str, Arrays], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the official servers have, a folder per kind."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in SHAPES}
    for kind, folder in folders.items():
        WRITERS[kind](arrays[kind], folder)
    return folders


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dataset expects as many images as these files hold."""
    resized = {name: dataclasses.replace(d, sizes=SIZES) for name, d in registry._DATASETS.items()}
    monkeypatch.setattr(registry, "_DATASETS", resized)
