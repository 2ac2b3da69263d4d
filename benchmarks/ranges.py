"""What reading parts of files from the Hub costs: our ranges and those of `HfFileSystem`, on a Hub on loopback.

python benchmarks/ranges.py --out DIR      prints Markdown; a folder in DIR is made and removed

The Hub runs in a process of its own, which counts requests and bytes. It answers at once: over a network, each request
takes another 50 to 100 ms.
"""

import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

from huggingface_hub import HfFileSystem, constants
from loading import EPOCHS, RECIPE, prepared
from tables import markdown

from modelzoo_datasets.hub import RangeReader, RemoteFile
from modelzoo_datasets.hub.revision import clear_revisions
from modelzoo_datasets.loading import stream_zoo
from modelzoo_datasets.recipes import read_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.hub_server import HubServer, _Handler

REPO = "zoos/ranges"
_STATES, _STATE_BYTES = 64, 1_000_000  # single ranges, as of states in files of weights
Job = Callable[[], int]  # returns a number that is the same for every way of reading


class Turn(NamedTuple):
    """One job in one round."""

    requests: int
    nbytes: int
    cpu: float  # seconds of the client


def serve(folder: str, dataset: str, pipe: Connection) -> None:
    """Serve a dataset folder; every message is answered by the requests and bytes since the one before."""
    counts = [0, 0]
    answer = _Handler._answer

    def count(self: Any, status: int, value: Any, headers: Any = None) -> None:
        counts[0] += 1
        counts[1] += len(value) if isinstance(value, bytes) and self.command == "GET" else 0
        answer(self, status, value, headers)

    _Handler._answer = count  # type: ignore[method-assign]
    with HubServer(Path(folder)).running() as hub:
        repo, root = hub.create("datasets", REPO), Path(dataset)
        files = {str(p.relative_to(root)): hub.put(p.read_bytes()) for p in root.rglob("*") if p.is_file()}
        repo.branches["main"] = repo.add("a dataset", files).oid
        pipe.send(hub.url)
        while pipe.recv():
            pipe.send(tuple(counts))
            counts[:] = 0, 0


class _OwnFile(RangeReader):
    """A file of `HfFileSystem`, which decides itself what to read ahead."""

    def __init__(self, file: Any, size: int) -> None:
        super().__init__(lambda begin, end: b"", size)
        self._file = file

    def fetch_ahead(self, begin: int, end: int) -> None:
        """Leave it to the file."""

    def read(self, size: int = -1) -> bytes:
        """Read at the position that `seek` of the base class keeps."""
        self._file.seek(self._position)
        content: bytes = self._file.read(size)
        self._position += len(content)
        return content


class _Whole:
    """Files of `HfFileSystem` in place of ours."""

    fs: HfFileSystem

    @classmethod
    def open(cls, file: RemoteFile) -> RangeReader:
        return _OwnFile(cls.fs.open(f"datasets/{REPO}/{file.path}", "rb"), file.size)

    @classmethod
    def read(cls, file: RemoteFile, begin: int, end: int) -> bytes:
        return bytes(cls.fs.cat_file(f"datasets/{REPO}/{file.path}", begin, end))


class _Ranges(_Whole):
    """Its requests alone: our file objects say which bytes."""

    @classmethod
    def open(cls, file: RemoteFile) -> RangeReader:
        return RangeReader(lambda begin, end: cls.read(file, begin, end), file.size)

    @classmethod
    def read(cls, file: RemoteFile, begin: int, end: int) -> bytes:
        return bytes(cls.fs.cat_file(f"datasets/{REPO}/{file.path}", begin, end, cache_type="none"))


WAYS: Mapping[str, type[_Whole] | None] = {
    "**ours**": None,
    "`HfFileSystem`, ranges that ours asks for": _Ranges,
    "`HfFileSystem`, its own files": _Whole,
}


@contextmanager
def reading(way: type[_Whole] | None) -> Iterator[None]:
    """Read remote files in one of the ways, as a new process would: nothing of the repo is known."""
    clear_revisions(REPO)
    own = RemoteFile.read, RemoteFile.open
    if way is not None:
        way.fs = HfFileSystem(endpoint=constants.ENDPOINT, skip_instance_cache=True)
        RemoteFile.read, RemoteFile.open = (  # type: ignore[method-assign]
            lambda self, begin, end: way.read(self, begin, end),
            lambda self: way.open(self),
        )
    try:
        yield
    finally:
        RemoteFile.read, RemoteFile.open = own  # type: ignore[method-assign]


def stream(**options: Any) -> int:
    """States that a stream gives."""
    return sum(len(zoo.weights) for zoo in stream_zoo(REPO, "seed", batch_size=1000, cache=False, **options))


def read_states(path: str, size: int) -> int:
    """Bytes of single ranges all over a file."""
    file, step = RemoteFile(REPO, path, size), (size - _STATE_BYTES) // _STATES
    return sum(len(file.read(i * step, i * step + _STATE_BYTES)) for i in range(_STATES))


def main() -> None:
    """Measure and print."""
    with prepared(__doc__, rounds=7) as setting:
        ours, theirs = multiprocessing.Pipe()
        words = str(setting.folder / "hub"), str(setting.folder / "dataset"), theirs
        server = multiprocessing.get_context("spawn").Process(target=serve, args=words, daemon=True)
        server.start()
        constants.ENDPOINT, constants.HF_HUB_CACHE = ours.recv(), str(setting.folder / "downloads")
        constants.HUGGINGFACE_CO_URL_TEMPLATE = f"{constants.ENDPOINT}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        models = [member.model_id for member in read_recipe(RECIPE).members("seed", epochs=EPOCHS)[: setting.models]][
            -10:
        ]
        shard = min((setting.folder / "dataset" / "seed").iterdir())
        jobs: dict[str, Job] = {
            "everything": stream,
            "10 models": lambda: stream(models=models),
            f"{_STATES} ranges of 1 MB": lambda: read_states(f"seed/{shard.name}", shard.stat().st_size),
        }
        rows = []
        for what, job in jobs.items():
            found = measure(job, setting.rounds, ours)
            rows += [[what, way, *line] for way, line in describe(found).items()]
        print(markdown(["what", "how", "requests", "MB", "CPU s", "x ours in CPU time (min to max)"], rows))
        ours.send(False)


def measure(job: Job, rounds: int, hub: Connection) -> dict[str, list[Turn]]:
    """Every way in every round; each round begins with another one, after one that does not count."""
    found: dict[str, list[Turn]] = {name: [] for name in WAYS}
    names, results = list(WAYS), set()
    for number in range(-1, rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            hub.send(True)
            hub.recv()
            with reading(WAYS[name]):
                begin = process_time()
                results.add(job())
                cpu = process_time() - begin
            hub.send(True)
            if number >= 0:
                found[name].append(Turn(*hub.recv(), cpu))
            else:
                hub.recv()
    assert len(results) == 1, results
    return found


def describe(found: Mapping[str, list[Turn]]) -> dict[str, list[str]]:
    """Per way: medians, and the ratios of CPU times to ours in the same round."""
    base, lines = next(iter(found.values())), {}
    for name, turns in found.items():
        ratios = [a.cpu / b.cpu for a, b in zip(turns, base, strict=True)]
        median = [statistics.median(values) for values in zip(*turns, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines[name] = [f"{median[0]:,.0f}", f"{median[1] / 1e6:,.1f}", f"{median[2]:.3f}", spread]
    return lines


if __name__ == "__main__":
    main()
