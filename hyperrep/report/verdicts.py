"""Findings in words: each sentence follows from a significance test, none is fixed."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..evaluation import (
    COPIES,
    MEMBERS,
    NEW,
    REPAIR,
    RETRIEVAL,
    SCRATCH,
    SEEN,
    UNSEEN,
    EvaluationResult,
    Judgment,
    PopulationResult,
    SignificanceResult,
)
from ..trainer import ReconstructionResult
from .tables import PERCENT, Unit, choose_unit, format_p_value

_VERBS = {"above": "beat", "below": "lose to", "level with": "show no difference from"}
_Populations = Mapping[str, PopulationResult]
_Rows = Sequence[SignificanceResult]


def write_verdicts(evaluation: EvaluationResult) -> list[str]:
    """Write sentences about reconstruction, samplers against their baselines, fine-tuning, transfer and ensembles."""
    populations, unit = {population.name: population for population in evaluation.populations}, choose_unit(evaluation)
    sentences = [_describe_reconstruction(populations, evaluation.reconstruction)] if evaluation.reconstruction else []
    for name, population in populations.items():
        if population.is_sample:
            rows = [row for row in evaluation.tests if row.population == name]
            judgment = evaluation.judgments.get(name)
            sentences += [describe_judgment(name, judgment, unit)] if judgment else []
            sentences.append(_describe_novelty(population, populations, judgment, unit))
            sentences += [*_describe_finetuning(name, rows), *_describe_equal_work(name, rows)]
            sentences += _describe_transfer(name, rows)
    return [_shorten(sentence) for sentence in sentences]


def _describe_reconstruction(populations: _Populations, r2: Mapping[str, ReconstructionResult]) -> str:
    unseen, train, members = (populations[name] for name in (UNSEEN, SEEN, MEMBERS))
    gap = r2["train"].total - r2["test"].total
    memorized = f": {gap:.2f} of R² is memorized, not learned" if gap > 0 else ""
    share = np.mean(unseen.zero_shot) / np.mean(members.zero_shot)
    return (
        f"Reconstructed held-out models keep {share:.0%} of the accuracy of the models themselves "
        f"({_format_mean(unseen)} of {_format_mean(members)}; R² {r2['test'].total:.2f}); reconstructed training "
        f"models score {_format_mean(train)} (R² {r2['train'].total:.2f}){memorized}."
    )


def describe_judgment(name: str, judgment: Judgment, unit: Unit = PERCENT) -> str:
    """Say in one sentence what samples are: copies, noise, averages, or new.

    Args:
        name: name of the samples.
        judgment: their judgment.
        unit: unit of the accuracies.
    """
    return _shorten(_describe_kind(name, judgment, unit))


def _shorten(sentence: str) -> str:
    """Return a sentence about samples that have no name of their own."""
    sentence = sentence.replace("Fine-tuned samples of samples", "The fine-tuned samples")
    return sentence.replace("Samples of samples", "The samples").replace("samples of samples", "the samples")


def _describe_kind(name: str, judgment: Judgment, unit: Unit) -> str:
    where = f"at matched novelty, {judgment.distance:.2f} layer standard deviations from the nearest training state"
    if judgment.kind == COPIES:
        return (
            f"Samples of {name} are copies: they are {judgment.distance:.3f} layer standard deviations from the "
            "nearest training state."
        )
    if judgment.difference is None or judgment.mean is None or judgment.null_mean is None:
        return f"Samples of {name}: there is no null {where}, to compare them with."
    interval = ""
    if judgment.low is not None and judgment.high is not None:
        interval = f", 95 % interval {unit.format(judgment.low, '+')} to {unit.format(judgment.high, '+')}"
    null = judgment.null.removesuffix(f" like {name}")
    scores = (
        f"they score {unit.format(judgment.mean)}{unit.symbol}, and {null}, the strongest null, "
        f"{unit.format(judgment.null_mean)}{unit.symbol} (difference {unit.format(judgment.difference, '+')}"
        f"{unit.difference}{interval}, {judgment.n} pairs)"
    )
    if judgment.kind == NEW:
        return f"Samples of {name} are new: they beat every null. {where[0].upper()}{where[1:]}, {scores}."
    return f"Samples of {name} are no better than {judgment.kind}: {where}, {scores}."


def _describe_novelty(
    population: PopulationResult, populations: _Populations, judgment: Judgment | None, unit: Unit
) -> str:
    """Describe where samples lie, how they score, and how they differ from each other."""
    sentence = (
        f"Samples of {population.name} (n={population.n}) are {np.mean(population.distance):.2f} layer standard "
        f"deviations from the nearest training state, {_describe_overlap(population)}and score "
        f"{_format_mean(population, unit)} zero-shot"
    )
    retrieval = populations.get(f"{RETRIEVAL} like {population.name}")
    if retrieval is not None:
        sentence += f"; the training states next to them score {_format_mean(retrieval, unit)}"
    if judgment is not None and judgment.weight_dispersion is not None:
        sentence += f"; they are {judgment.weight_dispersion:.2f} times as far apart as zoo members"
        if judgment.prediction_dispersion is not None:
            sentence += f", and disagree {judgment.prediction_dispersion:.2f} times as often"
    return f"{sentence}."


def _describe_overlap(population: PopulationResult) -> str:
    """Return a part of a sentence about errors, which scores do not have."""
    if not population.error_overlap:
        return ""
    return f"share {np.mean(population.error_overlap):.0%} of their errors (IoU) with the most similar one, "


def _describe_test(row: SignificanceResult) -> str:
    counts = f"{row.n} pairs" if row.test == "paired" else f"n={row.n} and {row.n_rival}"
    difference = f"difference {100 * row.difference:+.1f} points"
    if row.low is None or row.high is None or row.p is None:
        return f"{difference}, too few models for a test, {counts}"
    p = format_p_value(row.p)
    return (
        f"{difference}, 95 % interval {100 * row.low:+.1f} to {100 * row.high:+.1f}, "
        f"p {p if p.startswith('<') else f'= {p}'}, {row.test} t-test, {counts}"
    )


def _describe_finetuning(name: str, rows: _Rows) -> list[str]:
    """Write a sentence per rival, for the fewest and the most epochs."""
    rows = [row for row in rows if row.question == "fine-tuning"]
    rivals = {
        f"noise like {name}": "noise at matched distance",
        f"noise{REPAIR} like {name}": "noise with REPAIR at matched distance",
        f"average{REPAIR} like {name}": "averages with REPAIR at matched distance",
        SCRATCH: "training from scratch",
        MEMBERS: "zoo members that are trained further",
    }
    sentences = []
    for rival, words in rivals.items():
        if own := [row for row in rows if (row.rival, row.where) == (rival, "")]:
            sentences.append(f"Fine-tuned samples of {name} next to {words}: {_compare_epochs(own)}.")
    if shifted := [row for row in rows if row.where]:
        more = shifted[0].where.removeprefix("+")
        sentences.append(
            f"Counted as in the paper, with {more} more epochs for scratch, samples of {name} next to it: "
            f"{_compare_epochs(shifted)}."
        )
    return sentences


def _describe_equal_work(name: str, rows: _Rows) -> Iterable[str]:
    """Yield a sentence per row of zoo members that got the image gradients of learning."""
    for row in (row for row in rows if row.question == "equal work"):
        begin = f"At equal work, samples of {name}"
        if row.low is None:
            means = (
                f"score {100 * row.mean:.1f} %, fine-tuning of a zoo member ({row.rival}) {100 * row.rival_mean:.1f} %"
            )
            yield f"{begin} {means}."
        else:
            yield (
                f"{begin} {_VERBS[row.word]} fine-tuned zoo members ({row.rival}): {_format_means(row)} "
                f"({_describe_test(row)})."
            )


def _compare_epochs(rows: _Rows) -> str:
    ends = [rows[0], *rows[1:][-1:]]
    return " and ".join(f"{_describe_direction(row)} ({_format_means(row)}{_format_doubt(row)})" for row in ends)


def _describe_direction(row: SignificanceResult) -> str:
    after = f"after {row.epoch} epoch{'s' if row.epoch != 1 else ''}"
    return f"no difference shown {after}" if row.word == "level with" else f"{row.word} it {after}"


def _format_doubt(row: SignificanceResult) -> str:
    """Return the test beside "no difference shown": few models show only large differences."""
    return f"; {_describe_test(row)}" if row.word == "level with" else ""


def _describe_transfer(name: str, rows: _Rows) -> Iterable[str]:
    """Yield a sentence per image dataset, per changed architecture, and per kind of ensemble."""
    for question, words in (("transfer", "on"), ("changed", "in the architecture")):
        places = dict.fromkeys((row.where, row.rival) for row in rows if row.question == question)
        for where, rival in places:
            key = (question, where, rival)
            own = [row for row in rows if (row.question, row.where, row.rival) == key and row.epoch > 0]
            if own:
                yield f"Samples of {name} fine-tuned {words} {where} next to {rival}: {_compare_epochs(own)}."
    for row in (row for row in rows if row.question == "ensembles"):
        test = f"{_describe_test(row).removesuffix(' pairs')} images"
        yield (
            f"Ensembles of samples of {name} ({row.where}) {_VERBS[row.word]} ensembles of {row.rival}: "
            f"{_format_means(row)} ({test})."
        )


def _format_means(row: SignificanceResult) -> str:
    return f"{100 * row.mean:.1f} % against {100 * row.rival_mean:.1f} %"


def _format_mean(population: PopulationResult, unit: Unit = PERCENT) -> str:
    return f"{unit.format(float(np.mean(population.zero_shot)))}{unit.symbol}"
