"""What it costs to compare the hashes of the cache of decoded files: `load_zoo` with and without them, by turns.

python benchmarks/cached.py --out DIR      prints Markdown; a folder in DIR, on the disk to be measured, is made and
                                           removed
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from loading import EPOCHS, PACKAGES, Job, lines, make, measured
from machine import heading, load
from tables import markdown

from modelzoo_datasets import load_zoo
from modelzoo_datasets.loading import CachedShard
from modelzoo_datasets.recipes import read_recipe

_RANDOM = 256  # models, of which one state each is loaded


@contextmanager
def unchecked() -> Iterator[None]:
    """Weights are copied whatever their hashes are."""
    check = CachedShard.check_rows
    CachedShard.check_rows = lambda self, rows: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        CachedShard.check_rows = check  # type: ignore[method-assign]


def jobs(source: str, models: int) -> dict[str, Job]:
    """By name: some states, loaded without and with a look at their hashes."""
    ids = [member.model_id for member in read_recipe("fashion-mnist-cnn-s").members("seed", epochs=EPOCHS)[:models]]
    some = sorted(np.random.default_rng(1).choice(ids, min(_RANDOM, models), replace=False).tolist())
    wishes = {
        "everything": {},
        "last 25 epochs": {"epochs": range(EPOCHS - 24, EPOCHS + 1)},
        "random states": {"models": some, "epochs": [EPOCHS]},
    }
    found: dict[str, Job] = {}
    for name, options in wishes.items():

        def checked(options: dict[str, object] = options) -> int:
            return len(load_zoo(source, "seed", split="train", **options).weights)  # type: ignore[arg-type]

        def plain(options: dict[str, object] = options) -> int:
            with unchecked():
                return checked(options)

        found |= {f"{name} | not compared": plain, f"{name} | compared": checked}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", type=int, default=600, help="of 51 states each")
    parser.add_argument("--quick", action="store_true", help="least work: its numbers mean nothing")
    options = parser.parse_args()
    rounds, models = (1, 4) if options.quick else (options.rounds, options.models)
    print(heading(torch.get_num_threads(), PACKAGES))
    print(f"load average at the start {load()}; medians of {rounds} rounds\n", flush=True)
    with tempfile.TemporaryDirectory(dir=options.out) as name:
        os.environ["MODELZOO_CACHE"] = f"{name}/cache"
        make(Path(name), models)
        columns = ["what", "hashes", "states", "ms", "CPU ms", "CPU µs a state", "x not compared, CPU (min to max)"]
        print(markdown(columns, lines(measured(jobs(f"{name}/dataset", models), rounds))))
    print(f"\nload average at the end {load()}")


if __name__ == "__main__":
    main()
