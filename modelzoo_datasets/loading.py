"""A published zoo as one tensor, one table and plain modules."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import torch
from torch import Tensor, nn

from .architectures import Architecture, get_architecture, module_from_vector
from .errors import FormatError
from .layout import Layout
from .recipes import Training
from .states import DATASET_FORMAT, read_json

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """N states of one architecture: weights (N, P), one row of `table` per state, and the layout of a vector."""

    weights: Tensor  # (N, P) float32
    table: pd.DataFrame  # model_id, epoch, hyper-parameters, metrics, split
    layout: Layout
    architecture: Architecture
    images: str  # name of the image dataset

    def __len__(self) -> int:
        return len(self.weights)

    def model(self, i: int) -> nn.Module:
        """State i as a plain module in eval mode."""
        row = self.table.iloc[i]
        return module_from_vector(
            self.architecture, self.weights[i], activation=str(row["activation"]), dropout=float(row["dropout"])
        )

    def training(self, i: int) -> Training:
        """The hyper-parameters that state i was trained with.

        Raises:
            RecipeError: it was trained elsewhere, in a way that is none of those here.
        """
        row = self.table.iloc[i]
        values = {field.name: row[field.name] for field in dataclasses.fields(Training)}
        plain = {k: v.item() if hasattr(v, "item") else v for k, v in values.items()}
        return Training(**plain)

    def select(self, chosen: pd.Series) -> "Zoo":
        """The states for which a boolean column, aligned with `table`, is true."""
        keep = torch.from_numpy(chosen.to_numpy(dtype=bool, copy=True))
        table = self.table[chosen.to_numpy()].reset_index(drop=True)
        return dataclasses.replace(self, weights=self.weights[keep], table=table)


def load_zoo(
    folder: str | Path,
    config: str | None = None,
    *,
    split: str | None = None,
    epochs: Iterable[int] | None = None,
) -> Zoo:
    """Load states of a dataset folder; only the files and rows that were asked for are read.

    Args:
        folder: what `modelzoo-build` wrote.
        config: the first one of the folder if not given.
        split: train, validation or test; all if not given.
        epochs: epochs to keep; all if not given.

    Raises:
        FormatError: no dataset folder, or nothing in it matches.
    """
    folder = Path(folder)
    epochs = None if epochs is None else list(epochs)  # read once per split
    if not (folder / "zoo.json").is_file():
        raise FormatError(f"{folder} is no dataset folder: it has no zoo.json; modelzoo-build makes one")
    facts = read_json(folder / "zoo.json")
    if not isinstance(facts, dict) or ("configs" not in facts and facts.get("format") == DATASET_FORMAT):
        raise FormatError(f"{folder / 'zoo.json'} is not what modelzoo-build writes; build the dataset again")
    if facts.get("format") != DATASET_FORMAT:
        raise FormatError(
            f"{folder} has format {facts.get('format')!r}, but load_zoo reads {DATASET_FORMAT!r}; "
            "modelzoo-build makes one from zoo folders"
        )
    configs: dict[str, Any] = facts["configs"]
    config = config if config is not None else next(iter(configs), "")
    if config not in configs:
        raise FormatError(f"{folder} has no config {config!r}; it has {', '.join(configs) or 'none'}")
    if split not in (None, *_SPLITS):
        raise FormatError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    layout = Layout.from_json(read_json(folder / "layout.json"))
    parts = [
        (name, _read_split(folder / config, name, epochs))
        for name in ([split] if split else _SPLITS)
        if list((folder / config).glob(f"{name}-*.parquet"))
    ]
    if not sum(part.num_rows for _, part in parts):
        raise FormatError(f"{folder}/{config} has no states of the split and epochs asked for")
    return Zoo(
        weights=torch.cat([_weights(part, layout.size) for _, part in parts]),
        table=_table(parts),
        layout=layout,
        architecture=get_architecture(configs[config]["architecture"]),
        images=configs[config]["images"],
    )


def _read_split(folder: Path, split: str, epochs: Iterable[int] | None) -> pa.Table:
    files = sorted(str(path) for path in folder.glob(f"{split}-*.parquet"))
    try:
        rows = pyarrow.dataset.dataset(files, format="parquet")
        chosen = None if epochs is None else pc.field("epoch").isin(list(epochs))
        return rows.to_table(filter=chosen)
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"cannot read {folder}/{split}-*.parquet: {error}") from error


def _weights(part: pa.Table, parameters: int) -> Tensor:
    """The weights column (n, P) without a detour through Python numbers."""
    weights = torch.empty(part.num_rows, parameters)
    begin = 0
    for chunk in part.column("weights").chunks:
        rows = chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, parameters)
        weights[begin : begin + len(rows)] = torch.tensor(rows)
        begin += len(rows)
    return weights


def _table(parts: list[tuple[str, pa.Table]]) -> pd.DataFrame:
    frames = [part.drop_columns("weights").to_pandas().assign(split=name) for name, part in parts]
    table: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return table
