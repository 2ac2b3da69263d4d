"""What the numbers say, in words that follow from them: each sentence is chosen by a test, none is fixed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .tables import p_value

_VERBS = {"above": "beat", "below": "lose to", "level with": "equal"}
Row = Mapping[str, Any]


def verdicts(evaluation: Mapping[str, Any]) -> list[str]:
    """Sentences about reconstruction, samplers against noise and averages, fine-tuning, and the further questions."""
    populations = {population["name"]: population for population in evaluation["populations"]}
    rows: Sequence[Row] = evaluation["comparisons"]
    said = [_reconstruction(populations, evaluation["reconstruction"])] if "zoo members" in populations else []
    for name, population in populations.items():
        if population["sampled"]:
            mine = [row for row in rows if row["one"] == name]
            said += [_novelty(name, population, populations, mine), *_tuned(name, mine), *_elsewhere(name, mine)]
    return said


def _reconstruction(populations: Mapping[str, Any], r2: Mapping[str, Any]) -> str:
    unseen, train = (populations[f"reconstructed {s}"] for s in ("unseen", "training"))
    members = populations["zoo members"]
    gap = r2["train"]["total"] - r2["test"]["total"]
    memorized = f": {gap:.2f} of R² is memorized, not learned" if gap > 0 else ""
    kept = np.mean(unseen["zero_shot"]) / np.mean(members["zero_shot"])
    return (
        f"Reconstructions of unseen models keep {kept:.0%} of the accuracy of the models themselves "
        f"({_mean(unseen)} of {_mean(members)}; R² {r2['test']['total']:.2f}); those of training models "
        f"score {_mean(train)} (R² {r2['train']['total']:.2f}){memorized}."
    )


def _novelty(name: str, population: Mapping[str, Any], populations: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Where samples lie, and whether they beat what is as new and needs no sampler."""
    told = (
        f"Samples of {name} (n={population['n']}) lie {np.mean(population['distance']):.2f} layer standard deviations "
        f"from the nearest training state, share {np.mean(population['error_similarity']):.0%} of their errors with "
        f"the most similar one, and score {_mean(population)} zero-shot"
    )
    against = [
        _against(row, kind)
        for kind in ("noise", "average")
        for row in rows
        if row["question"] == "zero-shot" and row["other"] == f"{kind} like {name}"
    ]
    if f"noise like {name}" in populations and f"average like {name}" not in populations:
        against.append("averages of two training states do not reach so far from them")
    return f"{told}: {'; '.join(against)}." if against else f"{told}."


def _against(row: Row, kind: str) -> str:
    rival = "noise" if kind == "noise" else "averages"
    few = "" if kind == "noise" else f" (for the {row['n']} samples that averages can be as far as)"
    return (
        f"the samples {_VERBS[row['word']]} {rival} at equal novelty{few}, {100 * row['mean']:.1f} % against "
        f"{100 * row['other_mean']:.1f} % ({_test(row)})"
    )


def _test(row: Row) -> str:
    counts = f"{row['n']} pairs" if row["test"] == "paired" else f"n={row['n']} and {row['m']}"
    if row["low"] is None:
        return f"difference {100 * row['difference']:+.1f} points, too few models for a test, {counts}"
    return (
        f"difference {100 * row['difference']:+.1f} points, 95 % interval {100 * row['low']:+.1f} to "
        f"{100 * row['high']:+.1f}, p {_equals(row['p'])}, {row['test']} t-test, {counts}"
    )


def _equals(p: float) -> str:
    shown = p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"


def _tuned(name: str, rows: Sequence[Row]) -> list[str]:
    """One sentence per rival: level with it or not, after the fewest and the most epochs."""
    mine = [row for row in rows if row["question"] == "fine-tuning"]
    rivals = {
        f"noise like {name}": ("", "noise of that size"),
        "scratch": ("", "training from scratch"),
        "zoo members": ("", "zoo members that are trained on"),
    }
    said = []
    for rival, (where, words) in rivals.items():
        if found := [row for row in mine if (row["other"], row["where"]) == (rival, where)]:
            said.append(f"Fine-tuned samples of {name} beside {words}: {_over_epochs(found)}.")
    if shifted := [row for row in mine if row["where"]]:
        more = shifted[0]["where"].removeprefix("+")
        said.append(
            f"Counted as the paper does, with {more} epochs more for scratch, samples of {name} are "
            f"{_over_epochs(shifted)}."
        )
    return said


def _over_epochs(rows: Sequence[Row]) -> str:
    ends = [rows[0], *rows[1:][-1:]]
    return " and ".join(
        f"{row['word']} it after {row['epoch']} epoch{'s' if row['epoch'] != 1 else ''} "
        f"({100 * row['mean']:.1f} % against {100 * row['other_mean']:.1f} %)"
        for row in ends
    )


def _elsewhere(name: str, rows: Sequence[Row]) -> Iterable[str]:
    """Other images, other architectures, ensembles: one sentence each."""
    for question, words in (("transfer", "on"), ("changed", "in the architecture")):
        places = dict.fromkeys((row["where"], row["other"]) for row in rows if row["question"] == question)
        for where, other in places:
            found = [
                row
                for row in rows
                if (row["question"], row["where"], row["other"]) == (question, where, other) and row["epoch"] > 0
            ]
            if found:
                yield f"Samples of {name} fine-tuned {words} {where} beside {other}: {_over_epochs(found)}."
    for row in (row for row in rows if row["question"] == "ensembles"):
        test = f"{_test(row).removesuffix(' pairs')} images"
        yield (
            f"Ensembles of samples of {name} ({row['where']}) {_VERBS[row['word']]} ensembles of {row['other']}: "
            f"{100 * row['mean']:.1f} % against {100 * row['other_mean']:.1f} % ({test})."
        )


def _mean(population: Mapping[str, Any]) -> str:
    return f"{100 * np.mean(population['zero_shot']):.1f} %"
