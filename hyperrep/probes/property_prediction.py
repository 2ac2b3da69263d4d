"""Property prediction: which properties of models can be read off which representation, beside baselines.

The baselines see no weights (hyperparameters, epoch, training mean), or predict from s(W) by boosted trees.

N states, F features.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from modelzoo_datasets.engines import one_thread
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.seeds import keyed_generator

from ..data import drop_diverged
from ..model import HyperRepresentation, compute_layer_statistics
from .bootstrap import score_hits, score_numbers
from .linear import Decomposition, predict_boosted, predict_ridge, predict_softmax

NUMBERS = ("test_acc", "ggap", "epoch", "lr", "weight_decay", "dropout")  # as published; those that vary
CATEGORIES = ("activation", "init", "optimizer")
_HYPERPARAMETERS = ("batch_size", "lr", "weight_decay", "dropout", "momentum", *CATEGORIES)
_MIN_MODELS = 2  # in the training split, and in the test split
Splits = Mapping[str, Tensor]  # train, test and, if there is one, validation
Method = tuple[str, Callable[[Splits, Splits], Tensor], Splits]  # name, prediction, features


@dataclass(frozen=True)
class Probe:
    """One property predicted from one representation, on test models."""

    property: str
    representation: str
    r2: float | None = None  # numbers have this and tau
    r2_low: float | None = None
    r2_high: float | None = None
    tau: float | None = None
    tau_low: float | None = None
    tau_high: float | None = None
    tau_ceiling: float | None = None  # largest tau of predictions without ties
    accuracy: float | None = None  # categories have this and majority
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    majority: float | None = None  # share of the test states in their most frequent class
    states: int = 0  # number in the test split
    models: int = 0  # number in the test split


@one_thread()
def probe_properties(
    rep: HyperRepresentation, zoo: Mapping[str, Zoo], *, seed: int = 0, progress: Progress = NO_PROGRESS
) -> list[Probe]:
    """Predict every property that varies from W, s(W) and z, and from baselines (2209.14764, property prediction).

    Args:
        rep: the hyper-representation that computes z.
        zoo: split -> states. Probes are fitted on train, penalties chosen on validation (on train if there is none),
            and predictions scored on test, which may be of another zoo.
        seed: of the bootstrap intervals.
        progress: display of the properties.

    Returns:
        One row per property and representation.

    Raises:
        FormatError: another architecture than the hyper-representation's, or too few models.
    """
    zoo = select_probed_states(rep, zoo)
    representations = {
        "W": {split: part.weights for split, part in zoo.items()},
        "s(W)": {split: compute_layer_statistics(part.weights, rep.layout) for split, part in zoo.items()},
        "z": {split: rep.encode(part.weights) for split, part in zoo.items()},
    }
    rows = []
    names = _find_varying(zoo)
    decompositions = {kind: Decomposition.from_features(splits["train"]) for kind, splits in representations.items()}
    with progress.start("probing", len(names)) as task:
        for name in names:
            rows += _probe_property(name, representations, zoo, seed, decompositions)
            task.update()
    return rows


def _find_varying(zoo: Mapping[str, Zoo]) -> list[str]:
    """Return the properties that vary among training states and are known of test states."""
    train, test = zoo["train"].table, zoo["test"].table
    columns = [name for name in (*NUMBERS, *CATEGORIES) if name in train and name in test]
    return [name for name in columns if train[name].dropna().nunique() > 1 and test[name].notna().any()]


def _probe_property(
    name: str,
    representations: Mapping[str, Splits],
    zoo: Mapping[str, Zoo],
    seed: int,
    decompositions: Mapping[str, Decomposition],
) -> list[Probe]:
    """Predict one property from all representations, on the states of which it is known."""
    has = {split: torch.from_numpy(part.table[name].notna().to_numpy(copy=True)) for split, part in zoo.items()}
    tables = {split: part.table[part.table[name].notna()] for split, part in zoo.items()}
    features = {kind: {s: f[has[s]] for s, f in splits.items()} for kind, splits in representations.items()}
    features |= _make_weight_free_features(name, tables)
    models = list(tables["test"]["model_id"])
    if name in CATEGORIES:
        return _probe_category(name, features, tables, models, seed)
    # The decompositions are of all training states.
    usable = decompositions if bool(has["train"].all()) else {}
    return _probe_number(name, features, tables, models, seed, usable)


def _probe_number(
    name: str,
    features: Mapping[str, Splits],
    tables: Mapping[str, pd.DataFrame],
    models: Sequence[str],
    seed: int,
    decompositions: Mapping[str, Decomposition],
) -> list[Probe]:
    """Predict a number by ridge regression from all features, by boosted trees, and by the training mean."""
    targets = {split: torch.tensor(table[name].to_numpy(float)) for split, table in tables.items()}
    rows = []
    methods: list[Method] = [
        *((kind, partial(predict_ridge, decomposition=decompositions.get(kind)), x) for kind, x in features.items()),
        ("s(W), boosted", predict_boosted, features["s(W)"]),
        ("training mean", _predict_mean, features["s(W)"]),
    ]
    for kind, method, x in methods:
        generator = keyed_generator(seed, "bootstrap", name)
        scores = score_numbers(method(x, targets), targets["test"], models, generator)
        rows.append(
            Probe(
                name,
                kind,
                **_flatten("r2", asdict(scores.r2)),
                **_flatten("tau", asdict(scores.tau)),
                tau_ceiling=_to_json_number(scores.tau_ceiling),
                states=len(models),
                models=len(set(models)),
            )
        )
    return rows


def _probe_category(
    name: str, features: Mapping[str, Splits], tables: Mapping[str, pd.DataFrame], models: Sequence[str], seed: int
) -> list[Probe]:
    """Predict a class by linear softmax from all features, by boosted trees, and as the most frequent class.

    Classes are those of the training states; test states of other classes count as misses.
    """
    classes = sorted(tables["train"][name].unique())
    targets = {s: torch.tensor([classes.index(v) if v in classes else -1 for v in t[name]]) for s, t in tables.items()}
    methods: list[Method] = [
        *((kind, predict_softmax, x) for kind, x in features.items()),
        ("s(W), boosted", predict_boosted, features["s(W)"]),
        ("most frequent", _predict_most_frequent, features["s(W)"]),
    ]
    rows = []
    for kind, method, x in methods:
        hits = method(x, targets) == targets["test"]
        score = score_hits(hits, models, keyed_generator(seed, "bootstrap", name))
        rows.append(
            Probe(
                name,
                kind,
                **_flatten("accuracy", asdict(score)),
                majority=float(tables["test"][name].value_counts(normalize=True).iloc[0]),
                states=len(models),
                models=len(set(models)),
            )
        )
    return rows


def _make_weight_free_features(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Tensor]]:
    """Return features that are known before training: hyperparameters, and with the epoch; never the target itself."""
    hyperparameters = _make_hyperparameter_features(name, tables)
    if name == "epoch":
        return {"hyper-parameters": hyperparameters}
    train_epochs = sorted(tables["train"]["epoch"].unique())
    epochs = {split: table["epoch"].to_numpy(float)[:, None] for split, table in tables.items()}
    epoch_features = {s: torch.from_numpy(np.hstack([e, e == np.array(train_epochs)])) for s, e in epochs.items()}
    both = {split: torch.cat([hyperparameters[split], epoch_features[split]], dim=1) for split in tables}
    return {"hyper-parameters": hyperparameters, "hyper-parameters, epoch": both}


def _make_hyperparameter_features(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, Tensor]:
    """Return split -> (N, F): categories one-hot over the training states' values, positive numbers as logarithms."""
    columns: dict[str, list[Tensor]] = {split: [] for split in tables}
    for column in _HYPERPARAMETERS:
        if column == name or column not in tables["train"] or tables["train"][column].nunique() < 2:
            continue
        values = sorted(tables["train"][column].unique())
        for split, table in tables.items():
            if column in CATEGORIES:
                columns[split] += [torch.tensor((table[column] == v).to_numpy(float)) for v in values]
            else:
                numbers = torch.tensor(table[column].to_numpy(float))
                columns[split].append(numbers.clamp_min(1e-12).log10() if min(values) > 0 else numbers)
    return {
        s: torch.stack(parts, 1) if parts else torch.zeros(len(tables[s]), 1, dtype=torch.float64)
        for s, parts in columns.items()
    }


def _predict_mean(features: Splits, targets: Splits) -> Tensor:
    return targets["train"].mean().expand(len(targets["test"]))


def _predict_most_frequent(features: Splits, targets: Splits) -> Tensor:
    return targets["train"].mode().values.expand(len(targets["test"]))


def _flatten(name: str, score: Mapping[str, float]) -> dict[str, float | None]:
    return {
        name: _to_json_number(score["value"]),
        f"{name}_low": _to_json_number(score["low"]),
        f"{name}_high": _to_json_number(score["high"]),
    }


def _to_json_number(value: float) -> float | None:
    """Return the number, None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def select_probed_states(rep: HyperRepresentation, zoo: Mapping[str, Zoo]) -> dict[str, Zoo]:
    """Return the finite states of every split; raises FormatError as `probe_properties` does."""
    zoo = {split: drop_diverged(part) for split, part in zoo.items()}
    for part in zoo.values():
        if part.architecture != rep.architecture:
            raise FormatError(
                f"this hyper-representation is of {rep.architecture.name}, the zoo holds models of "
                f"{part.architecture.name}"
            )
    counts = {split: zoo[split].table["model_id"].nunique() if split in zoo else 0 for split in ("train", "test")}
    if min(counts.values()) < _MIN_MODELS:
        raise FormatError(
            f"probes need at least {_MIN_MODELS} training and {_MIN_MODELS} test models, got {counts['train']} and "
            f"{counts['test']}; take a zoo of more models"
        )
    return zoo
