"""What writing a zoo costs: the same training with both layouts and with a writer that drops everything, interleaved;
then the writers alone, on random states, against plain file writes.

    python benchmarks/writing.py --out DIR      prints Markdown; DIR, on the disk to be measured, is made and removed
"""

import argparse
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo_datasets._util import SPLITS
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines import METRICS, Job, get_engine
from modelzoo_datasets.generation.cohorts import add_states
from modelzoo_datasets.images import Images, load_images
from modelzoo_datasets.recipes import Member, read_recipe
from modelzoo_datasets.zoo import STORAGES, RecipeInfo, ZooInfo, ZooWriter

RECIPE = "fashion-mnist-cnn-s"  # published settings: Adam, batches of 10
IMAGES = "fashion-mnist-5k"
STATES, EPOCHS = 2000, 49  # of the writers alone: 40 models of 50 states


class Dropping:
    """A writer that writes nothing."""

    def add(self, *_: Any) -> None:
        """Drop a state."""


def zoo_info(architecture: str, storage: str, epochs: int) -> ZooInfo:
    """The zoo.json of the folders that are written here."""
    return ZooInfo(
        name=f"{RECIPE}/seed",
        architecture=architecture,
        images=IMAGES,
        recipe=RecipeInfo.from_recipe(read_recipe(RECIPE), "seed", epochs=epochs),
        layout=get_architecture(architecture).layout,
        images_sha256="",
        classes=10,
        engine="",
        versions={},
    ).with_storage(storage)


def cpu_seconds() -> float:
    """Of this process, all threads: it receives and writes states, and with one thread it trains as well."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def train(out: Path, storage: str | None, members: Sequence[Member], images: Images, threads: int) -> dict[str, float]:
    """Train and write a zoo; wall-clock and CPU seconds, and what the writer says of itself."""
    shutil.rmtree(out, ignore_errors=True)
    architecture, jobs = "cnn-s", [Job(training=member.training, seed=member.seed) for member in members]
    epochs = members[0].training.epochs
    writer = None if storage is None else ZooWriter(out, zoo_info(architecture, storage, epochs))
    begin, cpu = time.perf_counter(), cpu_seconds()
    for states in get_engine("torch", threads).train(architecture, images, jobs, metrics_on=SPLITS):
        add_states(writer or Dropping(), members, states)  # type: ignore[arg-type]
    if writer is not None:
        with writer:
            writer.complete(members)
    found = {"wall": time.perf_counter() - begin, "cpu": cpu_seconds() - cpu}
    pool = None if writer is None else writer.pool
    writing, waited = (pool.seconds_writing, pool.seconds_waiting) if pool else (0.0, 0.0)
    return {**found, "writing": writing, "waited": waited}


def write_zoo(out: Path, storage: str, architecture: str, weights: Tensor) -> None:
    """All states through the real writer: (N, P), 50 of each model."""
    grid = read_recipe(RECIPE).members("seed", epochs=EPOCHS)[: len(weights) // (EPOCHS + 1)]
    metrics, recall = dict.fromkeys(METRICS, 0.5), torch.full((10,), 0.5, dtype=torch.float64)
    with ZooWriter(out, zoo_info(architecture, storage, EPOCHS)) as writer:
        for i, row in enumerate(weights):
            writer.add(grid[i // (EPOCHS + 1)], i % (EPOCHS + 1), row, metrics, recall)
        writer.complete(grid)


def write_plain(out: Path, parts: Sequence[bytes]) -> None:
    """The limit: plain files, each flushed to disk."""
    out.mkdir()
    for i, part in enumerate(parts):
        with (out / str(i)).open("wb") as file:
            file.write(part)
            file.flush()
            os.fsync(file.fileno())


def timed(work: Callable[[], None], out: Path) -> float:
    """Seconds, with the disk quiet before."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def training_table(out: Path, rounds: int, models: int, epochs: int, threads: int) -> list[str]:
    """One line per layout: medians over the rounds, in which the layouts take turns."""
    images = load_images(IMAGES, out)
    members = read_recipe(RECIPE).members("seed", epochs=epochs)[:models]
    train(out / "zoo", None, members[:threads], images, threads)  # warm
    found: dict[str | None, list[dict[str, float]]] = {None: [], **{layout: [] for layout in STORAGES}}
    for number in range(rounds):
        order = list(found)
        for layout in order[number % 3 :] + order[: number % 3]:
            found[layout].append(train(out / "zoo", layout, members, images, threads))
    return [_line(layout or "nothing", runs, found[None], threads) for layout, runs in found.items()]


def _line(name: str, runs: Sequence[dict[str, float]], nothing: Sequence[dict[str, float]], threads: int) -> str:
    """Medians, and of what can be compared the median of the comparisons round by round."""
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    pairs = list(zip(runs, nothing, strict=True))
    wall = statistics.median(a["wall"] / b["wall"] for a, b in pairs)
    cpu = statistics.median((a["cpu"] - b["cpu"]) / (b["wall"] * threads) for a, b in pairs)
    writing = middle["writing"] / (middle["wall"] * threads)
    numbers = f"{middle['wall']:.1f} | {wall:.3f} | {100 * cpu:.2f} | {100 * writing:.2f} | {middle['waited']:.2f}"
    return f"| {name} | {numbers} |"


def writers_table(out: Path, architecture: str, rounds: int) -> list[str]:
    """One line per way to write; the ways take turns."""
    size = get_architecture(architecture).layout.size
    weights = torch.randn(STATES, size, generator=torch.Generator().manual_seed(0))
    raw, total = [row.numpy().tobytes() for row in weights], weights.nbytes / 1e6
    ways: Mapping[str, Callable[[], None]] = {
        "one plain file": lambda: write_plain(out / "zoo", [b"".join(raw)]),
        f"{STATES} plain files": lambda: write_plain(out / "zoo", raw),
        **{layout: lambda layout=layout: write_zoo(out / "zoo", layout, architecture, weights) for layout in STORAGES},  # type: ignore[misc]
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            seconds[name].append(timed(work, out / "zoo"))
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    cells = {name: f"{s:.2f} | {STATES / s:,.0f} | {total / s:,.0f}" for name, s in middle.items()}
    return [f"| {architecture} | {name} | {text} |" for name, text in cells.items()]


def processor() -> str:
    """The name of the processor, as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "safetensors", "pyarrow"))
    print(f"{processor()}, {cores} cores, Python {platform.python_version()}, {versions}")
    print(f"load average at the start {os.getloadavg()[0]:.1f}; medians of {options.rounds} rounds")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        for threads in sorted({1, cores}):
            what = f"{options.models} models, {options.epochs} epochs of {IMAGES}, {RECIPE}/seed"
            print(f"\n{what}, threads: {threads}\n")
            print("| written | s | x nothing | more CPU % | writers busy % | training waited s |")
            print("|---|---|---|---|---|---|")
            print(*training_table(Path(folder), options.rounds, options.models, options.epochs, threads), sep="\n")
        print(f"\n{STATES} random states\n\n| architecture | written as | s | states/s | MB/s |\n|---|---|---|---|---|")
        for architecture in ("cnn-s", "cnn-m"):
            print(*writers_table(Path(folder), architecture, options.rounds), sep="\n")
    print(f"\nload average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
