"""Tables as text: the same rows in the terminal and in the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

_ENSEMBLES = (1, 2, 5, 10, 20, 30)  # sizes that are shown, beside the largest


def accuracy_table(populations: Sequence[Mapping[str, Any]], epochs: Sequence[int] = (1, 5)) -> pd.DataFrame:
    """One row per population: n, test accuracy (percent, mean ± standard deviation), distance to training states.

    Args:
        epochs: of fine-tuning, after which accuracies are shown.
    """
    rows = []
    for population in populations:
        row = {"population": population["name"], "n": str(population["n"])}
        row["zero-shot"] = _percent(population["zero_shot"])
        row |= {_after(epoch): _percent(at_epoch(population, epoch)) for epoch in epochs}
        row["n tuned"] = str(len(population["curves"]))
        row["distance"] = _spread(population["distance"], 2)
        rows.append(row)
    return pd.DataFrame(rows)


def novelty_table(populations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per population: how far from training states, how alike in errors with one, how alike among itself."""
    rows = []
    for population in (p for p in populations if p["distance"]):
        pairs = population["pairs"]
        rows.append(
            {
                "population": population["name"],
                "n": str(population["n"]),
                "zero-shot": _percent(population["zero_shot"]),
                "distance": _spread(population["distance"], 3),
                "errors shared": _spread(population["error_similarity"], 2),
                "distance in pairs": _summary(pairs["distance"], 2),
                "agreement in pairs": _summary(pairs["agreement"], 3),
            }
        )
    return pd.DataFrame(rows)


def accounting_table(
    populations: Sequence[Mapping[str, Any]], epochs: Sequence[int], offset: int
) -> pd.DataFrame | None:
    """Samples beside scratch, which has had `offset` epochs more in the second count; None without samples.

    The paper counts the epochs that the models learned from had as the samples' own.
    """
    scratch = next((p for p in populations if p["name"] == "scratch"), None)
    rows = []
    for population in (p for p in populations if p["sampled"] and p["curves"]):
        for epoch in (0, *epochs):
            row = {"population": population["name"], "epochs": str(epoch)}
            row["accuracy"] = _percent(at_epoch(population, epoch))
            if scratch is not None:
                row["scratch after as many"] = _percent(at_epoch(scratch, epoch))
                row[f"scratch after {offset} more"] = _percent(at_epoch(scratch, epoch + offset))
            rows.append(row)
    return pd.DataFrame(rows) if rows else None


def elsewhere_table(places: Mapping[str, Mapping[str, Mapping[str, Any]]], epochs: Sequence[int]) -> pd.DataFrame:
    """One row per place (image dataset or architecture) and population: accuracy over epochs of fine-tuning there."""
    return pd.DataFrame(
        [
            {"where": place, "population": name, "n": str(found["n"])}
            | {_after(epoch): _percent(at_epoch(found, epoch)) for epoch in (0, *epochs)}
            for place, judged in places.items()
            for name, found in judged.items()
        ]
    )


def ensemble_table(populations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per population that ensembles were made of: accuracy in percent by the number of members."""
    rows: list[dict[str, str]] = []
    for population in populations:
        for kind, found in population["ensembles"].items():
            mean, last = found["mean"], len(found["mean"])
            row = {"population": population["name"], "models": kind}
            for s in _ENSEMBLES:
                row[str(s)] = f"{100 * mean[s - 1]:.1f} ± {100 * found['std'][s - 1]:.1f}" if s <= last else "-"
            rows.append({**row, "largest": f"{100 * mean[-1]:.1f} of {last}"})
    return pd.DataFrame(rows)


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per test: both means in percent, their difference in points with its 95 % interval, p and n."""
    shown = []
    for row in rows:
        interval = "-" if row["low"] is None else f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        shown.append(
            {
                "where": row["where"] or "-",
                "population": row["one"],
                "against": row["other"],
                "epochs": str(row["epoch"]),
                "mean": f"{100 * row['mean']:.1f}",
                "other": f"{100 * row['other_mean']:.1f}",
                "difference": f"{100 * row['difference']:+.1f}",
                "95 %": interval,
                "p": "-" if row["p"] is None else p_value(row["p"]),
                "test": row["test"],
                "n": str(row["n"]) if row["test"] == "paired" else f"{row['n']}, {row['m']}",
            }
        )
    table = pd.DataFrame(shown)
    return table.drop(columns="where") if shown and (table["where"] == "-").all() else table


def probe_table(probes: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per property and representation: R² and Kendall's tau, or accuracy, with 95 % intervals over models."""
    rows = []
    for probe in probes:
        number = probe["majority"] is None
        rows.append(
            {
                "property": probe["property"],
                "from": probe["representation"],
                "R²": _interval(probe, "r2") if number else "",
                "tau": _interval(probe, "tau") if number else "",
                "of at most": f"{probe['tau_ceiling']:.3f}" if probe["tau_ceiling"] is not None else "",
                "accuracy": "" if number else _interval(probe, "accuracy"),
                "most frequent": "" if number else f"{probe['majority']:.3f}",
                "models": str(probe["models"]),
            }
        )
    table = pd.DataFrame(rows)
    return table[[name for name in table.columns if (table[name] != "").any()]]


def at_epoch(population: Mapping[str, Any], epoch: int) -> list[float]:
    """Accuracies of a population's models after so many epochs, of those that were trained so long."""
    values = (curve[epoch] for curve in population["curves"] if epoch < len(curve))
    return [value for value in values if value is not None]


def p_value(p: float) -> str:
    """In two digits; below one in ten thousand its size says nothing that a t-test could know."""
    return f"{p:.2g}" if p >= 1e-4 else "< 0.0001"


def _after(epoch: int) -> str:
    return "zero-shot" if epoch == 0 else f"{epoch} epoch{'s' if epoch > 1 else ''}"


def _percent(values: Sequence[float]) -> str:
    return _spread([100 * value for value in values if value is not None], 1)


def _spread(values: Any, digits: int) -> str:
    if len(values) == 0:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _summary(summary: Mapping[str, Any], digits: int) -> str:
    """Mean and spread over pairs, as far as there are pairs."""
    if summary["mean"] is None:
        return "-"
    spread = "" if summary["std"] is None else f" ± {summary['std']:.{digits}f}"
    return f"{summary['mean']:.{digits}f}{spread}"


def _interval(probe: Mapping[str, Any], name: str) -> str:
    if probe[name] is None:
        return "-"
    low, high = probe[f"{name}_low"], probe[f"{name}_high"]
    return f"{probe[name]:.3f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")
