"""Property prediction: which properties of models can be read off which features, beside baselines without weights.

The headline of a number is R² within an epoch: over all epochs together, the epoch alone explains most of what varies.

N states, F features, R resamplings.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from modelzoo_datasets.engines import one_thread
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.seeds import keyed_generator

from ..data import drop_diverged, drop_large, find_image_spec
from ..json_record import JsonRecord, replace_nan
from ..model import HyperRepresentation
from .bootstrap import (
    Resampling,
    Score,
    find_last_epochs,
    resample_hits,
    resample_r2,
    resample_r2_within,
    score_order,
)
from .ceilings import MEASURED_ON, compute_ceilings
from .features import (
    CATEGORIES,
    HYPERPARAMETERS_EPOCH,
    AnswerOptions,
    Splits,
    make_features,
    make_weight_free_features,
    measure_hits,
)
from .linear import Decomposition, predict_boosted, predict_ridge, predict_softmax, reduce_features

NUMBERS = (*MEASURED_ON, "epoch", "lr", "weight_decay", "dropout")  # as published; those that vary
BOOSTED = ", boosted"
MAX_WEIGHT = 5.0  # as published (2110.15288, 2209.14764): models beyond it have exploded
_MIN_MODELS = 2  # in the training split, and in the test split
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe(JsonRecord):
    """One property predicted from one representation, on test models."""

    property: str
    representation: str
    r2: float | None = None  # over all epochs; numbers have this and tau
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
    r2_within: float | None = None  # mean over `epochs` of R² around the mean of the epoch: the headline of numbers
    r2_within_low: float | None = None
    r2_within_high: float | None = None
    epochs: Sequence[int] = ()  # the last five in which the property varies
    ceiling: float | None = None  # highest R² that the noise of a finite number of images allows
    ceiling_within: float | None = None
    ceiling_from: str = ""  # "errors" of the test states, or "size": then the true ceiling may be higher
    tied: float | None = None  # share of the pairs that differ in the property whose predictions are equal
    tau_untied: float | None = None  # tau without stuck models, if models are stuck
    gain: float | None = None  # headline minus that of hyper-parameters and epoch, whose better row counts
    gain_low: float | None = None
    gain_high: float | None = None
    max_weight: float | None = None  # states with a weight beyond it are left out
    left_out: int = 0  # their number in all splits

    def is_above_baseline(self) -> bool | None:
        """Tell whether the interval of the gain is above zero; None if there is none."""
        return None if self.gain_low is None else self.gain_low > 0


@dataclass(frozen=True)
class _Method:
    name: str
    predict: Callable[[Splits, Splits], Tensor]
    features: Splits


@dataclass(frozen=True)
class _Inputs:
    """States and features that all properties are predicted from."""

    zoo: Mapping[str, Zoo]
    features: Mapping[str, Splits]
    tree_features: Mapping[str, Splits]  # the same, reduced where there are many
    decompositions: Mapping[str, Decomposition]  # those of all training states
    hits: Tensor | None  # (N, B) which test images each test state gets right
    seed: int


@one_thread()
def probe_properties(
    rep: HyperRepresentation | None,
    zoo: Mapping[str, Zoo],
    *,
    seed: int = 0,
    max_weight: float | None = MAX_WEIGHT,
    answers: AnswerOptions | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[Probe]:
    """Predict every property that varies from W, s(W), z and answers, and from baselines (2209.14764).

    Every feature set is read by ridge regression (a linear classifier for categories) and by boosted trees. One
    predictor is fitted on the training states of all epochs.

    Args:
        rep: the hyper-representation that computes z; None leaves z out.
        zoo: split -> states. Probes are fitted on train, penalties chosen on validation (on train if there is none),
            and predictions scored on test, which may be of another zoo.
        seed: of the bootstrap intervals.
        max_weight: states with a weight beyond it are left out; None keeps all.
        answers: images that networks answer, and the engine that runs them; with the zoo's images the ceilings are
            measured by the errors of the test states instead of estimated from the number of images.
        progress: display of the properties.

    Returns:
        One row per property and representation.

    Raises:
        FormatError: another architecture than the hyper-representation's, or too few models.
    """
    finite = {split: drop_diverged(part) for split, part in zoo.items()}
    zoo = select_probed_states(rep, zoo, max_weight)
    left_out = sum(len(finite[split]) - len(part) for split, part in zoo.items())
    if left_out:
        total = sum(map(len, finite.values()))
        _log.warning("%d of %d states are left out of the probes: a weight is beyond %g", left_out, total, max_weight)
    options = answers or AnswerOptions()
    features = make_features(zoo, rep, options)
    decompositions = {kind: Decomposition.from_features(splits["train"]) for kind, splits in features.items()}
    reduced = {kind: reduce_features(splits, decompositions[kind]) for kind, splits in features.items()}
    inputs = _Inputs(zoo, features, reduced, decompositions, measure_hits(zoo["test"], options), seed)
    rows = []
    names = _find_varying(zoo)
    with progress.start("probing", len(names)) as task:
        for name in names:
            rows += _probe_property(name, inputs, {"max_weight": max_weight, "left_out": left_out})
            task.update()
    return rows


def select_probed_states(
    rep: HyperRepresentation | None, zoo: Mapping[str, Zoo], max_weight: float | None = MAX_WEIGHT
) -> dict[str, Zoo]:
    """Return the finite states of every split without large weights; raises FormatError as `probe_properties` does."""
    zoo = {split: drop_large(drop_diverged(part), max_weight) for split, part in zoo.items()}
    for part in zoo.values():
        if rep is not None:
            rep.check_architecture(part.architecture, "the zoo")
    counts = {split: zoo[split].table["model_id"].nunique() if split in zoo else 0 for split in ("train", "test")}
    if min(counts.values()) < _MIN_MODELS:
        limit = "" if max_weight is None else f" with weights up to {max_weight:g}"
        raise FormatError(
            f"probes need at least {_MIN_MODELS} training and {_MIN_MODELS} test models{limit}, got {counts['train']} "
            f"and {counts['test']}; take a zoo of more models{limit and ', or a larger limit'}"
        )
    return zoo


def _find_varying(zoo: Mapping[str, Zoo]) -> list[str]:
    """Return the properties that vary among training states and are known of test states."""
    train, test = zoo["train"].table, zoo["test"].table
    columns = [name for name in (*NUMBERS, *CATEGORIES) if name in train and name in test]
    return [name for name in columns if train[name].dropna().nunique() > 1 and test[name].notna().any()]


def _probe_property(name: str, inputs: _Inputs, note: Mapping[str, float | None]) -> list[Probe]:
    """Predict one property from all features, on the states of which it is known."""
    tables = {split: part.table[part.table[name].notna()] for split, part in inputs.zoo.items()}
    targets, test = _make_targets(name, tables), tables["test"]
    resampling = Resampling.from_models(list(test["model_id"]), keyed_generator(inputs.seed, "bootstrap", name))
    common: dict[str, object] = {"states": len(test), "models": test["model_id"].nunique(), **note}
    common |= _score_property(name, inputs)
    scores, headlines = {}, {}
    for method in _list_methods(name, inputs, tables):
        predicted = method.predict(method.features, targets)
        scores[method.name], headlines[method.name] = _score(name, predicted, targets["test"], test, resampling)
    gains = _compare(headlines)
    return [Probe(name, kind, **replace_nan({**scores[kind], **gains.get(kind, {}), **common})) for kind in scores]


def _score_property(name: str, inputs: _Inputs) -> dict[str, float | str]:
    """Return what bounds all scores of a property: its ceilings, or the share of its most frequent class."""
    zoo = inputs.zoo["test"]
    known = zoo.table[name].notna().to_numpy()
    if name in CATEGORIES:
        return {"majority": float(zoo.table[name].value_counts(normalize=True).iloc[0])}
    hits = None if inputs.hits is None else inputs.hits[torch.tensor(known)]
    return compute_ceilings(name, zoo.table[known], find_image_spec(zoo).sizes, hits)


def _list_methods(name: str, inputs: _Inputs, tables: Mapping[str, pd.DataFrame]) -> list[_Method]:
    """Return every way to predict a property: two of all features, and a constant."""
    has = {s: torch.from_numpy(part.table[name].notna().to_numpy(copy=True)) for s, part in inputs.zoo.items()}
    usable = inputs.decompositions if bool(has["train"].all()) else {}
    methods = []
    for kind, splits in inputs.features.items():
        own, reduced = ({s: x[has[s]] for s, x in xs.items()} for xs in (splits, inputs.tree_features[kind]))
        methods += _list_two(name, kind, own, reduced, usable.get(kind))
    for kind, own in make_weight_free_features(name, tables).items():
        methods += _list_two(name, kind, own, own, None)
    constant = "most frequent" if name in CATEGORIES else "training mean"
    return [*methods, _Method(constant, _predict_constant, own)]


def _list_two(
    name: str, kind: str, features: Splits, reduced: Splits, decomposition: Decomposition | None
) -> list[_Method]:
    """Return the linear prediction of a property from some features, and that by trees."""
    linear = predict_softmax if name in CATEGORIES else partial(predict_ridge, decomposition=decomposition)
    return [_Method(kind, linear, features), _Method(kind + BOOSTED, predict_boosted, reduced)]


def _make_targets(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, Tensor]:
    """Return numbers as they are, or the index of each class; classes without training states are -1, a miss."""
    if name in NUMBERS:
        return {split: torch.tensor(table[name].to_numpy(float)) for split, table in tables.items()}
    classes = sorted(tables["train"][name].unique())
    return {s: torch.tensor([classes.index(v) if v in classes else -1 for v in t[name]]) for s, t in tables.items()}


def _score(
    name: str, predicted: Tensor, target: Tensor, test: pd.DataFrame, resampling: Resampling
) -> tuple[dict[str, object], Tensor]:
    """Return the scores of predictions, and the headline of every resampling (R + 1,)."""
    if name in CATEGORIES:
        hits = resample_hits(predicted == target, resampling)
        return _flatten("accuracy", Score.from_values(hits)), hits
    epochs = torch.tensor(test["epoch"].to_numpy())
    within = resample_r2_within(predicted, target, epochs, resampling)
    order = score_order(predicted, target, resampling)
    return {
        **_flatten("r2_within", Score.from_values(within)),
        "epochs": find_last_epochs(target, epochs),
        **_flatten("r2", Score.from_values(resample_r2(predicted, target, resampling))),
        **_flatten("tau", order.tau),
        "tau_ceiling": order.ceiling,
        "tied": order.tied,
        **({"tau_untied": order.untied} if name in MEASURED_ON else {}),
    }, within


def _compare(headlines: Mapping[str, Tensor]) -> dict[str, dict[str, object]]:
    """Return the gain of every row over the better row of hyper-parameters and epoch, paired over the resamplings."""
    rivals = [kind for kind in (HYPERPARAMETERS_EPOCH, HYPERPARAMETERS_EPOCH + BOOSTED) if kind in headlines]
    if not rivals:
        return {}
    best = max((headlines[kind] for kind in rivals), key=lambda values: float(values[0]))
    others = [kind for kind in headlines if kind not in rivals]
    return {kind: _flatten("gain", Score.from_values(headlines[kind] - best)) for kind in others}


def _flatten(name: str, score: Score) -> dict[str, object]:
    return {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}


def _predict_constant(features: Splits, targets: Splits) -> Tensor:
    """Predict the training mean of numbers, and the most frequent class."""
    train = targets["train"]
    constant = train.mean() if train.is_floating_point() else train.mode().values
    return constant.expand(len(targets["test"]))
