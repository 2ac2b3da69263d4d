"""What is wrong with a zoo, as far as its tables tell; a line for each, none where nothing is."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from ...engines import METRICS
from ...zoo import ZooInfo

_CHANCE = 1.1  # times the accuracy of guessing all classes equally often


def defects_of(
    zoo: ZooInfo,
    rows: pd.DataFrame,
    diverged: int,
    missing: Mapping[str, Sequence[int]],
    *,
    kept_diverged: bool,
) -> list[str]:
    """Known defects of one config.

    Args:
        zoo: its zoo.json.
        rows: one per published state.
        diverged: models with weights that are not finite, published or not.
        missing: model -> epochs of which others have a state and it has none.
    """
    last = rows[rows["epoch"] == rows.groupby("model_id")["epoch"].transform("max")]
    found = [
        *_missing_models(zoo, rows["model_id"].nunique() + (0 if kept_diverged else diverged)),
        *_diverged(diverged, kept_diverged),
        *_missing_states(missing),
        *_accuracy(last, zoo.classes),
        *_twice(rows[rows["finite"].astype(bool)]),
        *_unrecorded(rows),
    ]
    if zoo.imported is not None and (otherwise := zoo.imported.measured_otherwise):
        found.append(f"recorded elsewhere of something else than the column names say: {', '.join(otherwise)}")
    return found


def _missing_models(zoo: ZooInfo, models: int) -> Iterator[str]:
    if models < (all_of_them := zoo.recipe.num_models):
        yield f"{models:,} of the {all_of_them:,} models of its recipe are here"


def _diverged(diverged: int, kept: bool) -> Iterator[str]:
    if diverged:
        where = "they are in their splits, see the column `finite`" if kept else "they are left out"
        yield f"{_models(diverged)} diverged, with weights that are not finite in some state; {where}"


def _missing_states(missing: Mapping[str, Sequence[int]]) -> Iterator[str]:
    if missing:
        states = sum(map(len, missing.values()))
        yield f"{states:,} states of {_models(len(missing))} are missing for epochs of which others have one"


def _accuracy(last: pd.DataFrame, classes: int) -> Iterator[str]:
    accuracy = pd.to_numeric(last["test_acc"], errors="coerce")
    if classes and (n := int((accuracy <= _CHANCE / classes).sum())):
        level = f"a test accuracy of at most {_CHANCE} / {classes}"
        yield f"{n:,} of {_models(len(last))} at chance level after the last epoch: {level}"
    if "test_recall" in last and (n := sum(map(_constant, last["test_recall"]))):
        yield f"{n:,} of {_models(len(last))} with one class predicted for every test image after the last epoch"


def _constant(recall: Sequence[float] | None) -> bool:
    """Whether all images of one class are recognised and none of any other: then nothing else is ever predicted."""
    return recall is not None and not isinstance(recall, float) and sorted(recall) == [0.0] * (len(recall) - 1) + [1.0]


def _twice(rows: pd.DataFrame) -> Iterator[str]:
    again = rows[rows["sha256"].duplicated()]
    if n := len(again):
        untrained = int((again["epoch"] == 0).sum())
        yield f"{n:,} states have the very weights of another one (equal `sha256`), {untrained:,} of them untrained"


def _unrecorded(rows: pd.DataFrame) -> Iterator[str]:
    """What is missing in the table: after epoch 0, before which nothing was trained."""
    trained = rows[rows["epoch"] > 0] if (rows["epoch"] > 0).any() else rows
    counts = {name: int(trained[name].isna().sum()) for name in METRICS}
    if nowhere := [f"`{name}`" for name, n in counts.items() if n == len(trained)]:
        yield f"not recorded: {', '.join(nowhere)}"
    for name, n in counts.items():
        if 0 < n < len(trained):
            yield f"`{name}` is missing for {n:,} of {len(trained):,} trained states: not recorded, or no finite number"


def _models(n: int) -> str:
    return f"{n:,} model{'s' if n != 1 else ''}"
