"""What loading a published zoo costs, side by side: the limit, ours, `datasets`, and one pickled file per state.

python benchmarks/loading.py --out DIR      prints Markdown; a folder in DIR, on the disk to be measured, is made
                                            and removed
"""

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from machine import heading, load
from safetensors.torch import load_file, save_file
from tables import markdown
from torch import Tensor

from modelzoo_datasets import load_zoo
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.builder.config_writer import write_split
from modelzoo_datasets.builder.schema import TableSchema
from modelzoo_datasets.loading import stream_zoo
from modelzoo_datasets.recipes import read_recipe
from modelzoo_datasets.zoo import LEFT_OUT, DatasetInfo, RecipeInfo, ZooInfo, write_footers, write_json

RECIPE, ARCHITECTURE, EPOCHS = "fashion-mnist-cnn-s", "cnn-s", 50
PACKAGES = ("torch", "pyarrow", "datasets", "safetensors")
LIMIT = "safetensors, mapped, copied into one tensor: the limit"
_BATCH, _PICKLED = 1000, 500  # states
_LAYOUT = get_architecture(ARCHITECTURE).layout
_RANDOM, _LAST = 256, (5, 25)  # states, and epochs of every model

Job = Callable[[], int]  # some loading; returns how many states it gave


class Turn(NamedTuple):
    """A job done once."""

    seconds: float
    work: float  # CPU seconds of all threads: on a machine that does other work too they are the steadier measure
    states: int


def make(folder: Path, models: int) -> None:
    """One split as dataset folder, as one safetensors file, and some of its states as pickled state dicts."""
    rows, weights = _rows(models), _weights(models)
    columns = TableSchema(_LAYOUT.size, 10, twins=False)
    (folder / "dataset" / "seed").mkdir(parents=True)
    write_split(folder / "dataset" / "seed", "train", rows, columns, lambda part: weights[part.index.tolist()], _told)
    write_json(folder / "dataset" / "layout.json", _LAYOUT.to_json())
    zoo = ZooInfo(
        name=f"{RECIPE}/seed",
        architecture=ARCHITECTURE,
        images="fashion-mnist",
        recipe=RecipeInfo.from_recipe(read_recipe(RECIPE), "seed", epochs=EPOCHS),
        layout=_LAYOUT,
        images_sha256="",
        classes=10,
        engine="",
        versions={},
    )
    info = DatasetInfo(repo_id=None, card=None, diverged=LEFT_OUT, configs={"seed": zoo})
    write_json(folder / "dataset" / "zoo.json", info.to_json())
    write_footers(folder / "dataset")
    card = {"configs": [{"config_name": "seed", "data_files": [{"split": "train", "path": "seed/train-*"}]}]}
    (folder / "dataset" / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    save_file({"weights": weights}, folder / "all.safetensors")
    for i in range(min(_PICKLED, len(weights))):
        (folder / "trials" / str(i)).mkdir(parents=True)
        torch.save(_LAYOUT.unpack(weights[i].clone()), folder / "trials" / str(i) / "checkpoints")


def _told(path: Path, rows: pd.DataFrame) -> None:
    """What is written is not read back: that is for the build."""


def _rows(models: int) -> pd.DataFrame:
    """All columns that a zoo of this recipe has."""
    tables = []
    for member in read_recipe(RECIPE).members("seed", epochs=EPOCHS)[:models]:
        facts = {"model_id": member.model_id, "seed": member.seed, **dataclasses.asdict(member.training)}
        tables.append(pd.DataFrame({"epoch": range(EPOCHS + 1), **facts}))
    rows: pd.DataFrame = pd.concat(tables, ignore_index=True)
    draws = np.random.default_rng(0)
    for name in ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "ggap"):
        rows[name] = draws.random(len(rows))
    hashes = [draws.bytes(32).hex() for _ in range(len(rows))]
    return rows.assign(test_recall=list(draws.random((len(rows), 10))), finite=True, sha256=hashes)


def _weights(models: int) -> Tensor:
    """Trajectories that drift from random weights: they compress as trained ones do, to about four fifths."""
    draws = torch.Generator().manual_seed(0)
    steps = 0.01 * torch.randn(models, EPOCHS + 1, _LAYOUT.size, generator=draws)
    steps[:, 0] *= 10
    return steps.cumsum(dim=1).flatten(0, 1)


class Jobs:
    """All ways to load it, by name. What they give is thrown away, what they read stays in the page cache."""

    def __init__(self, folder: Path, models: int) -> None:
        import datasets  # reads at import where its own cache is

        datasets.disable_progress_bars()
        self._library, self._folder, self._source = datasets, folder, str(folder / "dataset")
        draws = np.random.default_rng(1)
        ids = [member.model_id for member in read_recipe(RECIPE).members("seed", epochs=EPOCHS)[:models]]
        count = min(_RANDOM, models)
        self._models = sorted(draws.choice(ids, count, replace=False).tolist())
        self._random = sorted(draws.choice(models * (EPOCHS + 1), count, replace=False).tolist())
        self._times = 0

    def everything(self) -> dict[str, Job]:
        """All states into one tensor."""
        return {
            LIMIT: lambda: len(torch.empty(self._mapped().shape).copy_(self._mapped())),
            "**load_zoo**, cached": self._ours,
            "**load_zoo**, first time": self._first,
            "**load_zoo**, no cache": lambda: self._ours(cache=False),
            '`load_dataset`, first time, `.with_format("torch")[:]`': self._plain_first,
            '`load_dataset`, later, `.with_format("torch")[:]`': lambda: len(self._plain()[:]["weights"]),
            '`load_dataset`, later, `.with_format("torch")["weights"][:]`': lambda: len(self._plain()["weights"][:]),
            f"one `torch.load` per state, of {_PICKLED} states": lambda: self._pickled(range(_PICKLED)),
        }

    def some(self) -> dict[str, Job]:
        """Some states."""
        return {
            **self._last(_LAST[0]),
            **self._last(_LAST[1]),
            "random states | safetensors, mapped, rows taken": lambda: len(self._mapped()[self._random]),
            "random states | **load_zoo**, cached": lambda: self._ours(models=self._models, epochs=[EPOCHS]),
            "random states | **load_zoo**, cached, two columns": lambda: self._ours(
                models=self._models, epochs=[EPOCHS], columns=["test_acc"]
            ),
            'random states | `load_dataset`, later, `.with_format("torch")[rows]`': lambda: len(
                self._plain()[self._random]["weights"]
            ),
            "random states | one `torch.load` per state": lambda: self._pickled(range(len(self._random))),
            f'stream of {_BATCH} | `load_dataset(streaming=True).with_format("torch")`': self._plain_stream,
            f"stream of {_BATCH} | **stream_zoo**": lambda: self._stream(cache=False),
            f"stream of {_BATCH} | **stream_zoo**, decoded weights cached": lambda: self._stream(cache=True),
        }

    def _last(self, count: int) -> dict[str, Job]:
        last = range(EPOCHS - count + 1, EPOCHS + 1)
        rows = torch.tensor([i for i in range(len(self._mapped())) if i % (EPOCHS + 1) in last])
        return {
            f"last {count} epochs | safetensors, mapped, rows taken": lambda: len(self._mapped()[rows]),
            f"last {count} epochs | **load_zoo**, cached": lambda: self._ours(epochs=last),
        }

    def _mapped(self) -> Tensor:
        return load_file(self._folder / "all.safetensors")["weights"]

    def _ours(self, **options: Any) -> int:
        return len(load_zoo(self._source, "seed", split="train", **options).weights)

    def _first(self) -> int:
        self._times += 1
        before, os.environ["MODELZOO_CACHE"] = os.environ["MODELZOO_CACHE"], str(self._folder / f"c{self._times}")
        try:
            return self._ours()
        finally:
            os.environ["MODELZOO_CACHE"] = before

    def _plain(self, **options: Any) -> Any:
        return self._library.load_dataset(self._source, "seed", split="train", **options).with_format("torch")

    def _plain_first(self) -> int:
        self._times += 1
        return len(self._plain(cache_dir=str(self._folder / f"d{self._times}"))[:]["weights"])

    def _pickled(self, numbers: Sequence[int]) -> int:
        paths = [path for i in numbers if (path := self._folder / "trials" / str(i) / "checkpoints").exists()]
        return len(torch.stack([_LAYOUT.pack(torch.load(path, weights_only=True)) for path in paths]))  # noqa: TID251

    def _stream(self, cache: bool) -> int:
        return sum(len(zoo.weights) for zoo in stream_zoo(self._source, "seed", batch_size=_BATCH, cache=cache))

    def _plain_stream(self) -> int:
        return sum(len(batch["weights"]) for batch in self._plain(streaming=True).iter(_BATCH))


def measured(jobs: dict[str, Job], rounds: int) -> dict[str, list[Turn]]:
    """Every job in every round; each begins with another one."""
    found: dict[str, list[Turn]] = {name: [] for name in jobs}
    for name, job in jobs.items():
        print(f"{name}: {job()} states", file=sys.stderr, flush=True)
    names = list(jobs)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin, worked = time.perf_counter(), time.process_time()
            states = jobs[name]()
            seconds, work = time.perf_counter() - begin, time.process_time() - worked
            found[name].append(Turn(seconds, work, states))
    return found


def lines(found: dict[str, list[Turn]]) -> list[list[str]]:
    """Per job: medians, and that of the ratios of CPU times per state to the first of its kind in the same round."""
    shown, kinds = [], {}
    for name, turns in found.items():
        base = kinds.setdefault(name.rpartition(" | ")[0], name)
        seconds, states = statistics.median(turn.seconds for turn in turns), turns[0].states
        work = statistics.median(turn.work for turn in turns)
        ratios = [(a.work / a.states) / (b.work / b.states) for a, b in zip(turns, found[base], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        times = [f"{1e3 * seconds:,.1f}", f"{1e3 * work:,.1f}", f"{1e6 * work / states:.1f}"]
        shown.append([*name.split(" | "), f"{states:,}", *times, spread])
    return shown


class Setting(NamedTuple):
    """What a benchmark of loading works on."""

    folder: Path  # of `make`
    models: int
    rounds: int


@contextmanager
def prepared(description: str | None, rounds: int) -> Iterator[Setting]:
    """The options, the lines before and after the tables, and the folder, which is removed at the end."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--models", type=int, default=600, help=f"of {EPOCHS + 1} states each")
    parser.add_argument("--quick", action="store_true", help="least work: its numbers mean nothing")
    options = parser.parse_args()
    rounds, models = (1, 4) if options.quick else (options.rounds, options.models)
    print(heading(torch.get_num_threads(), PACKAGES))
    print(f"load average at the start {load()}; medians of {rounds} rounds", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out) as name:
        os.environ |= {"MODELZOO_CACHE": f"{name}/cache", "HF_DATASETS_CACHE": f"{name}/datasets"}
        make(Path(name), models)
        total = 4e-6 * _LAYOUT.size * models * (EPOCHS + 1)
        print(f"\n{models * (EPOCHS + 1):,} states of {_LAYOUT.size:,} numbers, {total:,.0f} MB\n")
        yield Setting(Path(name), models, rounds)
    print(f"\nload average at the end {load()}")


def main() -> None:
    """Measure and print."""
    with prepared(__doc__, rounds=5) as setting:
        jobs = Jobs(setting.folder, setting.models)
        columns = ["states", "ms", "CPU ms", "CPU µs a state", "x limit in CPU time (min to max)"]
        print(markdown(["everything", *columns], lines(measured(jobs.everything(), setting.rounds))))
        columns[-1] = "x first line of its kind in CPU time (min to max)"
        print(f"\n{markdown(['what', 'how', *columns], lines(measured(jobs.some(), setting.rounds)))}")


if __name__ == "__main__":
    main()
