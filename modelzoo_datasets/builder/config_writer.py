"""Write the tables of one config, and the weights in them or beside them, each checked against what was trained."""

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from .._util import SPLITS
from ..progress import Progress, Task
from ..zoo import ByteRange, ZooFolder
from .parquet import write_rows, write_split
from .readback import Behind, check_table, check_trajectory
from .schema import Columns
from .sharding import models_of
from .weight_shards import write_weights


def write_tables(
    folder: ZooFolder, name: str, rows: pd.DataFrame, out: Path, progress: Progress
) -> tuple[Columns, dict[str, int]]:
    """Write `<name>/`, `<name>_index/` and perhaps `weights/<name>/` below `out`; what is written is read back.

    Returns:
        The columns, and by `<folder>/<split>` the bytes of the uncompressed table.
    """
    columns = Columns.of(folder.info)
    num_bytes = {}
    with progress.start(f"building {name}", len(rows)) as task, Behind() as behind:
        writing = _Writing(folder, name, out, behind, task)
        for split in SPLITS:
            part: pd.DataFrame = rows[rows["split"] == split]
            if not len(part):
                continue
            write = writing.inline if columns.weights == "inline" else writing.files
            num_bytes[f"{name}/{split}"] = write(split, part, columns)
            index = out / f"{name}_index" / f"{split}-00000-of-00001.parquet"
            num_bytes[f"{name}_index/{split}"] = write_rows(index, part, columns.index)
    return columns, num_bytes


class _Writing:
    """The weights of one config on their way; what is written is checked behind it."""

    def __init__(self, folder: ZooFolder, name: str, out: Path, behind: Behind, task: Task) -> None:
        self._folder, self._name, self._out = folder, name, out
        self._behind, self._task = behind, task

    def inline(self, split: str, rows: pd.DataFrame, columns: Columns) -> int:
        """The weights of a split in its tables; returns the bytes of the uncompressed table."""

        def written(path: Path, shard: pd.DataFrame) -> None:
            self._behind.submit(lambda: check_table(path, shard, self._folder))

        return write_split(self._out / self._name, split, rows, columns, self._read, written)

    def files(self, split: str, rows: pd.DataFrame, columns: Columns) -> int:
        """The weights of a split in files beside its table; returns the bytes of the uncompressed table."""

        def written(path: Path, model: pd.DataFrame, places: list[ByteRange]) -> None:
            self._behind.submit(lambda: check_trajectory(path, model, places, self._folder))
            self._task.update(len(model))

        placed = write_weights(self._out, self._name, split, rows, self._folder, written)
        return write_rows(self._out / self._name / f"{split}-00000-of-00001.parquet", placed, columns.all)

    def _read(self, rows: pd.DataFrame) -> Tensor:
        """Weights (K, P) of K rows of whole models."""
        weights, begin = torch.empty(len(rows), self._folder.layout.size), 0
        for model in models_of(rows):
            out = weights[begin : begin + len(model)]
            self._folder.trajectory(model["model_id"].iloc[0], model["epoch"].tolist(), out)
            begin += len(model)
        self._task.update(len(rows))
        return weights
