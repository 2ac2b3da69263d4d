"""The tests of the protocol: which population is better at what, by how much, and how sure that is.

Each is a row of plain values: question, where, one, other, epoch; both means, difference, its 95 % interval, p, test, n
of both.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from modelzoo_datasets.analysis import compare_means

from ..recipe import EvaluationRecipe
from .populations import MEMBERS
from .transfer import RANDOM, SCRATCH

Row = dict[str, Any]
Judged = Mapping[str, Mapping[str, Any]]  # name of a population -> what was measured


def comparisons(
    populations: Judged,
    transfer: Mapping[str, Judged],
    changed: Mapping[str, Judged],
    recipe: EvaluationRecipe,
    offset: int,
) -> list[Row]:
    """All tests, in the order of the questions.

    Args:
        transfer: image dataset -> populations tried on it.
        changed: architecture -> populations tried in it.
        offset: epochs that the zoo's models had been trained for when they were learned from (published: 25).
    """
    samplers = [name for name, population in populations.items() if population["sampled"]]
    rows: list[Row] = []
    for name in samplers:
        rows += _zero_shot(name, populations)
    for name in samplers:
        rows += _tuned(name, populations, recipe, offset)
    for question, places, rivals in (
        ("transfer", transfer, (MEMBERS, SCRATCH)),
        ("changed", changed, (RANDOM, MEMBERS)),
    ):
        for where, judged in places.items():
            for name in (name for name in samplers if name in judged):
                rows += _elsewhere(question, where, name, judged, rivals, recipe)
    for name in samplers:
        rows += _ensembles(name, populations)
    return rows


def _zero_shot(name: str, populations: Judged) -> Iterator[Row]:
    """Samples against what is made to be as new, pair by pair, and against the zoo itself."""
    one = populations[name]["zero_shot"]
    for mirror in populations.values():
        if mirror["mirrors"] == name:
            mine = [one[i] for i in mirror["partners"]]
            yield from _row("zero-shot", "", name, mirror["name"], 0, mine, mirror["zero_shot"], paired=True)
    if MEMBERS in populations:
        yield from _row("zero-shot", "", name, MEMBERS, 0, one, populations[MEMBERS]["zero_shot"])


def _tuned(name: str, populations: Judged, recipe: EvaluationRecipe, offset: int) -> Iterator[Row]:
    rivals = [MEMBERS, *(p["name"] for p in populations.values() if p["mirrors"] == name)]
    for epoch in recipe.finetune_epochs:
        mine = _at(populations[name], epoch)
        for rival in rivals:
            if rival in populations:
                yield from _row("fine-tuning", "", name, rival, epoch, mine, _at(populations[rival], epoch))
        yield from _row("fine-tuning", "", name, SCRATCH, epoch, mine, _at(populations[SCRATCH], epoch))
        # As the paper counts: the epochs that the learned-from models had are the samples' own.
        later = _at(populations[SCRATCH], epoch + offset)
        yield from _row("fine-tuning", f"+{offset}", name, SCRATCH, epoch, mine, later)


def _elsewhere(
    question: str, where: str, name: str, judged: Judged, rivals: Sequence[str], recipe: EvaluationRecipe
) -> Iterator[Row]:
    for epoch in (0, *recipe.finetune_epochs):
        for rival in rivals:
            if rival in judged:
                mine, theirs = _at(judged[name], epoch), _at(judged[rival], epoch)
                yield from _row(question, where, name, rival, epoch, mine, theirs)


def _ensembles(name: str, populations: Judged) -> Iterator[Row]:
    """The largest ensembles of both, trained on as long, image by image of the test split."""
    rivals = populations.get(MEMBERS, {}).get("ensembles", {})
    for kind, mine in populations[name]["ensembles"].items():
        if rival := rivals.get(kind):
            hits = [_hits(of) for of in (mine, rival)]
            where = f"{kind}, {len(mine['mean'])} and {len(rival['mean'])} models"
            yield from _row("ensembles", where, name, MEMBERS, 0, *hits, paired=True)


def _hits(ensemble: Mapping[str, Any]) -> np.ndarray:
    hits = np.ones(ensemble["images"])
    hits[ensemble["missed"]] = 0
    return hits


def _at(population: Mapping[str, Any], epoch: int) -> list[float]:
    """Accuracies after an epoch, of the models that were trained so long."""
    values = (curve[epoch] for curve in population["curves"] if epoch < len(curve))
    return [value for value in values if value is not None]


def _row(
    question: str, where: str, one: str, other: str, epoch: int, mine: Any, theirs: Any, *, paired: bool = False
) -> Iterator[Row]:
    """One comparison, unless a side has no values."""
    if not len(mine) or not len(theirs):
        return
    found = compare_means(mine, theirs, paired=paired)
    values = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in dataclasses.asdict(found).items()}
    yield {
        "question": question,
        "where": where,
        "one": one,
        "other": other,
        "epoch": epoch,
        "mean": float(np.mean(mine)),
        "other_mean": float(np.mean(theirs)),
        "word": found.word,
        **values,
    }
