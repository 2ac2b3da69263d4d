"""The judgment of samples: copies, noise, averages, or new; by the strongest null at equal novelty."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from .nulls import NOISE
from .populations import MEMBERS, RETRIEVAL, TRAINING_MEMBERS
from .result import AVERAGES, COPIES, NEW, UNKNOWN, Judgment, PopulationResult, SignificanceResult

_COPY_DISTANCE = 0.05  # layer standard deviations; trained models of a zoo are twenty times as far apart


def judge_samples(results: Sequence[PopulationResult], tests: Sequence[SignificanceResult]) -> dict[str, Judgment]:
    """Judge every population of samples that has nulls.

    "New" is said of samples that beat every null at equal novelty, each in a paired test; so no null is chosen by its
    score. Samples that do not are called by the null that they beat least.

    Args:
        results: all populations.
        tests: all significance tests.
    """
    populations = {result.name: result for result in results}
    judgments = {}
    for name, samples in populations.items():
        rivals = {result.name for result in results if result.matched_to == name}
        if samples.is_sample and rivals:
            retrieval = f"{RETRIEVAL} like {name}"
            rows = [
                row
                for row in tests
                if (row.question, row.population) == ("zero-shot", name) and row.rival in rivals - {retrieval}
            ]
            judgments[name] = _judge(samples, rows, populations)
    return judgments


def _judge(
    samples: PopulationResult, rows: Sequence[SignificanceResult], populations: Mapping[str, PopulationResult]
) -> Judgment:
    distance = float(np.median(samples.distance))
    weights, predictions = measure_dispersion(samples, populations)
    judgment = Judgment(kind=UNKNOWN, distance=distance, weight_dispersion=weights, prediction_dispersion=predictions)
    if distance < _COPY_DISTANCE:
        judgment = replace(judgment, kind=COPIES)
    if not rows:
        return judgment
    strongest = min(rows, key=lambda row: row.difference if row.low is None else row.low)
    kind = NEW
    if strongest.low is None or strongest.low <= 0:
        kind = NOISE if strongest.rival.startswith(NOISE) else AVERAGES
    return replace(
        judgment,
        kind=kind if judgment.kind == UNKNOWN else judgment.kind,
        null=strongest.rival,
        mean=strongest.mean,
        null_mean=strongest.rival_mean,
        difference=strongest.difference,
        low=strongest.low,
        high=strongest.high,
        n=strongest.n,
    )


def measure_dispersion(
    samples: PopulationResult, populations: Mapping[str, PopulationResult]
) -> tuple[float | None, float | None]:
    """Return the diversity of samples over that of zoo members, None where it is not known.

    Args:
        samples: a population.
        populations: all populations by name; without test models, training models are the members.

    Returns:
        The ratios of the mean pairwise distance of weights, and of the mean pairwise disagreement of predictions.
    """
    members = populations.get(MEMBERS) or populations.get(TRAINING_MEMBERS)
    if members is None or not samples.pairs or not members.pairs:
        return None, None
    own, other = (
        (_read_mean(p, "distance"), None if (same := _read_mean(p, "agreement")) is None else 1 - same)
        for p in (samples, members)
    )
    weights, predictions = (a / b if a is not None and b else None for a, b in zip(own, other, strict=True))
    return weights, predictions


def _read_mean(population: PopulationResult, key: str) -> float | None:
    return population.pairs[key].mean if key in population.pairs else None
