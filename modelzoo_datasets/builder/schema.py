"""The columns of a dataset: one row per state, scalars first, then the weights or the place of the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from ..recipes import Training
from ..zoo import ZooInfo

_TRAINING_TYPES = {int: pa.int32(), float: pa.float64(), str: pa.string()}
_EXTRA_TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "ggap")
# The Hub's viewer shows rows of up to about 2 MB of JSON, 20 characters per number, 100 rows at a time.
MAX_INLINE_PARAMETERS = 100_000  # numbers per state in a table; larger states are in files beside the tables
WeightsLocation = Literal["inline", "files"]
_KEYS = (pa.field("model_id", pa.string()), pa.field("epoch", pa.int32()), pa.field("seed", pa.int64()))

# The place of a state's weights: the file below the dataset folder, the prefix of the names of its tensors in the
# file, and its range of bytes in the file.
BYTE_RANGE_FIELDS = (
    pa.field("weights_file", pa.string()),
    pa.field("weights_key", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("nbytes", pa.int64()),
)


def choose_weights_location(num_parameters: int) -> WeightsLocation:
    """Return whether the weights of states of this size are in the tables ("inline") or in files beside them."""
    return "inline" if num_parameters <= MAX_INLINE_PARAMETERS else "files"


@dataclass(frozen=True)
class TableSchema:
    """The columns of one config; hyperparameters in the order of `Training`."""

    num_parameters: int  # numbers per state
    num_classes: int
    twins: bool  # sparsified models, which have a parent and a sparsity
    weights: WeightsLocation = "inline"
    extra_columns: Mapping[str, str] = field(default_factory=dict)  # more columns of imported models -> their type
    extra_metrics: Sequence[str] = ()  # more metrics of imported states
    absent: frozenset[str] = frozenset()  # columns that are left out, because nothing recorded them
    has_fixed_recall: bool = False  # up to format 3, which PyArrow < 26 cannot read without any value

    @classmethod
    def from_info(cls, info: ZooInfo) -> "TableSchema":
        """Return all columns that a zoo can have."""
        return cls(
            info.layout.size,
            info.classes,
            twins=info.recipe.parent is not None,
            weights=info.weights or choose_weights_location(info.layout.size),
            extra_columns=info.recipe.columns,
            extra_metrics=info.recipe.metrics,
        )

    @property
    def optional(self) -> tuple[str, ...]:
        """The columns that are left out where no state has a value."""
        recall = ("test_recall",) if self.num_classes else ()
        return (*Training.__annotations__, *self.extra_columns, *_METRICS, *self.extra_metrics, *recall)

    def without_empty(self, rows: pd.DataFrame) -> "TableSchema":
        """Return the columns without those that have no value in any row, one row per state."""
        return replace(self, absent=frozenset(name for name in self.optional if rows[name].isna().all()))

    def as_stored(self, stored: pa.Schema) -> "TableSchema":
        """Return the columns as a file of an allowed form has them: optional ones may be absent."""
        recall = stored.field("test_recall").type if "test_recall" in stored.names else None
        absent = frozenset(name for name in self.optional if name not in stored.names)
        return replace(self, absent=absent, has_fixed_recall=recall is not None and pa.types.is_fixed_size_list(recall))

    @property
    def index(self) -> pa.Schema:
        """All columns without the weights and their place."""
        recall = pa.list_(pa.field("element", pa.float64()), self.num_classes if self.has_fixed_recall else -1)
        columns = pa.schema(
            [
                *_KEYS,
                *([pa.field("parent_id", pa.string())] if self.twins else []),
                *(pa.field(name, _TRAINING_TYPES[kind]) for name, kind in Training.__annotations__.items()),
                *(pa.field(name, _EXTRA_TYPES[kind]) for name, kind in self.extra_columns.items()),
                *(pa.field(name, pa.float64()) for name in (*_METRICS, *self.extra_metrics)),
                *([pa.field("sparsity", pa.float64())] if self.twins else []),
                *([pa.field("test_recall", recall)] if self.num_classes else []),
                pa.field("finite", pa.bool_()),
                pa.field("sha256", pa.string()),
            ]
        )
        return pa.schema([column for column in columns if column.name not in self.absent])

    @property
    def full(self) -> pa.Schema:
        """All columns. Weights are last, as a fixed-size list without nulls, which is read 1.5 times as fast."""
        if self.weights == "files":
            return pa.schema([*self.index, *BYTE_RANGE_FIELDS])
        element = pa.field("element", pa.float32(), nullable=False)
        weights = pa.list_(element, self.num_parameters)
        return self.index.append(pa.field("weights", weights, nullable=False))


def join_rows(models: pd.DataFrame, states: pd.DataFrame) -> pd.DataFrame:
    """Join the two tables of a zoo folder to one row per state, in the order of the grid, with all index columns."""
    rows = states.merge(models, on="model_id", how="left", sort=False)
    return rows.sort_values(["index", "epoch"], kind="stable", ignore_index=True)


def find_missing_epochs(rows: pd.DataFrame) -> dict[str, list[int]]:
    """Return for each model the epochs, up to its last one, that it lacks although other models have them."""
    epochs = sorted(rows["epoch"].unique().tolist())
    missing = {}
    for model_id, states in rows.groupby("model_id", sort=False):
        last, existing = states["epochs"].iloc[0], {*states["epoch"]}
        if lacking := [epoch for epoch in epochs if epoch <= last and epoch not in existing]:
            missing[str(model_id)] = lacking
    return missing


def describe_features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Return the `features:` of a card's `dataset_info`, as the Hub writes them."""
    features: list[dict[str, Any]] = []
    for column in schema:
        if pa.types.is_fixed_size_list(column.type):
            dtype, length = _name_dtype(column.type.value_type), column.type.list_size
            features.append({"name": column.name, "list": dtype, "length": length})
        elif pa.types.is_list(column.type):
            features.append({"name": column.name, "list": _name_dtype(column.type.value_type)})
        else:
            features.append({"name": column.name, "dtype": _name_dtype(column.type)})
    return features


def _name_dtype(kind: pa.DataType) -> str:
    """Return the name that `datasets` uses; Arrow has other names for floats."""
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
