"""Property prediction: which properties of models can be read off which representation, beside baselines.

The baselines see no weights (hyperparameters, epoch, training mean), or predict from s(W) by boosted trees.

N states, F features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from ..json_record import JsonRecord, replace_nan
from ..model import HyperRepresentation, compute_layer_statistics
from ..zoo_values import read_column, read_numbers
from .bootstrap import Score, score_hits, score_numbers
from .linear import Decomposition, predict_boosted, predict_ridge, predict_softmax

NUMBERS = ("test_acc", "ggap", "epoch", "lr", "weight_decay", "dropout")  # as published; those that vary
CATEGORIES = ("activation", "init", "optimizer")
_HYPERPARAMETERS = ("batch_size", "lr", "weight_decay", "dropout", "momentum", *CATEGORIES)
_MIN_MODELS = 2  # in the training split, and in the test split
Splits = Mapping[str, Tensor]  # train, test and, if there is one, validation
Method = tuple[str, Callable[[Splits, Splits], Tensor], Splits]  # name, prediction, features


@dataclass(frozen=True)
class Probe(JsonRecord):
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
    targets, is_category = _make_targets(name, tables), name in CATEGORIES
    # The decompositions are of all training states.
    usable = decompositions if bool(has["train"].all()) else {}
    methods: list[Method] = [
        (kind, predict_softmax if is_category else partial(predict_ridge, decomposition=usable.get(kind)), x)
        for kind, x in features.items()
    ]
    methods += [
        ("s(W), boosted", predict_boosted, features["s(W)"]),
        ("most frequent" if is_category else "training mean", _predict_constant, features["s(W)"]),
    ]
    test, models = tables["test"][name], list(tables["test"]["model_id"])
    majority = float(test.value_counts(normalize=True).iloc[0]) if is_category else None
    rows = []
    for kind, predict, x in methods:
        generator = keyed_generator(seed, "bootstrap", name)
        scores = replace_nan(_score(predict(x, targets), targets["test"], models, generator))
        rows.append(Probe(name, kind, **scores, majority=majority, states=len(models), models=len(set(models))))
    return rows


def _make_targets(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, Tensor]:
    """Return numbers as they are, or the index of each class; classes without training states are -1, a miss."""
    if name in NUMBERS:
        return {split: torch.tensor(table[name].to_numpy(float)) for split, table in tables.items()}
    classes = sorted(tables["train"][name].unique())
    return {s: torch.tensor([classes.index(v) if v in classes else -1 for v in t[name]]) for s, t in tables.items()}


def _score(predicted: Tensor, target: Tensor, models: Sequence[str], generator: torch.Generator) -> dict[str, float]:
    """Return R² and tau of numbers, accuracy of classes, with their intervals."""
    if not target.is_floating_point():
        return _flatten("accuracy", score_hits(predicted == target, models, generator))
    scores = score_numbers(predicted, target, models, generator)
    return {**_flatten("r2", scores.r2), **_flatten("tau", scores.tau), "tau_ceiling": scores.tau_ceiling}


def _flatten(name: str, score: Score) -> dict[str, float]:
    return {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}


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
    """Return split -> (N, F): categories one-hot over the training states' values, positive numbers as logarithms.

    A number that is not recorded counts as the mean of the training states, and a category as none of theirs.
    """
    columns: dict[str, list[Tensor]] = {split: [] for split in tables}
    for column in _HYPERPARAMETERS:
        train = read_column(tables["train"], column).dropna()
        if column == name or train.nunique() < 2:
            continue
        values = sorted(train.unique())
        mean = 0.0
        for split, table in tables.items():  # the training states come first
            if column in CATEGORIES:
                cells = read_column(table, column)
                columns[split] += [torch.tensor((cells == v).to_numpy(float)) for v in values]
                continue
            numbers = read_numbers(table, column)
            numbers = numbers.clamp_min(1e-12).log10() if min(values) > 0 else numbers
            mean = float(numbers.nanmean()) if split == "train" else mean
            columns[split].append(torch.where(numbers.isnan(), mean, numbers))
    return {
        s: torch.stack(parts, 1) if parts else torch.zeros(len(tables[s]), 1, dtype=torch.float64)
        for s, parts in columns.items()
    }


def _predict_constant(features: Splits, targets: Splits) -> Tensor:
    """Predict the training mean of numbers, and the most frequent class."""
    train = targets["train"]
    constant = train.mean() if train.is_floating_point() else train.mode().values
    return constant.expand(len(targets["test"]))


def select_probed_states(rep: HyperRepresentation, zoo: Mapping[str, Zoo]) -> dict[str, Zoo]:
    """Return the finite states of every split; raises FormatError as `probe_properties` does."""
    zoo = {split: drop_diverged(part) for split, part in zoo.items()}
    for part in zoo.values():
        rep.check_architecture(part.architecture, "the zoo")
    counts = {split: zoo[split].table["model_id"].nunique() if split in zoo else 0 for split in ("train", "test")}
    if min(counts.values()) < _MIN_MODELS:
        raise FormatError(
            f"probes need at least {_MIN_MODELS} training and {_MIN_MODELS} test models, got {counts['train']} and "
            f"{counts['test']}; take a zoo of more models"
        )
    return zoo
