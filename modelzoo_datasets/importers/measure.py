"""Measurement of the metrics that originals did not record, on the images that the models were trained on."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .._util import METRIC_PREFIX, one_line
from ..engines import Engine, NetworkSpec
from ..errors import MissingImagesError, RecipeError
from ..images import Images, load_images
from ..progress import Progress
from ..zoo import STATES_FILE, ZOO_FILE, ZooFolder, write_json, write_table

_BATCH_BYTES = 200_000_000  # so many weights are measured together
_ACTIVATION = "tanh"  # for modules that take none
_log = logging.getLogger(__name__)


def measure_zoo(path: Path, engine: Engine, images_root: Path, progress: Progress) -> int:
    """Fill missing losses and accuracies in the table of states; what the originals recorded stays.

    A zoo that cannot be measured stays as it is, and a line says why.

    Args:
        path: A complete zoo folder, which no other process writes to.
        engine: Runs the networks.
        images_root: Folder of the image datasets.
        progress: Display of the states.

    Returns:
        The number of evaluations of a state on a split.
    """
    zoo = ZooFolder.open(path)
    try:
        networks = _read_networks(zoo)
        images = load_images(zoo.info.images, images_root)
    except (RecipeError, MissingImagesError) as error:
        _log.warning("nothing was measured: %s", one_line(error))
        return 0
    table, names, count = zoo.states.copy(), [], 0
    for split, prefix in METRIC_PREFIX.items():
        columns = [f"{prefix}_loss", f"{prefix}_acc"]
        table[columns] = table[columns].apply(pd.to_numeric, errors="coerce").astype("float64")
        rows = np.flatnonzero(table["finite"].astype(bool) & table[columns].isna().any(axis=1))
        if len(rows):
            names += [name for name in columns if table[name].iloc[rows].isna().any()]
            _fill_split(zoo, table, rows, networks, images, split, engine, progress)
            count += len(rows)
    if count:
        gap = pd.to_numeric(table["ggap"], errors="coerce").astype("float64")
        table["ggap"] = gap.fillna(table["train_acc"] - table["test_acc"])
        _write(zoo, table, names)
    return count


def _read_networks(zoo: ZooFolder) -> dict[str, NetworkSpec]:
    """Return the network of every model; raises RecipeError if there is none that engines can run."""
    architecture, networks = zoo.architecture, {}
    architecture.check_runnable()
    for model in zoo.models.to_dict("records"):
        activation = "" if pd.isna(model["activation"]) else str(model["activation"])
        architecture.check_activation(activation)
        dropout = 0.0 if pd.isna(model["dropout"]) else float(model["dropout"])
        networks[str(model["model_id"])] = NetworkSpec(activation or _ACTIVATION, dropout)
    return networks


def _fill_split(
    zoo: ZooFolder,
    table: pd.DataFrame,
    rows: np.ndarray,
    networks: dict[str, NetworkSpec],
    images: Images,
    split: str,
    engine: Engine,
    progress: Progress,
) -> None:
    """Fill the missing metrics of one split in these rows of the table."""
    size, prefix = max(1, _BATCH_BYTES // (4 * zoo.layout.size)), METRIC_PREFIX[split]
    with progress.start(f"measuring {split} metrics", len(rows)) as task:
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            keys = list(zip(table["model_id"].iloc[part], table["epoch"].iloc[part], strict=True))
            weights = torch.stack([zoo.weights(model, int(epoch)) for model, epoch in keys])
            specs = [networks[model] for model, _ in keys]
            measured = engine.evaluate(zoo.architecture.name, images, weights, specs, split)
            for name, values in ((f"{prefix}_loss", measured.loss), (f"{prefix}_acc", measured.accuracy)):
                known = table[name].iloc[part].to_numpy(dtype="float64")
                fresh = values.double().cpu().numpy()
                table.loc[table.index[part], name] = np.where(np.isnan(known) & np.isfinite(fresh), fresh, known)
            task.update(len(part))


def _write(zoo: ZooFolder, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Write zoo.json, which names what was measured here, and then the table."""
    info = zoo.info
    if info.import_info is not None:
        everything = tuple(dict.fromkeys((*info.import_info.measured_here, *names)))
        info = dataclasses.replace(info, import_info=dataclasses.replace(info.import_info, measured_here=everything))
    write_json(zoo.path / ZOO_FILE, info.to_json())
    write_table(zoo.path / STATES_FILE, table)
