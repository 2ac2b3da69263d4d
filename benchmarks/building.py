"""What building a dataset costs: zoo folders of both layouts -> Parquet, ours against what `datasets` offers; the
encoding alone, and what limits it. Every way runs in a process of its own, one after the other, in turns.

    python benchmarks/building.py --out DIR      prints Markdown; DIR, on the disk to be measured, is made and removed

The weights are really trained: `--trained` networks of the published settings, and as many again with their hidden
units in other orders as make up `--models` (the same function and the same numbers, so as hard to compress).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from machine import heading, load
from safetensors.torch import load_file
from tables import markdown
from torch import Tensor

from modelzoo_datasets import build_dataset
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.builder.config_writer import write_split
from modelzoo_datasets.builder.schema import TableSchema, join_rows
from modelzoo_datasets.engines import METRICS, Job, get_engine
from modelzoo_datasets.images import load_images
from modelzoo_datasets.recipes import read_recipe
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.symmetry import permute_units, sample_permutations
from modelzoo_datasets.zoo import STORAGES, RecipeInfo, ZooFolder, ZooInfo, ZooWriter

RECIPE, IMAGES, ARCHITECTURE = "fashion-mnist-cnn-s", "fashion-mnist-5k", "cnn-s"
CLASSES = 10


def trained(models: int, epochs: int, folder: Path) -> Tensor:
    """Trajectories (models, epochs + 1, P)."""
    members = read_recipe(RECIPE).members("seed", epochs=epochs)[:models]
    jobs = [Job(training=member.training, seed=member.seed) for member in members]
    weights = torch.empty(models, epochs + 1, get_architecture(ARCHITECTURE).layout.size)
    for states in get_engine("auto").train(ARCHITECTURE, load_images(IMAGES, folder), jobs, metrics_on=()):
        weights[states.jobs, states.epochs] = states.weights
    return weights


def write_zoo(folder: Path, storage: str, models: int, weights: Tensor) -> None:
    """A zoo folder of so many models, through the real writer."""
    epochs, recipe = weights.shape[1] - 1, read_recipe(RECIPE)
    layout, symmetry = get_architecture(ARCHITECTURE).layout, get_architecture(ARCHITECTURE).symmetry
    grid = recipe.members("seed", epochs=epochs)[:models]
    info = ZooInfo(
        name=f"{RECIPE}/seed",
        architecture=ARCHITECTURE,
        images=IMAGES,
        recipe=RecipeInfo.from_recipe(recipe, "seed"),
        layout=layout,
        images_sha256="",
        classes=CLASSES,
        engine="",
        versions={},
    )
    metrics, recall = dict.fromkeys(METRICS, 0.5), torch.full((CLASSES,), 0.5, dtype=torch.float64)
    with ZooWriter(folder, info.with_storage(storage)) as writer:
        for number, member in enumerate(grid):
            orders = sample_permutations(symmetry, 1, keyed_generator(member.seed, "benchmark"))
            same = [order.expand(epochs + 1, -1) for order in orders]
            for epoch, state in enumerate(permute_units(weights[number % len(weights)], symmetry, same)):
                writer.add(member, epoch, state, metrics, recall)
        writer.complete(grid)


def rows_in(zoo: Path) -> Any:
    """Its table of states, by model and epoch."""
    folder = ZooFolder.open(zoo)
    return join_rows(folder.models, folder.states)


def in_memory(zoo: Path) -> Tensor:
    """All weights (N, P)."""
    folder, rows = ZooFolder.open(zoo), rows_in(zoo)
    weights = torch.empty(len(rows), folder.layout.size)
    for model_id, part in rows.groupby("model_id", sort=False):
        folder.read_trajectory(str(model_id), part["epoch"].tolist(), weights[part.index[0] : part.index[-1] + 1])
    return weights


# Ways, each a function of (zoo, out) that prepares and returns what is timed.


def whole_build(zoo: Path, out: Path) -> Callable[[], object]:
    """As modelzoo-build does it: read, encode, read back, compare."""
    return lambda: build_dataset([zoo], out / "dataset")


def encoding(zoo: Path, out: Path) -> Callable[[], object]:
    """Our Parquet files alone, of weights in memory."""
    weights, rows = in_memory(zoo), rows_in(zoo)
    columns = TableSchema(weights.shape[1], CLASSES, twins=False)
    return lambda: _encode(out, rows, columns, weights)


def _encode(out: Path, rows: Any, columns: TableSchema, weights: Tensor) -> None:
    def of(part: Any) -> Tensor:
        return weights[int(part.index[0]) : int(part.index[-1]) + 1]

    write_split(out, "train", rows, columns, of, lambda path, shard: None)


def reading(zoo: Path, out: Path) -> Callable[[], object]:
    """All states read and put in memory."""
    return lambda: in_memory(zoo)


def planes(zoo: Path, out: Path) -> Callable[[], object]:
    """Byte planes of row groups compressed by zstd, nothing else."""
    weights, codec = in_memory(zoo), pa.Codec("zstd", 1)
    return lambda: [codec.compress(_planes(part)) for part in weights.split(1020)]


def _planes(weights: Tensor) -> bytes:
    return np.ascontiguousarray(weights.numpy().view(np.uint8).reshape(-1, 4).T).tobytes()


def plain_file(zoo: Path, out: Path) -> Callable[[], object]:
    """The same bytes in one file, flushed to disk."""
    content = in_memory(zoo).numpy()
    return lambda: _write_plain(out / "plain", content)


def _write_plain(path: Path, content: np.ndarray) -> None:
    with path.open("wb", buffering=0) as file:
        for begin in range(0, len(content), 1000):
            file.write(content[begin : begin + 1000].data)
        os.fsync(file.fileno())


def from_dict(zoo: Path, out: Path) -> Callable[[], object]:
    """Dataset.from_dict of an array in memory, to_parquet."""
    from datasets import Dataset, Features, List, Value

    weights = in_memory(zoo).numpy()
    features = Features({"epoch": Value("int32"), "weights": List(Value("float32"), length=weights.shape[1])})

    def work() -> None:
        content = {"epoch": np.arange(len(weights), dtype=np.int32), "weights": weights}
        Dataset.from_dict(content, features=features).to_parquet(out / "x.parquet")

    return work


def from_generator(zoo: Path, out: Path) -> Callable[[], object]:
    """Dataset.from_generator over the state files, to_parquet."""
    from datasets import Dataset, Features, List, Value

    folder = ZooFolder.open(zoo)
    slots, paths = folder.layout.slots, sorted((zoo / "states").rglob("*.safetensors"))
    features = Features({"epoch": Value("int32"), "weights": List(Value("float32"), length=folder.layout.size)})

    def states() -> Iterator[dict[str, Any]]:
        for path in paths:
            tensors = load_file(path)
            weights = torch.cat([tensors[slot.name].flatten() for slot in slots])
            yield {"epoch": int(path.stem.removeprefix("epoch-")), "weights": weights.numpy()}

    def work() -> None:
        dataset = Dataset.from_generator(states, features=features, cache_dir=str(out))
        dataset.to_parquet(out / "x.parquet")

    return work


WAYS: dict[str, tuple[str, Callable[[Path, Path], Callable[[], object]]]] = {  # label -> layout of the zoo, way
    **{f"**modelzoo-build**, {layout}": (layout, whole_build) for layout in STORAGES},
    "datasets: from_generator, to_parquet": ("states", from_generator),
    **{f"our reading alone, {layout}": (layout, reading) for layout in STORAGES},
    "**our encoding alone**": ("packed", encoding),
    "datasets: from_dict, to_parquet": ("packed", from_dict),
    "limit: zstd of byte planes": ("packed", planes),
    "limit: one plain file": ("packed", plain_file),
}


def _status(key: str) -> int:
    """Bytes, as the kernel tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def measure(label: str, zoos: Path, out: Path) -> dict[str, float]:
    """Of one way, in this process: seconds, CPU seconds of all threads, memory beyond what was there before, bytes."""
    layout, way = WAYS[label]
    torch.set_num_threads(1)
    work = way(zoos / layout, out)
    os.sync()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, begin, cpu = _status("VmRSS"), time.perf_counter(), time.process_time()
    work()
    found = {"wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    written = [p for p in out.rglob("*") if p.is_file() and p.suffix in (".parquet", "")]
    return {**found, "memory": _status("VmHWM") - before, "bytes": sum(path.stat().st_size for path in written)}


def in_turns(zoos: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Every way once a round."""
    found: dict[str, list[dict[str, float]]] = {label: [] for label in WAYS}
    for _ in range(rounds):
        for label, runs in found.items():
            out = zoos / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            command = [sys.executable, __file__, "--way", label, "--zoos", str(zoos), "--out", str(out)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(json.loads(result.stdout.splitlines()[-1]))
    return found


def line(label: str, runs: list[dict[str, float]], raw: int) -> list[str]:
    """Medians; of the rate per CPU second the best too, since other work on the same core slows the others down."""
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    rates = [raw / 1e6 / seconds for seconds in (middle["wall"], middle["cpu"], min(run["cpu"] for run in runs))]
    size = f"{middle['bytes'] / raw:.3f}" if middle["bytes"] else "-"
    return [label, f"{middle['wall']:.2f}", *(f"{rate:,.0f}" for rate in rates), f"{middle['memory'] / 1e6:,.0f}", size]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--trained", type=int, default=8, help="models that are really trained")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--zoos", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.zoos, options.out)))
        return
    print(heading(os.cpu_count() or 1, ("torch", "safetensors", "pyarrow", "datasets")))
    print(f"load average at the start {load()}; medians of {options.rounds} rounds", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        weights = trained(min(options.trained, options.models), options.epochs, Path(folder))
        for layout in STORAGES:
            write_zoo(Path(folder) / layout, layout, options.models, weights)
        raw = 4 * options.models * weights[0].numel()
        each = f"{weights.shape[1]} states of {weights.shape[2]} numbers"
        print(f"\n{options.models} models x {each}: {raw / 1e6:,.0f} MB\n")
        columns = ["way", "s", "MB/s", "MB per CPU second", "at best", "more memory MB", "size / raw"]
        found = in_turns(Path(folder), options.rounds)
        print(markdown(columns, [line(label, runs, raw) for label, runs in found.items()]))
    print(f"\nload average at the end {load()}")


if __name__ == "__main__":
    main()
