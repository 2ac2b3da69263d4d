"""Format `small-cnn-zoo`: the Small CNN Zoo (2002.11448): one array of all states, one table, one layout.

weights.npy      float32 (S, P), a row per state
metrics.csv.gz   a row per state, in the same order: model (modeldir), step, config.*, accuracies and losses
layout.csv       varname, shape, start_idx, end_idx of every variable in a row, in TensorFlow's order of axes

S states, P numbers of a state.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .._util import one_line
from ..architectures import get_architecture, resolve_architecture
from ..errors import FormatError
from ..images import get_image_dataset
from ..progress import Progress
from ..recipes import ExternalTraining
from ..weights import Layout
from ..zoo import read_plain_file
from .archives import Source
from .base import Identity, ImportedModel, ImportedState, ModelSource, Overrides, Skipped, SkipReport
from .compression import DAMAGED, gunzip
from .csv_table import parse_csv
from .identity import check_images, parse_zoo_name
from .ray_tune import parse_number, read_metrics, require_number

_FILES = ("weights.npy", "metrics.csv.gz", "layout.csv")
_IMAGES = {"mnist": "mnist-centred", "fashion_mnist": "fashion-mnist", "cifar10": "cifar10", "svhn_cropped": "svhn-32"}
_FAMILY = "small-cnn"
_BATCH_SIZE = 512  # all models
_METRICS = {"train_loss": "train_loss", "train_acc": "train_accuracy", "test_loss": "test_loss"} | {
    "test_acc": "test_accuracy"
}
_MORE = ("init_std", "train_fraction", "b_init", "l2reg")  # further hyper-parameters for zoo.json
# The authors measured on other training images, and their losses include the L2 penalty.
_INCOMPARABLE_METRICS = ("train", "test_loss")
_NFN_SEED, _NFN_TEST, _NFN_TRAIN = 0, 0.5, 0.8


class SmallCnnZoo(ModelSource):
    """The Small CNN Zoo; see `ModelSource`."""

    def __init__(self, source: Source, overrides: Overrides, progress: Progress) -> None:
        """Read the table and the layout.

        Raises:
            FormatError: A file is missing or damaged, or the files do not fit together.
            RecipeError: The architecture or the images of `overrides` do not exist.
        """
        self.source, self.skipped = source.name, SkipReport()
        paths = _find_files(source, overrides.inside)
        table, num_states = _read_table(source, paths["metrics.csv.gz"])
        dataset = str(_require_one(source, table, "config.dataset"))
        images = overrides.images or _IMAGES.get(dataset)
        if images is None:
            raise FormatError(f"{source.name}: unknown images {dataset!r}; name them with --images")
        dataset_info = get_image_dataset(images)
        self.architecture = (
            get_architecture(overrides.architecture)
            if overrides.architecture
            else resolve_architecture(_FAMILY, dataset_info.input_shape, dataset_info.classes)
        )
        check_images(images, self.architecture)
        recipe, config = parse_zoo_name(overrides.name or f"{dataset.replace('_', '-')}-{_FAMILY}/hyp")
        self.identity = Identity(
            recipe=recipe, config=config, images=images, incomparable_metrics=_INCOMPARABLE_METRICS
        )
        self._weights = _map_rows(source, paths["weights.npy"], (num_states, self.architecture.layout.size))
        self._order = _read_order(source, paths["layout.csv"], self.architecture.layout)
        splits = {} if overrides.splits is None else read_nfn_splits(overrides.splits, table, num_states)
        self.models, self._rows = self._collect_models(table, splits)

    def _collect_models(
        self, table: pd.DataFrame, splits: Mapping[str, str]
    ) -> tuple[list[ImportedModel], list[dict[int, int]]]:
        """Return the models in the order of their first rows, and for each model epoch -> row."""
        models, rows_by_epoch = [], []
        for name, rows in table.groupby("modeldir", sort=False):
            if splits and name not in splits:
                self.skipped.add("model that the splits do not name", str(name))
                continue
            place = dict(sorted(zip(rows["step"].astype(int).tolist(), rows.index.tolist(), strict=True)))
            records = {int(row["step"]): {str(k): v for k, v in row.items()} for row in rows.to_dict("records")}
            try:
                models.append(_make_model(str(name), records, tuple(place), splits.get(str(name))))
                rows_by_epoch.append(place)
            except (Skipped, ValueError) as reason:
                self.skipped.add(f"model whose row says: {reason}", str(name))
        if not models:
            raise FormatError(f"no model of {self.source} can be imported: {'; '.join(self.skipped.lines())}")
        return models, rows_by_epoch

    def read_states(self, models: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        for index in models:
            states = []
            for epoch, row in self._rows[index].items():
                if row < len(self._weights):
                    states.append(ImportedState(epoch, torch.from_numpy(np.array(self._weights[row]))[self._order]))
                else:
                    self.skipped.add("state behind the place where weights.npy is cut off", f"row {row}")
            yield index, states


def _map_rows(source: Source, path: str, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Map the rows (S, P) of an array that are on disk; they are fewer where it is cut off.

    Args:
        source: The originals.
        path: The array in it.
        shape: (S, P) by the table and the layout.

    Raises:
        FormatError: The file is not an array of float32 of this shape.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        place, offset = source.locate(path)
        with place.open("rb") as file:
            file.seek(offset)
            actual, by_columns, dtype = readers[np.lib.format.read_magic(file)](file)
            first = file.tell()
    except (*DAMAGED, ValueError, KeyError, TokenError) as error:
        raise FormatError(f"{path} is not a readable array of numpy: {one_line(error)}") from error
    if by_columns or dtype != np.dtype("<f4") or tuple(actual) != shape:
        raise FormatError(f"{path}: expected float32 of shape {shape}, got {dtype} of shape {tuple(actual)}")
    end = min(place.stat().st_size, offset + source.sizes[path])
    available = min(shape[0], max(0, end - first) // (4 * shape[1]))
    if not available:
        return np.empty((0, shape[1]), "<f4")
    return np.memmap(place, "<f4", "r", first, (available, shape[1]))


def _find_files(source: Source, inside: str | None) -> dict[str, str]:
    """Return file -> path of the three files, which lie in one folder."""
    folders = {path.rpartition("/")[0] for path in source.sizes if path.rpartition("/")[2] == _FILES[0]}
    if inside is not None:
        folders &= {inside.strip("/")}
    if len(folders) != 1:
        result = f"in {len(folders)} folders; name one with --inside" if folders else "missing; is --format right?"
        raise FormatError(f"{source.name} is not a zoo of format small-cnn-zoo: {_FILES[0]} is {result}")
    folder = next(iter(folders))
    paths = {name: f"{folder}/{name}".lstrip("/") for name in _FILES}
    if missing := [name for name, path in paths.items() if path not in source.sizes]:
        raise FormatError(
            f"{source.name} is not a zoo of format small-cnn-zoo: {', '.join(missing)} is missing; download it again"
        )
    return paths


def _read_csv(source: Source, path: str) -> pd.DataFrame:
    name = f"{path} of {source.name}"
    try:
        content = source.read(path)
        return parse_csv(gunzip(content, name) if path.endswith(".gz") else content, len(content), name)
    except FormatError:
        raise
    except (Skipped, *DAMAGED, ValueError) as error:
        raise FormatError(f"cannot read {path} of {source.name}: {one_line(error)}; download it again") from error


def _check_cells(table: pd.DataFrame, where: str, texts: Sequence[str], numbers: Sequence[str]) -> None:
    """Raise FormatError for the first row with an empty text, or without a whole number from 0."""
    for name in (*texts, *numbers):
        cells = pd.to_numeric(table[name], errors="coerce") if name in numbers else table[name]
        wrong = (cells % 1 != 0) | (cells < 0) if name in numbers else cells.isna()
        if wrong.any():
            row, value = wrong.idxmax(), table.loc[wrong, name].tolist()[0]
            what = "a whole number from 0" if name in numbers else "a name"
            raise FormatError(f"{where}: {name} of row {row} must be {what}, got {value!r}; download it again")


def _read_table(source: Source, path: str) -> tuple[pd.DataFrame, int]:
    """Return a row per state, indexed by its row in weights.npy, and the number of rows of weights.npy."""
    table = _read_csv(source, path)
    needed = ("modeldir", "step", "config.dataset", "config.activation", *_METRICS.values())
    if missing := [name for name in needed if name not in table]:
        raise FormatError(f"{path} of {source.name} has no columns {', '.join(missing)}")
    _check_cells(table, f"{path} of {source.name}", ["modeldir"], ["step"])
    return table.drop_duplicates(["modeldir", "step"], keep="last"), len(table)


def _require_one(source: Source, table: pd.DataFrame, column: str) -> Any:
    values = table[column].unique().tolist()
    if len(values) != 1:
        raise FormatError(f"a zoo has one {column}, but {source.name} has {', '.join(map(str, values))}")
    return values[0]


def _make_model(
    name: str, records: Mapping[int, Mapping[str, Any]], epochs: tuple[int, ...], split: str | None
) -> ImportedModel:
    row = next(iter(records.values()))
    config = {key.removeprefix("config."): value for key, value in row.items() if key.startswith("config.")}
    training = ExternalTraining(
        epochs=epochs[-1],
        batch_size=_BATCH_SIZE,
        activation=str(config["activation"]),
        init=str(config.get("w_init", "unknown")),
        optimizer=str(config.get("optimizer", "unknown")),
        lr=require_number(config, "learning_rate"),
        weight_decay=parse_number(config.get("l2reg")) or 0.0,
        dropout=parse_number(config.get("dropout")) or 0.0,
        momentum=0.0,
    )
    more = {key: None if pd.isna(value) else value for key in _MORE if (value := config.get(key)) is not None}
    return ImportedModel(
        origin=name,
        seed=int(parse_number(config.get("random_seed")) or 0),
        training=training,
        metrics={epoch: read_metrics(record, _METRICS) for epoch, record in records.items()},
        epochs=epochs,
        split=split,
        more=more,
    )


def _read_order(source: Source, path: str, target: Layout) -> Tensor:
    """Return (P,): the column of weights.npy for every number of the layout.

    Kernels of TensorFlow are (H, W, I, O) and (I, O).
    """
    layout, order = _read_csv(source, path), torch.full((target.size,), -1)
    if missing := [name for name in ("varname", "shape", "start_idx", "end_idx") if name not in layout]:
        raise FormatError(f"{path} of {source.name} has no columns {', '.join(missing)}")
    _check_cells(layout, f"{path} of {source.name}", ["varname"], ["start_idx", "end_idx"])
    modules = list(dict.fromkeys(slot.module for slot in target.slots))
    layers = list(dict.fromkeys(str(name).rpartition("/")[0] for name in sorted(layout["varname"], key=_layer_number)))
    slots = {slot.name: slot for slot in target.slots}
    kinds: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "kernel:0": ("weight", lambda t: t.permute(3, 2, 0, 1) if t.ndim == 4 else t.mT),
        "bias:0": ("bias", lambda t: t),
    }
    for variable in layout.to_dict("records"):
        layer, _, last = str(variable["varname"]).rpartition("/")
        shape = tuple(int(size) for size in re.findall(r"\d+", str(variable["shape"])))
        rows_by_epoch = torch.arange(target.size)[int(variable["start_idx"]) : int(variable["end_idx"])]
        slot = None
        if last in kinds and len(layers) == len(modules) and rows_by_epoch.numel() == int(np.prod(shape)):
            name, transpose = kinds[last]
            slot = slots.get(f"{modules[layers.index(layer)]}.{name}")
            result = transpose(rows_by_epoch.reshape(shape))
        if slot is None or tuple(result.shape) != slot.shape:
            raise FormatError(
                f"{path} of {source.name} is the layout of another architecture: {variable['varname']} has shape "
                f"{shape}; name the right one with --architecture, or register it with --plugin"
            )
        order[slot.start : slot.stop] = result.flatten()
    if sorted(order.tolist()) != list(range(target.size)):
        raise FormatError(f"{path} of {source.name} does not cover every weight exactly once")
    return order


def _layer_number(varname: str) -> tuple[bool, int]:
    """Return a sort key: convolutions before dense layers, each by number (conv2d, conv2d_1, ..., dense)."""
    layer = varname.rpartition("/")[0].rpartition("/")[2]
    digits = re.search(r"_(\d+)$", layer)
    return layer.startswith("dense"), int(digits[1]) if digits else 0


def read_nfn_splits(path: Path, table: pd.DataFrame, states: int) -> dict[str, str]:
    """Read the splits of 2302.14040: a CSV that permutes all rows, of which those of the last step are split.

    The first half is for training (80 %) and validation, the second half for testing.

    Args:
        path: The CSV.
        table: Row per state, with modeldir and step.
        states: Number of rows of weights.npy.

    Returns:
        modeldir -> split.

    Raises:
        FormatError: The file is not a permutation of the rows.
    """
    try:
        content = read_plain_file(path)
        rows = parse_csv(content, len(content), str(path), header=None).to_numpy().flatten().tolist()
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot read splits {path}: {error}") from error
    # The published file begins with a header, 0, that the published code reads as a row; so does this function.
    if sorted(rows[1:] if len(rows) == states + 1 and rows[0] == 0 else rows) != list(range(states)):
        raise FormatError(f"{path} is not a permutation of {states:,} rows, so it does not hold the splits of this zoo")
    last = table[table["step"] == table["step"].max()]["modeldir"].to_dict()
    models = [str(last[row]) for row in rows if row in last]
    middle = int(_NFN_TEST * len(models))
    trained = list(range(middle))
    random.Random(_NFN_SEED).shuffle(trained)
    until = int(_NFN_TRAIN * middle)
    return (
        {models[i]: "train" for i in trained[:until]}
        | {models[i]: "validation" for i in trained[until:]}
        | dict.fromkeys(models[middle:], "test")
    )
