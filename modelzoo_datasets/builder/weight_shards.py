"""Weights beside the tables: one file per model, and rows that say where in it each state lies."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ..zoo import ByteRange, ZooFolder, trajectory_files, write_trajectory
from .schema import PLACE
from .sharding import models_of


def write_weights(
    out: Path,
    config: str,
    split: str,
    rows: pd.DataFrame,
    zoo: ZooFolder,
    written: Callable[[Path, pd.DataFrame, list[ByteRange]], None],
) -> pd.DataFrame:
    """Write the files of a split; returns the rows with the columns `PLACE`. One state at a time is in memory.

    Args:
        out: the dataset folder.
        rows: one per state, sorted by model and epoch.
        written: told of every file that is finished, its rows and where their states lie.
    """
    models = models_of(rows)
    files = trajectory_files(config, split, [model["model_id"].iloc[0] for model in models])
    placed = []
    for model, (model_id, file) in zip(models, files.items(), strict=True):
        epochs = model["epoch"].tolist()
        states = (zoo.weights(model_id, epoch) for epoch in epochs)
        places = write_trajectory(out / file, zoo.layout, epochs, states)
        written(out / file, model, places)
        columns = [(file, place.key, place.offset, place.nbytes) for place in places]
        names = [field.name for field in PLACE]
        placed.append(model.assign(**dict(zip(names, zip(*columns, strict=True), strict=True))))
    return pd.concat(placed)
