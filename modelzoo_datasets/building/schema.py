"""The columns of a dataset: one row per state, scalars first, weights last."""

from typing import Any

import pandas as pd
import pyarrow as pa

from ..recipes import Training

_KINDS = {int: pa.int32(), float: pa.float64(), str: pa.string()}
_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "ggap")
# What every config has in common comes first; hyper-parameters in the order of `Training`.
_FIELDS = (
    pa.field("model_id", pa.string()),
    pa.field("epoch", pa.int32()),
    pa.field("seed", pa.int64()),
    *(pa.field(name, _KINDS[kind]) for name, kind in Training.__annotations__.items()),
    *(pa.field(name, pa.float64()) for name in _METRICS),
    pa.field("sha256", pa.string()),
)
INDEX_SCHEMA = pa.schema(_FIELDS)


def schema(parameters: int) -> pa.Schema:
    """All columns; weights as a fixed-size list whose numbers cannot be null, which reads half again as fast."""
    element = pa.field("element", pa.float32(), nullable=False)
    return INDEX_SCHEMA.append(pa.field("weights", pa.list_(element, parameters)))


def rows_of(models: pd.DataFrame, states: pd.DataFrame) -> pd.DataFrame:
    """Join the two tables of a zoo folder: one row per state, in grid order, with every column of the index."""
    rows = states.merge(models, on="model_id", how="left", sort=False)
    return rows.sort_values(["index", "epoch"], kind="stable", ignore_index=True)


def features(arrow: pa.Schema) -> list[dict[str, Any]]:
    """The `features:` of a card's dataset_info, as the Hub writes them."""
    described: list[dict[str, Any]] = []
    for field in arrow:
        if pa.types.is_fixed_size_list(field.type):
            entry = {"name": field.name, "list": "float32", "length": field.type.list_size}
        else:
            entry = {"name": field.name, "dtype": str(field.type).replace("double", "float64")}
        described.append(entry)
    return described
