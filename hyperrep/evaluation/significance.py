"""Significance tests of the protocol: which population is better, by how much, and how certain that is."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from modelzoo_datasets.analysis import compare_means

from ..json_record import replace_nan
from ..recipe import EvaluationRecipe
from .population import RANDOM, SCRATCH, TARGET_MEMBERS
from .populations import MEMBERS
from .result import CurveResult, Places, PopulationResult, SignificanceResult, select_epoch

_Populations = Mapping[str, PopulationResult]


def compare_populations(
    results: Sequence[PopulationResult], transfer: Places, changed: Places, recipe: EvaluationRecipe, offset: int
) -> list[SignificanceResult]:
    """Run all tests, in the order of the questions.

    Args:
        results: all populations.
        transfer: target -> curves of the populations that were fine-tuned on it.
        changed: architecture -> curves of the populations that were fine-tuned in it.
        recipe: the protocol.
        offset: epochs for which the learned-from models were trained (published: 25).
    """
    populations = {result.name: result for result in results}
    samplers = [result.name for result in results if result.is_sample]
    rows: list[SignificanceResult] = []
    for name in samplers:
        rows += _compare_zero_shot(name, populations)
    for name in samplers:
        rows += _compare_finetuning(name, populations, recipe, offset)
    for question, places, rivals in (
        ("transfer", transfer, (MEMBERS, SCRATCH, TARGET_MEMBERS)),
        ("changed", changed, (RANDOM, MEMBERS)),
    ):
        for where, curves in places.items():
            for name in (name for name in samplers if name in curves):
                rows += _compare_transfer(question, where, name, curves, rivals, recipe)
    for name in samplers:
        rows += _compare_ensembles(name, populations)
    return rows


def _compare_zero_shot(name: str, populations: _Populations) -> Iterator[SignificanceResult]:
    """Compare samples with their matched baselines, pair by pair, and with zoo members."""
    samples = populations[name].zero_shot
    for baseline in populations.values():
        if baseline.matched_to == name:
            matched = [samples[i] for i in baseline.matched_index]
            yield from compare_values(
                "zero-shot", "", name, baseline.name, 0, matched, baseline.zero_shot, is_paired=True
            )
    if MEMBERS in populations:
        yield from compare_values("zero-shot", "", name, MEMBERS, 0, samples, populations[MEMBERS].zero_shot)


def _compare_finetuning(
    name: str, populations: _Populations, recipe: EvaluationRecipe, offset: int
) -> Iterator[SignificanceResult]:
    rivals = [MEMBERS, *(p.name for p in populations.values() if p.matched_to == name)]
    for epoch in recipe.finetune_epochs:
        samples = select_epoch(populations[name].curves, epoch)
        for rival in rivals:
            if rival in populations:
                values = select_epoch(populations[rival].curves, epoch)
                yield from compare_values("fine-tuning", "", name, rival, epoch, samples, values)
        scratch = populations[SCRATCH].curves if SCRATCH in populations else []
        yield from compare_values("fine-tuning", "", name, SCRATCH, epoch, samples, select_epoch(scratch, epoch))
        # The paper's counting: the epochs of the learned-from models count as epochs of the samples.
        later = select_epoch(scratch, epoch + offset)
        yield from compare_values("fine-tuning", f"+{offset}", name, SCRATCH, epoch, samples, later)


def _compare_transfer(
    question: str,
    where: str,
    name: str,
    curves: Mapping[str, CurveResult],
    rivals: Sequence[str],
    recipe: EvaluationRecipe,
) -> Iterator[SignificanceResult]:
    for epoch in (0, *recipe.finetune_epochs):
        for rival in (rival for rival in rivals if rival in curves):
            samples, values = (select_epoch(curves[one].curves, epoch) for one in (name, rival))
            yield from compare_values(question, where, name, rival, epoch, samples, values)


def _compare_ensembles(name: str, populations: _Populations) -> Iterator[SignificanceResult]:
    """Compare the largest ensembles of samples and of zoo members, image by image of the test split.

    The score of an image is the share of random orders whose largest ensemble is right, so that the means are those of
    the table of ensembles.
    """
    rivals = populations[MEMBERS].ensembles if MEMBERS in populations else {}
    for kind, ensemble in populations[name].ensembles.items():
        if rival := rivals.get(kind):
            where = f"{kind}, {len(ensemble.mean)} and {len(rival.mean)} models"
            yield from compare_values("ensembles", where, name, MEMBERS, 0, ensemble.hits, rival.hits, is_paired=True)


def compare_values(
    question: str,
    where: str,
    population: str,
    rival: str,
    epoch: int,
    values: Sequence[float],
    rival_values: Sequence[float],
    *,
    is_paired: bool = False,
) -> Iterator[SignificanceResult]:
    """Yield one test, unless a side has no values.

    Args:
        question: what is compared.
        where: image dataset, architecture, or which counting of epochs.
        population: name of a population.
        rival: name of the other.
        epoch: epochs of fine-tuning.
        values: accuracies of the population.
        rival_values: accuracies of the rival.
        is_paired: whether they correspond one by one.
    """
    if not len(values) or not len(rival_values):
        return
    comparison = compare_means(values, rival_values, paired=is_paired)
    numbers = replace_nan(vars(comparison))
    n_rival = numbers.pop("m")
    yield SignificanceResult(
        question=question,
        where=where,
        population=population,
        rival=rival,
        epoch=epoch,
        mean=float(np.mean(values)),
        rival_mean=float(np.mean(rival_values)),
        word=comparison.word,
        n_rival=n_rival,
        **numbers,
    )
