"""Property prediction: which properties of models can be read off which representation, beside what needs no weights.

N states.
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

from ..data import finite_states
from ..model import HyperRepresentation, compute_layer_statistics
from .bootstrap import number_scores, share_score
from .linear import Decomposition, boosted, ridge, softmax_classes

NUMBERS = ("test_acc", "ggap", "epoch", "lr", "weight_decay", "dropout")  # as published; those that vary
CATEGORIES = ("activation", "init", "optimizer")
_HYPER_PARAMETERS = ("batch_size", "lr", "weight_decay", "dropout", "momentum", *CATEGORIES)
_FEWEST = 2  # models of the training split and of the test split
Splits = Mapping[str, Tensor]  # train, test and, where there is one, validation


@dataclass(frozen=True)
class Probe:
    """One property predicted from one representation, on test models."""

    property: str
    representation: str
    r2: float | None = None  # of numbers
    r2_low: float | None = None
    r2_high: float | None = None
    tau: float | None = None
    tau_low: float | None = None
    tau_high: float | None = None
    tau_ceiling: float | None = None  # of predictions without ties
    accuracy: float | None = None  # of categories
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    majority: float | None = None  # share of the test states that are of the class most frequent there
    states: int = 0  # of the test split
    models: int = 0


@one_thread()
def probe_all(
    rep: HyperRepresentation, zoo: Mapping[str, Zoo], *, seed: int = 0, progress: Progress = NO_PROGRESS
) -> list[Probe]:
    """Every property that varies, from W, s(W), z and from baselines that see no weights, or no linear ones.

    Args:
        zoo: split -> states; fitted on train, penalties chosen on validation (on train where there is none), judged
            on test, which may be of another zoo.

    Raises:
        FormatError: another architecture than the hyper-representation's, or too few models.
    """
    zoo = probed_states(rep, zoo)
    representations = {
        "W": {split: part.weights for split, part in zoo.items()},
        "s(W)": {split: compute_layer_statistics(part.weights, rep.layout) for split, part in zoo.items()},
        "z": {split: rep.embed(part.weights) for split, part in zoo.items()},
    }
    found = []
    names = _varying(zoo)
    known = {kind: Decomposition.of(features["train"]) for kind, features in representations.items()}
    with progress.start("probing", len(names)) as task:
        for name in names:
            found += _probe(name, representations, zoo, seed, known)
            task.update()
    return found


def _varying(zoo: Mapping[str, Zoo]) -> list[str]:
    """The properties that training states differ in, and that test states have."""
    train, test = zoo["train"].table, zoo["test"].table
    columns = [name for name in (*NUMBERS, *CATEGORIES) if name in train and name in test]
    return [name for name in columns if train[name].dropna().nunique() > 1 and test[name].notna().any()]


def _probe(
    name: str,
    representations: Mapping[str, Splits],
    zoo: Mapping[str, Zoo],
    seed: int,
    decompositions: Mapping[str, Decomposition],
) -> list[Probe]:
    """One property from all representations; states without it are left out."""
    has = {split: torch.from_numpy(part.table[name].notna().to_numpy(copy=True)) for split, part in zoo.items()}
    tables = {split: part.table[part.table[name].notna()] for split, part in zoo.items()}
    known = {kind: {s: f[has[s]] for s, f in features.items()} for kind, features in representations.items()}
    known |= _without_weights(name, tables)
    models = list(tables["test"]["model_id"])
    if name in CATEGORIES:
        return _category(name, known, tables, models, seed)
    targets = {split: torch.tensor(table[name].to_numpy(float)) for split, table in tables.items()}
    rows = []
    whole = decompositions if bool(has["train"].all()) else {}  # they are of all training states
    methods: list[tuple[str, Callable[[Splits, Splits], Tensor], Splits]] = [
        *((kind, partial(ridge, decomposition=whole.get(kind)), features) for kind, features in known.items()),
        ("s(W), boosted", boosted, known["s(W)"]),
        ("training mean", _mean, known["s(W)"]),
    ]
    for kind, method, features in methods:
        scores = number_scores(
            method(features, targets), targets["test"], models, keyed_generator(seed, "bootstrap", name)
        )
        rows.append(
            Probe(
                name,
                kind,
                **_flat("r2", asdict(scores.r2)),
                **_flat("tau", asdict(scores.tau)),
                tau_ceiling=_plain(scores.tau_ceiling),
                states=len(models),
                models=len(set(models)),
            )
        )
    return rows


def _category(
    name: str, known: Mapping[str, Splits], tables: Mapping[str, pd.DataFrame], models: Sequence[str], seed: int
) -> list[Probe]:
    """Classes of the training states, by number; test states of other classes cannot be hit."""
    classes = sorted(tables["train"][name].unique())
    targets = {s: torch.tensor([classes.index(v) if v in classes else -1 for v in t[name]]) for s, t in tables.items()}
    methods: list[tuple[str, Callable[[Splits, Splits], Tensor], Splits]] = [
        *((kind, softmax_classes, features) for kind, features in known.items()),
        ("s(W), boosted", boosted, known["s(W)"]),
        ("most frequent", _most_frequent, known["s(W)"]),
    ]
    rows = []
    for kind, method, features in methods:
        hits = method(features, targets) == targets["test"]
        score = share_score(hits, models, keyed_generator(seed, "bootstrap", name))
        rows.append(
            Probe(
                name,
                kind,
                **_flat("accuracy", asdict(score)),
                majority=float(tables["test"][name].value_counts(normalize=True).iloc[0]),
                states=len(models),
                models=len(set(models)),
            )
        )
    return rows


def _without_weights(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Tensor]]:
    """What is known of a model before it is trained, and the epoch beside it; never what is to be predicted."""
    known = _hyper_parameters(name, tables)
    if name == "epoch":
        return {"hyper-parameters": known}
    seen = sorted(tables["train"]["epoch"].unique())
    epochs = {split: table["epoch"].to_numpy(float)[:, None] for split, table in tables.items()}
    known_epochs = {s: torch.from_numpy(np.hstack([e, e == np.array(seen)])) for s, e in epochs.items()}
    both = {split: torch.cat([known[split], known_epochs[split]], dim=1) for split in tables}
    return {"hyper-parameters": known, "hyper-parameters, epoch": both}


def _hyper_parameters(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, Tensor]:
    """Categories as one-hot of what the training states have, positive numbers as their logarithm: split -> (N, F)."""
    columns: dict[str, list[Tensor]] = {split: [] for split in tables}
    for column in _HYPER_PARAMETERS:
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
        s: torch.stack(found, 1) if found else torch.zeros(len(tables[s]), 1, dtype=torch.float64)
        for s, found in columns.items()
    }


def _mean(features: Splits, targets: Splits) -> Tensor:
    return targets["train"].mean().expand(len(targets["test"]))


def _most_frequent(features: Splits, targets: Splits) -> Tensor:
    return targets["train"].mode().values.expand(len(targets["test"]))


def _flat(name: str, score: Mapping[str, float]) -> dict[str, float | None]:
    return {
        name: _plain(score["value"]),
        f"{name}_low": _plain(score["low"]),
        f"{name}_high": _plain(score["high"]),
    }


def _plain(value: float) -> float | None:
    """As JSON: what is not defined is missing."""
    return value if math.isfinite(value) else None


def probed_states(rep: HyperRepresentation, zoo: Mapping[str, Zoo]) -> dict[str, Zoo]:
    """Those that did not diverge; raises FormatError as `probe_all` does."""
    zoo = {split: finite_states(part) for split, part in zoo.items()}
    for part in zoo.values():
        if part.architecture != rep.architecture:
            raise FormatError(
                f"this hyper-representation is of {rep.architecture.name}, the zoo holds models of "
                f"{part.architecture.name}"
            )
    counts = {split: zoo[split].table["model_id"].nunique() if split in zoo else 0 for split in ("train", "test")}
    if min(counts.values()) < _FEWEST:
        raise FormatError(
            f"probes need {_FEWEST} training and {_FEWEST} test models at least, got {counts['train']} and "
            f"{counts['test']}; take a zoo of more models"
        )
    return zoo
