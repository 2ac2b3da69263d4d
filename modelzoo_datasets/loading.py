"""A published zoo as one tensor, one table and plain modules."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import torch
from torch import Tensor, nn

from .architectures import Architecture, architecture_of, module_from_vector
from .errors import FormatError
from .hub import fetch, repo_id_of
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
    source: str | Path,
    config: str | None = None,
    *,
    split: str | None = None,
    epochs: Iterable[int] | None = None,
    revision: str | None = None,
) -> Zoo:
    """Load states of a dataset; only the files and rows that were asked for are read, or downloaded.

    Args:
        source: a folder that `modelzoo-build` wrote, or a dataset repo such as `modelzoos/mnist-cnn-s`. Where
            there is a folder of that name, `hf://datasets/modelzoos/mnist-cnn-s` is the repo.
        config: the first one of the dataset if not given.
        split: train, validation or test; all if not given.
        epochs: epochs to keep; all if not given.
        revision: a branch, tag or commit of the repo; main if not given.

    Raises:
        FormatError: no dataset, or nothing in it matches.
        HubError: the repo is not there, may not be seen, or cannot be reached and is not in the cache.
        DiskFullError: there is no room for what was to be downloaded.
    """
    epochs = None if epochs is None else list(epochs)  # read once per split
    folder_with = _files_of(source, revision)
    facts = _read_facts(folder_with("zoo.json", "layout.json"), source, repo_id_of(source) is not None)
    configs: dict[str, Any] = facts["configs"]
    config = config if config is not None else next(iter(configs), "")
    if config not in configs:
        raise FormatError(f"{source} has no config {config!r}; it has {', '.join(configs) or 'none'}")
    if split not in (None, *_SPLITS):
        raise FormatError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    splits = [split] if split else _SPLITS
    folder = folder_with("zoo.json", "layout.json", *(f"{config}/{name}-*.parquet" for name in splits))
    layout = Layout.from_json(read_json(folder / "layout.json"))
    parts = [
        (name, _read_split(folder / config, name, epochs))
        for name in splits
        if list((folder / config).glob(f"{name}-*.parquet"))
    ]
    if not sum(part.num_rows for _, part in parts):
        raise FormatError(f"{source}/{config} has no states of the split and epochs asked for")
    return Zoo(
        weights=torch.cat([_weights(part, layout.size) for _, part in parts]),
        table=_table(parts),
        layout=layout,
        architecture=architecture_of(configs[config]),
        images=configs[config]["images"],
    )


def _files_of(source: str | Path, revision: str | None) -> Callable[..., Path]:
    """A function from the patterns of files that are wanted to a folder that has them."""
    repo_id = repo_id_of(source)
    if repo_id is not None:
        return lambda *patterns: fetch(repo_id, patterns, revision=revision)
    if revision is not None:
        raise FormatError(f"{source} is a folder, which has no revision {revision!r}")
    return lambda *patterns: Path(source)


def _read_facts(folder: Path, source: str | Path, of_the_hub: bool) -> dict[str, Any]:
    """zoo.json of a dataset; of what is on the Hub, every format has its tag."""
    if not (folder / "zoo.json").is_file():
        raise FormatError(f"{source} is no dataset folder: it has no zoo.json; modelzoo-build makes one")
    facts = read_json(folder / "zoo.json")
    if not isinstance(facts, dict) or ("configs" not in facts and facts.get("format") == DATASET_FORMAT):
        raise FormatError(f"{folder / 'zoo.json'} is not what modelzoo-build writes; build the dataset again")
    if facts.get("format") != DATASET_FORMAT:
        raise FormatError(
            f"{source} has format {facts.get('format')!r}, but load_zoo reads {DATASET_FORMAT!r}; "
            + (f"try revision={DATASET_FORMAT!r}" if of_the_hub else "modelzoo-build makes one from zoo folders")
        )
    return facts


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
