"""Format `small-cnn-zoo`: the Small CNN Zoo (2002.11448): one array of all states, one table, one layout.

weights.npy      float32 (S, P), a row per state
metrics.csv.gz   a row per state, in the same order: model (modeldir), step, config.*, accuracies and losses
layout.csv       varname, shape, start_idx, end_idx of every variable in a row, in TensorFlow's order of axes

S states, P numbers of a state.
"""

import io
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
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
from .archives import DAMAGED, Source
from .base import ImportedModel, ImportedState, Overrides
from .naming import check_images, named
from .npy_rows import check_rows, read_rows
from .ray_tune import known_number, metrics_of, number_of
from .skip_report import Skipped, SkipReport

_FILES = ("weights.npy", "metrics.csv.gz", "layout.csv")
_IMAGES = {"mnist": "mnist-centred", "fashion_mnist": "fashion-mnist", "cifar10": "cifar10", "svhn_cropped": "svhn-32"}
_FAMILY = "small-cnn"
_BATCH_SIZE = 512  # of all models
_METRICS = {"train_loss": "train_loss", "train_acc": "train_accuracy", "test_loss": "test_loss"} | {
    "test_acc": "test_accuracy"
}
_MORE = ("init_std", "train_fraction", "b_init", "l2reg")  # kept in zoo.json beside what every model here has
# Of the training images there they took others, and losses there have the L2 penalty in them.
_MEASURED_OTHERWISE = ("train", "test_loss")
_NFN_SEED, _NFN_TEST, _NFN_TRAIN = 0, 0.5, 0.8


class SmallCnnZoo:
    """See `Collection`."""

    def __init__(self, source: Source, claims: Overrides, progress: Progress) -> None:
        """Read the table and the layout.

        Raises:
            FormatError: a file is missing or damaged, or they do not go together.
            RecipeError: what was claimed does not exist.
        """
        self.source, self.refusals, self._from = source.name, SkipReport(), source
        self._paths = _find(source, claims.inside)
        table, self._states = _table(source, self._paths["metrics.csv.gz"])
        dataset = str(_one(source, table, "config.dataset"))
        images = claims.images or _IMAGES.get(dataset)
        if images is None:
            raise FormatError(f"{source.name}: unknown images {dataset!r}; say with --images which they are")
        described = get_image_dataset(images)
        self.architecture = (
            get_architecture(claims.architecture)
            if claims.architecture
            else resolve_architecture(_FAMILY, described.input_shape, described.classes)
        )
        check_images(images, self.architecture)
        self.identity = named(claims.name or f"{dataset.replace('_', '-')}-{_FAMILY}/hyp", images, _MEASURED_OTHERWISE)
        check_rows(source, self._paths["weights.npy"], (self._states, self.architecture.layout.size))
        self._order = _order_of_axes(source, self._paths["layout.csv"], self.architecture.layout)
        splits = {} if claims.splits is None else nfn_splits(claims.splits, table, self._states)
        self.models, self._rows = self._described(table, splits)

    def _described(
        self, table: pd.DataFrame, splits: Mapping[str, str]
    ) -> tuple[list[ImportedModel], list[dict[int, int]]]:
        """The models in the order of their first rows, and of each {epoch: row}."""
        models, places = [], []
        for name, rows in table.groupby("modeldir", sort=False):
            if splits and name not in splits:
                self.refusals.add("model that the splits do not name", str(name))
                continue
            place = dict(sorted(zip(rows["step"].astype(int).tolist(), rows.index.tolist(), strict=True)))
            records = {int(row["step"]): {str(k): v for k, v in row.items()} for row in rows.to_dict("records")}
            try:
                models.append(_original(str(name), records, tuple(place), splits.get(str(name))))
                places.append(place)
            except (Skipped, ValueError) as reason:
                self.refusals.add(f"model whose row says: {reason}", str(name))
        if not models:
            raise FormatError(f"no model of {self.source} can be imported: {'; '.join(self.refusals.lines())}")
        return models, places

    def states(self, chosen: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        """See `Collection`."""
        wanted = [list(self._rows[index].values()) for index in chosen]
        shape = (self._states, self.architecture.layout.size)
        for place, rows in read_rows(self._from, self._paths["weights.npy"], shape, wanted):
            index, states = chosen[place], []
            for (epoch, row), content in zip(self._rows[chosen[place]].items(), rows, strict=True):
                if content is None:
                    self.refusals.add("state behind the place where weights.npy is cut off", f"row {row}")
                else:
                    states.append(ImportedState(epoch, _in_our_order(content, self._order)))
            yield index, states


def _in_our_order(row: np.ndarray[Any, Any], order: Tensor) -> Tensor:
    return torch.from_numpy(row)[order]


def _find(source: Source, inside: str | None) -> dict[str, str]:
    """File -> path, all three in one folder."""
    folders = {path.rpartition("/")[0] for path in source.sizes if path.rpartition("/")[2] == _FILES[0]}
    if inside is not None:
        folders &= {inside.strip("/")}
    if len(folders) != 1:
        found = f"in {len(folders)} folders; name one with --inside" if folders else "missing"
        raise FormatError(f"{source.name} is no zoo of format small-cnn-zoo: {_FILES[0]} is {found}")
    folder = next(iter(folders))
    paths = {name: f"{folder}/{name}".lstrip("/") for name in _FILES}
    if missing := [name for name, path in paths.items() if path not in source.sizes]:
        raise FormatError(f"{source.name} is no zoo of format small-cnn-zoo: {', '.join(missing)} is missing")
    return paths


def _read_csv(source: Source, path: str, **options: Any) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pd.read_csv(io.BytesIO(source.read(path)), **options)
        return table
    except (Skipped, *DAMAGED, ValueError) as error:
        raise FormatError(f"cannot read {path} of {source.name}: {one_line(error)}; download it again") from error


def _check_cells(table: pd.DataFrame, where: str, texts: Sequence[str], numbers: Sequence[str]) -> None:
    """Raise FormatError for the first row that has nothing in a column of texts, or no number of a row or epoch."""
    for name in (*texts, *numbers):
        cells = pd.to_numeric(table[name], errors="coerce") if name in numbers else table[name]
        wrong = (cells % 1 != 0) | (cells < 0) if name in numbers else cells.isna()
        if wrong.any():
            row, value = wrong.idxmax(), table.loc[wrong, name].tolist()[0]
            what = "a whole number from 0" if name in numbers else "a name"
            raise FormatError(f"{where}: {name} of row {row} must be {what}, got {value!r}; download it again")


def _table(source: Source, path: str) -> tuple[pd.DataFrame, int]:
    """Every state once, its index being its row in weights.npy; and how many rows that has."""
    table = _read_csv(source, path, compression="gzip")
    needed = ("modeldir", "step", "config.dataset", "config.activation", *_METRICS.values())
    if missing := [name for name in needed if name not in table]:
        raise FormatError(f"{path} of {source.name} has no columns {', '.join(missing)}")
    _check_cells(table, f"{path} of {source.name}", ["modeldir"], ["step"])
    return table.drop_duplicates(["modeldir", "step"], keep="last"), len(table)


def _one(source: Source, table: pd.DataFrame, column: str) -> Any:
    values = table[column].unique().tolist()
    if len(values) != 1:
        raise FormatError(f"one zoo is of one {column}, {source.name} has {', '.join(map(str, values))}")
    return values[0]


def _original(
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
        lr=known_number(config, "learning_rate"),
        weight_decay=number_of(config.get("l2reg")) or 0.0,
        dropout=number_of(config.get("dropout")) or 0.0,
        momentum=0.0,
    )
    more = {key: None if pd.isna(value) else value for key in _MORE if (value := config.get(key)) is not None}
    return ImportedModel(
        origin=name,
        seed=int(number_of(config.get("random_seed")) or 0),
        training=training,
        metrics={epoch: metrics_of(record, _METRICS) for epoch, record in records.items()},
        epochs=epochs,
        split=split,
        more=more,
    )


def _order_of_axes(source: Source, path: str, ours: Layout) -> Tensor:
    """(P,) place in a published row of every number of our layout; TensorFlow's kernels are (H, W, I, O) and (I, O)."""
    layout, order = _read_csv(source, path), torch.full((ours.size,), -1)
    if missing := [name for name in ("varname", "shape", "start_idx", "end_idx") if name not in layout]:
        raise FormatError(f"{path} of {source.name} has no columns {', '.join(missing)}")
    _check_cells(layout, f"{path} of {source.name}", ["varname"], ["start_idx", "end_idx"])
    modules = list(dict.fromkeys(slot.module for slot in ours.slots))
    layers = list(dict.fromkeys(str(name).rpartition("/")[0] for name in sorted(layout["varname"], key=_layer_number)))
    slots = {slot.name: slot for slot in ours.slots}
    kinds: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "kernel:0": ("weight", lambda t: t.permute(3, 2, 0, 1) if t.ndim == 4 else t.mT),
        "bias:0": ("bias", lambda t: t),
    }
    for variable in layout.to_dict("records"):
        layer, _, last = str(variable["varname"]).rpartition("/")
        shape = tuple(int(size) for size in re.findall(r"\d+", str(variable["shape"])))
        places = torch.arange(ours.size)[int(variable["start_idx"]) : int(variable["end_idx"])]
        slot = None
        if last in kinds and len(layers) == len(modules) and places.numel() == int(np.prod(shape)):
            name, turned = kinds[last]
            slot = slots.get(f"{modules[layers.index(layer)]}.{name}")
            found = turned(places.reshape(shape))
        if slot is None or tuple(found.shape) != slot.shape:
            raise FormatError(
                f"{path} of {source.name} is the layout of another architecture: {variable['varname']} has shape "
                f"{shape}; name the right one with --architecture, or register it with --plugin"
            )
        order[slot.start : slot.stop] = found.flatten()
    if sorted(order.tolist()) != list(range(ours.size)):
        raise FormatError(f"{path} of {source.name} does not say where every weight is: it lacks or repeats some")
    return order


def _layer_number(varname: str) -> tuple[bool, int]:
    """Convolutions before dense layers, each in the order of their numbers: conv2d, conv2d_1, ..., dense."""
    layer = varname.rpartition("/")[0].rpartition("/")[2]
    digits = re.search(r"_(\d+)$", layer)
    return layer.startswith("dense"), int(digits[1]) if digits else 0


def nfn_splits(path: Path, table: pd.DataFrame, states: int) -> dict[str, str]:
    """modeldir -> split as 2302.14040 has them: their CSV permutes all rows, those of the last step are split.

    The first half is trained on, 80 % of it for training and the rest for validation; the second half is for testing.

    Raises:
        FormatError: the file is no permutation of the rows of the table.
    """
    try:
        rows = pd.read_csv(path, header=None).to_numpy().flatten().tolist()
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot read splits {path}: {error}") from error
    # As published they begin with a header, 0, which the published code takes for a row: so it is one here.
    if sorted(rows[1:] if len(rows) == states + 1 and rows[0] == 0 else rows) != list(range(states)):
        raise FormatError(f"{path} is no permutation of {states:,} rows, so not the splits of this zoo")
    last = table[table["step"] == table["step"].max()]["modeldir"].to_dict()
    models = [str(last[row]) for row in rows if row in last]
    half = int(_NFN_TEST * len(models))
    trained = list(range(half))
    random.Random(_NFN_SEED).shuffle(trained)
    until = int(_NFN_TRAIN * half)
    return (
        {models[i]: "train" for i in trained[:until]}
        | {models[i]: "validation" for i in trained[until:]}
        | dict.fromkeys(models[half:], "test")
    )
