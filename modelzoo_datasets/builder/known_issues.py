"""The known issues of a zoo, as far as its tables show them: one line each."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from ..engines import METRICS
from ..zoo import ZooInfo
from .card_figures import select_last_states

_CHANCE = 1.1  # accuracy at chance level: up to this many times the accuracy of uniform guessing


def find_known_issues(
    info: ZooInfo,
    rows: pd.DataFrame,
    num_diverged: int,
    missing: Mapping[str, Sequence[int]],
    *,
    keep_diverged: bool,
) -> list[str]:
    """Return the known issues of one config, as lines of its card.

    Args:
        info: The config.
        rows: One row per published state.
        num_diverged: Models with weights that are not finite, published or not.
        missing: Model id -> epochs that it lacks although other models have them.
        keep_diverged: Whether models that diverged are published.
    """
    last = select_last_states(rows)
    num_models = rows["model_id"].nunique() + (0 if keep_diverged else num_diverged)
    issues = [
        *_find_missing_models(info.recipe.num_models, num_models, num_diverged, keep_diverged),
        *_find_missing_states(missing),
        *_find_low_accuracy(last, info.classes),
        *_find_duplicates(rows[rows["finite"].astype(bool)]),
        *_find_missing_metrics(rows),
    ]
    if info.import_info is not None and (names := info.import_info.incomparable_metrics):
        issues.append(f"recorded on other data than the column names say: {', '.join(names)}")
    if info.import_info is not None and (names := info.import_info.measured_here):
        issues.append(
            f"not recorded by the original, but measured on {info.images} when it was imported: "
            + ", ".join(f"`{name}`" for name in names)
        )
    return issues


def _find_missing_models(num_in_recipe: int, num_models: int, num_diverged: int, keep_diverged: bool) -> Iterator[str]:
    if num_models < num_in_recipe:
        yield f"contains {num_models:,} of the {num_in_recipe:,} models of its recipe"
    if num_diverged:
        outcome = "included, see the column `finite`" if keep_diverged else "not included"
        yield f"{_count_models(num_diverged)} diverged (some weights are not finite): {outcome}"


def _find_missing_states(missing: Mapping[str, Sequence[int]]) -> Iterator[str]:
    if missing:
        num_states = sum(map(len, missing.values()))
        yield f"{num_states:,} states of {_count_models(len(missing))} are missing at epochs that other models have"


def _find_low_accuracy(last: pd.DataFrame, num_classes: int) -> Iterator[str]:
    accuracy, after = pd.to_numeric(last["test_acc"], errors="coerce"), "after the last epoch"
    if num_classes and (n := int((accuracy <= _CHANCE / num_classes).sum())):
        bound = f"test accuracy at most {_CHANCE} / {num_classes}"
        yield f"at chance level {after} ({bound}): {n:,} of {_count_models(len(last))}"
    if "test_recall" in last and (n := sum(map(_is_constant, last["test_recall"]))):
        yield f"a single class predicted for all test images {after}: {n:,} of {_count_models(len(last))}"


def _is_constant(recall: Sequence[float] | None) -> bool:
    """Tell whether a network predicts a single class: its recall is 1 for this class and 0 for all others."""
    return recall is not None and not isinstance(recall, float) and sorted(recall) == [0.0] * (len(recall) - 1) + [1.0]


def _find_duplicates(rows: pd.DataFrame) -> Iterator[str]:
    duplicates = rows[rows["sha256"].duplicated()]
    if n := len(duplicates):
        num_untrained = int((duplicates["epoch"] == 0).sum())
        yield f"{n:,} states have the same weights as another state (equal `sha256`), {num_untrained:,} are untrained"


def _find_missing_metrics(rows: pd.DataFrame) -> Iterator[str]:
    """Count missing metrics of trained states, i.e. after epoch 0 where there is a later one."""
    trained = rows[rows["epoch"] > 0] if (rows["epoch"] > 0).any() else rows
    counts = {name: int(trained[name].isna().sum()) for name in METRICS}
    if absent := [f"`{name}`" for name, n in counts.items() if n == len(trained)]:
        yield f"not recorded: {', '.join(absent)}"
    for name, n in counts.items():
        if 0 < n < len(trained):
            yield f"`{name}` is missing for {n:,} of {len(trained):,} trained states: not recorded or not finite"


def _count_models(n: int) -> str:
    return f"{n:,} model{'s' if n != 1 else ''}"
