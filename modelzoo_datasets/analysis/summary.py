"""The statistics that are stored in a zoo folder, for its card and for further analysis."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..engines import Engine, NetworkSpec, get_engine, one_thread
from ..images import Images
from ..progress import NO_PROGRESS, Progress
from ..zoo import PAIRS_FILE, STATISTICS_FILE, ZooFolder, read_json, read_table, write_json, write_table
from .similarity import agreement, cka, summarize_pairs, weight_distances
from .statistics import accuracy_spread, layer_statistics

MEASURES = ("agreement", "cka", "l2", "cosine")
STATISTICS_FORMAT = "modelzoo-statistics-1"
_MAX_MODELS = 200  # models that are compared with each other, in 19,900 pairs
_MAX_BYTES = 1_000_000_000  # size of their weights, and of their outputs
_FEW_IMAGES = 200_000  # below this number, starting worker processes takes longer than the computation


def write_statistics(zoo: ZooFolder, engine: Engine, images: Images, *, progress: Progress = NO_PROGRESS) -> bool:
    """Write the statistics of a zoo folder, unless they are up to date.

    `statistics.json` contains the accuracy per epoch, the weights per layer and a summary of all pairs of up to 200
    models, evenly spaced in the grid, after their last epoch. `pairs.parquet` contains the pairs. Diverged models are
    left out.

    Args:
        zoo: The zoo folder.
        engine: Computes the outputs of the models.
        images: The images of the zoo.
        progress: Receives one task for the models to compare.

    Returns:
        False if the statistics were up to date.
    """
    path = zoo.path / STATISTICS_FILE
    is_current = path.is_file() and read_json(path).get("states_sha256") == _hash_states(zoo)
    if is_current and (zoo.path / PAIRS_FILE).is_file():
        return False
    pairs, statistics = compute_statistics(zoo, engine, images, progress=progress)
    write_table(zoo.path / PAIRS_FILE, pairs)
    write_json(path, statistics)
    return True


def compute_statistics(
    zoo: ZooFolder, engine: Engine, images: Images, *, progress: Progress = NO_PROGRESS
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the table of pairs and the content of `statistics.json`; arguments as for `write_statistics`."""
    with one_thread():  # so that the bits do not depend on the number of cores
        return _compute_statistics(zoo, engine, images, progress)


def describe_tables(zoo: ZooFolder) -> dict[str, Any]:
    """Return the part of `statistics.json` that follows from the tables alone."""
    sound = zoo.models[~zoo.models["diverged"]]
    return {
        "format": STATISTICS_FORMAT,
        "states_sha256": _hash_states(zoo),
        "models": len(zoo.models),
        "diverged": len(zoo.models) - len(sound),
        "epochs": _to_records(accuracy_spread(zoo.states[zoo.states["model_id"].isin(sound["model_id"])])),
    }


def _hash_states(zoo: ZooFolder) -> str:
    return hashlib.sha256("".join(zoo.states["sha256"]).encode()).hexdigest()


def _compute_statistics(
    zoo: ZooFolder, engine: Engine, images: Images, progress: Progress
) -> tuple[pd.DataFrame, dict[str, Any]]:
    sound = zoo.models[~zoo.models["diverged"]]
    states = zoo.states[zoo.states["model_id"].isin(sound["model_id"])]
    selected = _select_models(zoo, images, sound)
    result = describe_tables(zoo)
    result |= {"compared": len(selected), "epochs": result.pop("epochs")}  # in this order in the file
    if selected.empty:
        return _tabulate_pairs([], {}), {**result, "layers": [], "pairs": {}}
    last = states.groupby("model_id")["epoch"].max()
    weights = torch.stack([zoo.weights(model, int(last[model])) for model in selected["model_id"]])
    outputs = _compute_logits(zoo, engine, images, weights, selected, progress)
    l2, cosine = weight_distances(weights)
    matrices = {"agreement": agreement(outputs.argmax(dim=2)), "cka": cka(outputs), "l2": l2, "cosine": cosine}
    summary = {name: _replace_nan(summarize_pairs(matrix)) for name, matrix in matrices.items()}
    layers = _to_records(layer_statistics(weights, zoo.layout))
    return _tabulate_pairs(list(selected["model_id"]), matrices), {**result, "layers": layers, "pairs": summary}


def _select_models(zoo: ZooFolder, images: Images, models: pd.DataFrame) -> pd.DataFrame:
    """Return models that are evenly spaced in the grid, no more than can be compared with each other."""
    model_bytes = 4 * max(zoo.layout.size, len(images.labels("test")) * images.classes)
    n = max(1, min(_MAX_MODELS, _MAX_BYTES // model_bytes))
    return models if len(models) <= n else models.iloc[[i * len(models) // n for i in range(n)]]


def _compute_logits(
    zoo: ZooFolder, engine: Engine, images: Images, weights: Tensor, models: pd.DataFrame, progress: Progress
) -> Tensor:
    """Return the logits (N, B, C) of the models on the test images."""
    zoo.architecture.check_runnable()
    n, b = len(models), len(images.labels("test"))
    # A few images are not worth processes; a GPU stays the one that the caller has chosen.
    engine = get_engine(engine.name, 1) if n * b < _FEW_IMAGES and engine.name != "cuda" else engine
    columns = zip(models["activation"], models["dropout"], strict=True)
    networks = [NetworkSpec(str(activation), float(dropout)) for activation, dropout in columns]
    result = torch.empty(n, b, images.classes)
    outputs = engine.compute_logits(zoo.architecture.name, images, weights, networks, "test")
    with progress.start("comparing models", n) as task:
        for index, logits in outputs:
            result[index] = logits
            task.update()
    return result


def _tabulate_pairs(models: Sequence[str], matrices: dict[str, Tensor]) -> pd.DataFrame:
    """Return one row per unordered pair of different models."""
    first, second = torch.triu_indices(len(models), len(models), offset=1)
    columns = {"model_a": [models[i] for i in first], "model_b": [models[i] for i in second]}
    values: dict[str, Any] = {n: matrices[n][first, second].numpy() if matrices else [] for n in MEASURES}
    return pd.DataFrame({**columns, **values})


def read_statistics(folder: Path) -> tuple[dict[str, Any], pd.DataFrame] | None:
    """Return the statistics in a zoo folder and the table of pairs, or None if the folder has none."""
    if not (folder / STATISTICS_FILE).is_file() or not (folder / PAIRS_FILE).is_file():
        return None
    return read_json(folder / STATISTICS_FILE), read_table(folder / PAIRS_FILE)


def _to_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [_replace_nan({str(k): v for k, v in row.items()}) for row in table.to_dict("records")]


def _replace_nan(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with None instead of NaN, for JSON."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
