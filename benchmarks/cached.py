"""What it costs to compare the hashes of the cache of decoded files: `load_zoo` with and without them, by turns.

python benchmarks/cached.py --out DIR      prints Markdown; a folder in DIR, on the disk to be measured, is made and
                                           removed
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from loading import EPOCHS, RECIPE, Job, lines, measured, prepared
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
    ids = [member.model_id for member in read_recipe(RECIPE).members("seed", epochs=EPOCHS)[:models]]
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
    with prepared(__doc__, rounds=15) as setting:
        columns = ["what", "hashes", "states", "ms", "CPU ms", "CPU µs a state", "x not compared, CPU (min to max)"]
        found = measured(jobs(str(setting.folder / "dataset"), setting.models), setting.rounds)
        print(markdown(columns, lines(found)))


if __name__ == "__main__":
    main()
