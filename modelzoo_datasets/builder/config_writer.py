"""Write the tables of one config, and its weights in them or beside them, each checked against the trained states."""

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from .._util import SPLITS
from ..progress import Progress, Task
from ..zoo import ByteRange, ZooFolder, assign_trajectory_files, write_trajectory
from .parquet import write_rows, write_split
from .readback import BackgroundChecker, check_table, check_trajectory
from .schema import BYTE_RANGE_FIELDS, TableSchema
from .shard_plan import split_by_model


def write_tables(
    zoo: ZooFolder, config: str, rows: pd.DataFrame, out: Path, progress: Progress
) -> tuple[TableSchema, dict[str, int]]:
    """Write `<config>/`, `<config>_index/` and, for large states, `weights/<config>/`, and read them back.

    Args:
        zoo: The zoo folder of the config.
        config: Name of the config.
        rows: One row per state, sorted by model and epoch.
        out: The dataset folder.
        progress: Display for the number of states that are written.

    Returns:
        The columns, and the bytes of each uncompressed table by `<folder>/<split>`.
    """
    schema = TableSchema.from_info(zoo.info)
    num_bytes = {}
    with progress.start(f"building {config}", len(rows)) as task, BackgroundChecker() as checker:
        writer = _ConfigWriter(zoo, config, out, schema, checker, task)
        for split in SPLITS:
            part: pd.DataFrame = rows[rows["split"] == split]
            if not len(part):
                continue
            write = writer.write_inline if schema.weights == "inline" else writer.write_files
            num_bytes[f"{config}/{split}"] = write(split, part)
            index = out / f"{config}_index" / f"{split}-00000-of-00001.parquet"
            num_bytes[f"{config}_index/{split}"] = write_rows(index, part, schema.index)
    return schema, num_bytes


class _ConfigWriter:
    """Writes the weights of one config split by split, while finished files are checked in the background."""

    def __init__(
        self, zoo: ZooFolder, config: str, out: Path, schema: TableSchema, checker: BackgroundChecker, task: Task
    ) -> None:
        self._zoo, self._config, self._out, self._schema = zoo, config, out, schema
        self._checker, self._task = checker, task

    def write_inline(self, split: str, rows: pd.DataFrame) -> int:
        """Write a split with the weights in its tables, and return the bytes of the uncompressed table."""

        def on_written(path: Path, shard: pd.DataFrame) -> None:
            self._checker.submit(lambda: check_table(path, shard, self._zoo))

        return write_split(self._out / self._config, split, rows, self._schema, self._read_weights, on_written)

    def _read_weights(self, rows: pd.DataFrame) -> Tensor:
        """Return the weights (K, P) of K rows of whole models."""
        weights, begin = torch.empty(len(rows), self._zoo.layout.size), 0
        for model in split_by_model(rows):
            out = weights[begin : begin + len(model)]
            self._zoo.read_trajectory(model["model_id"].iloc[0], model["epoch"].tolist(), out)
            begin += len(model)
        self._task.update(len(rows))
        return weights

    def write_files(self, split: str, rows: pd.DataFrame) -> int:
        """Write a split with the weights in one file per model, and return the bytes of the uncompressed table.

        One state at a time is in memory.
        """
        models = split_by_model(rows)
        files = assign_trajectory_files(self._config, split, [model["model_id"].iloc[0] for model in models])
        tables = []
        for model, (model_id, file) in zip(models, files.items(), strict=True):
            byte_ranges = self._write_model(model_id, model, self._out / file)
            columns = [(file, r.key, r.offset, r.nbytes) for r in byte_ranges]
            names = [field.name for field in BYTE_RANGE_FIELDS]
            tables.append(model.assign(**dict(zip(names, zip(*columns, strict=True), strict=True))))
        path = self._out / self._config / f"{split}-00000-of-00001.parquet"
        return write_rows(path, pd.concat(tables), self._schema.full)

    def _write_model(self, model_id: str, rows: pd.DataFrame, path: Path) -> list[ByteRange]:
        epochs = rows["epoch"].tolist()
        states = (self._zoo.weights(model_id, epoch) for epoch in epochs)
        byte_ranges = write_trajectory(path, self._zoo.layout, epochs, states)
        self._checker.submit(lambda: check_trajectory(path, rows, byte_ranges, self._zoo))
        self._task.update(len(rows))
        return byte_ranges
