"""The columns of a dataset: one row per state, scalars first, weights last, or where they lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from ..recipes import Training
from ..zoo import ZooInfo

_KINDS = {int: pa.int32(), float: pa.float64(), str: pa.string()}
_OWN = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "ggap")
# A row of the Hub's viewer is at most about 2 MB of JSON, at 20 characters a number; it shows 100 of them at a time.
MOST_INLINE = 100_000  # numbers of a state in a cell; larger ones are in files beside the tables
Weights = Literal["inline", "files"]
_HEAD = (pa.field("model_id", pa.string()), pa.field("epoch", pa.int32()), pa.field("seed", pa.int64()))


# Where the weights of a state lie: in which file below the dataset folder, under which first part of the names of its
# tensors, and which bytes of the file they are.
PLACE = (
    pa.field("weights_file", pa.string()),
    pa.field("weights_key", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("nbytes", pa.int64()),
)


def weights_kind(parameters: int) -> Weights:
    """Where the weights of states of so many numbers go."""
    return "inline" if parameters <= MOST_INLINE else "files"


@dataclass(frozen=True)
class Columns:
    """The columns of one config; hyper-parameters in the order of `Training`."""

    parameters: int  # numbers per state
    classes: int
    twins: bool  # sparsified models, which have a parent and a sparsity
    weights: Weights = "inline"  # in the table, or in files that it names
    own: Mapping[str, str] = field(default_factory=dict)  # of a population of any kind: more columns of models -> kind
    measured: Sequence[str] = ()  # and of states

    @classmethod
    def of(cls, zoo: ZooInfo) -> "Columns":
        """The columns of a zoo by its zoo.json."""
        recipe, size = zoo.recipe, zoo.layout.size
        return cls(
            size,
            zoo.classes,
            twins=recipe.parent is not None,
            weights=zoo.weights or weights_kind(size),
            own=recipe.columns,
            measured=recipe.metrics,
        )

    @property
    def index(self) -> pa.Schema:
        """All columns but the weights, or where they lie."""
        recall = pa.list_(pa.field("element", pa.float64()), self.classes or -1)
        return pa.schema(
            [
                *_HEAD,
                *([pa.field("parent_id", pa.string())] if self.twins else []),
                *(pa.field(name, _KINDS[kind]) for name, kind in Training.__annotations__.items()),
                *(pa.field(name, _OWN[kind]) for name, kind in self.own.items()),
                *(pa.field(name, pa.float64()) for name in (*_METRICS, *self.measured)),
                *([pa.field("sparsity", pa.float64())] if self.twins else []),
                *([pa.field("test_recall", recall)] if self.classes else []),
                pa.field("finite", pa.bool_()),
                pa.field("sha256", pa.string()),
            ]
        )

    @property
    def all(self) -> pa.Schema:
        """Weights last, as a fixed-size list; nothing in it can be null, which reads half again as fast."""
        if self.weights == "files":
            return pa.schema([*self.index, *PLACE])
        element = pa.field("element", pa.float32(), nullable=False)
        return self.index.append(pa.field("weights", pa.list_(element, self.parameters), nullable=False))


def rows_of(models: pd.DataFrame, states: pd.DataFrame) -> pd.DataFrame:
    """Join the two tables of a zoo folder: one row per state, in grid order, with every column of the index."""
    rows = states.merge(models, on="model_id", how="left", sort=False)
    return rows.sort_values(["index", "epoch"], kind="stable", ignore_index=True)


def missing_epochs(rows: pd.DataFrame) -> dict[str, list[int]]:
    """Model id -> epochs up to its last one of which other models have a state and it has none, as published."""
    every = sorted(rows["epoch"].unique().tolist())
    missing = {}
    for model_id, own in rows.groupby("model_id", sort=False):
        last, known = own["epochs"].iloc[0], {*own["epoch"]}
        if without := [epoch for epoch in every if epoch <= last and epoch not in known]:
            missing[str(model_id)] = without
    return missing


def features(arrow: pa.Schema) -> list[dict[str, Any]]:
    """The `features:` of a card's dataset_info, as the Hub writes them."""
    described: list[dict[str, Any]] = []
    for column in arrow:
        if pa.types.is_fixed_size_list(column.type):
            entry = {"name": column.name, "list": _dtype(column.type.value_type), "length": column.type.list_size}
        else:
            entry = {"name": column.name, "dtype": _dtype(column.type)}
        described.append(entry)
    return described


def _dtype(kind: pa.DataType) -> str:
    """As `datasets` calls it; Arrow prints other names for floats."""
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
