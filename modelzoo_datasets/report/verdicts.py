"""What the numbers say, in words that follow from them: each sentence is chosen by a comparison, none is fixed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_CLEAR = 2.0  # standard errors by which means must differ before one is called better


def verdicts(populations: Mapping[str, Mapping[str, Any]], evaluation: Mapping[str, Any]) -> list[str]:
    """Sentences about reconstruction, memorization, samplers against noise, and samples against scratch."""
    said = [_reconstruction(populations, evaluation)]
    for name, population in populations.items():
        twin = populations.get(f"noise like {name}")
        if twin is not None:
            said.append(_sampler(name, population, twin))
            said.append(_tuned_against(name, population, "noise of that size", twin))
            said.append(_tuned_against(name, population, "training from scratch", populations["scratch"]))
    return said


def _reconstruction(populations: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    unseen, train = (populations[f"reconstructed {s}"] for s in ("unseen", "training"))
    members = populations["zoo members"]
    r2_gap = evaluation["reconstruction"]["train"]["total"] - evaluation["reconstruction"]["test"]["total"]
    memorized = f": {r2_gap:.2f} of R² is memorized, not learned" if r2_gap > 0 else ""
    kept = np.mean(unseen["zero_shot"]) / np.mean(members["zero_shot"])
    r2 = evaluation["reconstruction"]
    return (
        f"Reconstructions of unseen models keep {kept:.0%} of the accuracy of the models themselves "
        f"({_mean(unseen)} of {_mean(members)}; R² {r2['test']['total']:.2f}); those of training models "
        f"score {_mean(train)} (R² {r2['train']['total']:.2f}){memorized}."
    )


def _sampler(name: str, population: Mapping[str, Any], noise: Mapping[str, Any]) -> str:
    gap, error = _difference(population["zero_shot"], noise["zero_shot"])
    word = "beat" if gap > _CLEAR * error else "lose to" if gap < -_CLEAR * error else "equal"
    return (
        f"Samples of {name} lie {np.mean(population['distance']):.2f} layer standard deviations from the "
        f"nearest training state and score {_mean(population)} zero-shot; training states with noise of that "
        f"size score {_mean(noise)}: the samples {word} noise at equal novelty "
        f"(difference {100 * gap:+.1f} points, standard error {100 * error:.1f})."
    )


def _tuned_against(name: str, population: Mapping[str, Any], rival: str, other: Mapping[str, Any]) -> str:
    parts = []
    tuned, theirs = np.asarray(population["curves"]), np.asarray(other["curves"])
    for epoch in sorted({1, min(tuned.shape[1], theirs.shape[1]) - 1}):
        gap, error = _difference(tuned[:, epoch], theirs[:, epoch])
        word = "above" if gap > _CLEAR * error else "below" if gap < -_CLEAR * error else "level with"
        parts.append(
            f"{word} it after {epoch} epoch{'s' if epoch > 1 else ''} "
            f"({100 * tuned[:, epoch].mean():.1f} % against {100 * theirs[:, epoch].mean():.1f} %)"
        )
    return f"Fine-tuned samples of {name} beside {rival}: {' and '.join(parts)}."


def _difference(one: Any, other: Any) -> tuple[float, float]:
    """Difference of means and its standard error (Welch)."""
    a, b = np.asarray(one), np.asarray(other)
    error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return float(a.mean() - b.mean()), float(error)


def _mean(population: Mapping[str, Any]) -> str:
    return f"{100 * np.mean(population['zero_shot']):.1f} %"
