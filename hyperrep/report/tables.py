"""Tables of an evaluation as text: the same rows in the terminal, in the report and on cards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..evaluation import (
    AMORTIZED,
    SCRATCH,
    Control,
    Curves,
    EqualWorkResult,
    EvaluationResult,
    Judgment,
    PairSummary,
    Places,
    PopulationResult,
    SignificanceResult,
    measure_dispersion,
    select_epoch,
)

_ENSEMBLE_SIZES = (1, 2, 5, 10, 20, 30)  # columns of the table, beside the largest
_FLOOR = -10  # a lower R² says no more


@dataclass(frozen=True)
class Unit:
    """Unit of accuracies, or of scores that stand in their place."""

    factor: float = 100.0
    digits: str = ".1f"
    symbol: str = " %"
    difference: str = " points"

    def format(self, value: float, sign: str = "") -> str:
        """Return a number without its symbol."""
        return f"{self.factor * value:{sign}{self.digits}}"

    def format_spread(self, values: Sequence[float]) -> str:
        """Return mean ± standard deviation of values; a dash without any."""
        if len(values) == 0:
            return "-"
        mean = self.format(float(np.mean(values)))
        return mean if len(values) == 1 else f"{mean} ± {self.format(float(np.std(values, ddof=1)))}"


PERCENT, NUMBER = Unit(), Unit(1.0, ".3g", "", "")


def choose_unit(evaluation: EvaluationResult) -> Unit:
    """Return the unit of accuracies, or of scores."""
    return NUMBER if evaluation.score else PERCENT


def accuracy_table(
    populations: Sequence[PopulationResult], epochs: Sequence[int] = (1, 5), unit: Unit = PERCENT
) -> pd.DataFrame:
    """Return a row per population: n, test accuracy (percent, mean ± standard deviation), distance to training states.

    Args:
        populations: the results.
        epochs: epochs of fine-tuning whose accuracies are shown.
        unit: unit of the accuracies.
    """
    return pd.DataFrame(
        {
            "population": population.name,
            "n": str(population.n),
            "zero-shot": unit.format_spread(population.zero_shot),
            **_format_epochs(population.curves, epochs),
            "n tuned": str(len(population.curves)),
            "distance": _format_spread(population.distance, 2),
        }
        for population in populations
    )


def novelty_table(populations: Sequence[PopulationResult], unit: Unit = PERCENT) -> pd.DataFrame:
    """Return a row per population: distance to training states, error overlap with them, and diversity.

    Dispersion is the pairwise distance, and the pairwise disagreement, over those of zoo members.
    """
    by_name = {population.name: population for population in populations}
    return pd.DataFrame(
        {
            "population": population.name,
            "n": str(population.n),
            "zero-shot": unit.format_spread(population.zero_shot),
            "distance": _format_spread(population.distance, 3),
            "error overlap (IoU)": _format_spread(population.error_overlap, 2),
            "pairwise distance": _format_pairs(population.pairs.get("distance"), 2),
            "pairwise agreement": _format_pairs(population.pairs.get("agreement"), 3),
            "dispersion": _format_dispersion(measure_dispersion(population, by_name)),
        }
        for population in populations
        if population.distance
    )


def judgment_table(
    populations: Sequence[PopulationResult], judgments: Mapping[str, Judgment], unit: Unit = PERCENT
) -> pd.DataFrame:
    """Return a row per population of samples: what they are, beside the strongest null at equal novelty.

    Args:
        populations: the results.
        judgments: name of samples -> what they are.
        unit: unit of the accuracies.
    """
    rows = []
    for population in (p for p in populations if p.name in judgments):
        judgment = judgments[population.name]
        null = judgment.null.removesuffix(f" like {population.name}")
        rows.append(
            {
                "samples": population.name,
                "they are": judgment.kind,
                "zero-shot": unit.format_spread(population.zero_shot),
                "novelty": f"{judgment.distance:.2f}",
                "strongest null": "-" if judgment.null_mean is None else f"{unit.format(judgment.null_mean)}, {null}",
                "difference": _format_points(judgment.difference, judgment.low, judgment.high, unit),
                "dispersion": _format_dispersion((judgment.weight_dispersion, judgment.prediction_dispersion)),
            }
        )
    return pd.DataFrame(rows)


def _format_points(difference: float | None, low: float | None, high: float | None, unit: Unit) -> str:
    if difference is None:
        return "-"
    return f"{unit.format(difference, '+')} {_format_limits(low, high, unit)}".removesuffix(" -")


def _format_limits(low: float | None, high: float | None, unit: Unit) -> str:
    """Return an interval in points."""
    return "-" if low is None or high is None else f"[{unit.format(low, '+')}, {unit.format(high, '+')}]"


def accounting_table(
    populations: Sequence[PopulationResult], epochs: Sequence[int], offset: int
) -> pd.DataFrame | None:
    """Return samples next to scratch under both ways to count epochs; None without samples.

    The paper counts the epochs of the learned-from models as epochs of the samples.

    Args:
        populations: the results.
        epochs: epochs of fine-tuning, a row each.
        offset: epochs by which scratch is ahead in the second count.
    """
    scratch = next((p for p in populations if p.name == SCRATCH), None)
    rows = []
    for population in (p for p in populations if p.is_sample and p.curves):
        for epoch in (0, *epochs):
            row = {"population": population.name, "epochs": str(epoch)}
            row["accuracy"] = _format_percent(select_epoch(population.curves, epoch))
            if scratch is not None:
                row["scratch, same epochs"] = _format_percent(select_epoch(scratch.curves, epoch))
                row[f"scratch, {offset} more"] = _format_percent(select_epoch(scratch.curves, epoch + offset))
            rows.append(row)
    return pd.DataFrame(rows) if rows else None


def transfer_table(places: Places, epochs: Sequence[int]) -> pd.DataFrame:
    """Return a row per image dataset or architecture and population: accuracy over epochs of fine-tuning there."""
    return pd.DataFrame(
        [
            {"where": place, "population": name, "n": str(result.n)} | _format_epochs(result.curves, (0, *epochs))
            for place, results in places.items()
            for name, result in results.items()
        ]
    )


def ensemble_table(populations: Sequence[PopulationResult]) -> pd.DataFrame:
    """Return a row per population with ensembles: accuracy in percent by the number of members."""
    rows: list[dict[str, str]] = []
    for population in populations:
        for kind, ensemble in population.ensembles.items():
            mean, last = ensemble.mean, len(ensemble.mean)
            row = {"population": population.name, "models": kind}
            for s in _ENSEMBLE_SIZES:
                row[str(s)] = f"{100 * mean[s - 1]:.1f} ± {100 * ensemble.std[s - 1]:.1f}" if s <= last else "-"
            rows.append({**row, "largest": f"{100 * mean[-1]:.1f} of {last}"})
    return pd.DataFrame(rows)


def significance_table(rows: Sequence[SignificanceResult], unit: Unit = PERCENT) -> pd.DataFrame:
    """Return a row per test: both means in percent, their difference in points with its 95 % interval, p and n."""
    cells = []
    for row in rows:
        cells.append(
            {
                "where": row.where or "-",
                "population": row.population,
                "against": row.rival,
                "epochs": str(row.epoch),
                "mean": unit.format(row.mean),
                "other": unit.format(row.rival_mean),
                "difference": unit.format(row.difference, "+"),
                "95 %": _format_limits(row.low, row.high, unit),
                "p": "-" if row.p is None else format_p_value(row.p),
                "test": row.test,
                "n": str(row.n) if row.test == "paired" else f"{row.n}, {row.n_rival}",
            }
        )
    table = pd.DataFrame(cells)
    return table.drop(columns="where") if cells and (table["where"] == "-").all() else table


def format_markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    lines = [[str(name) for name in table.columns], ["---"] * len(table.columns)]
    lines += [[str(cell) for cell in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def equal_work_table(
    work: EqualWorkResult, populations: Sequence[PopulationResult], epochs: Sequence[int]
) -> pd.DataFrame:
    """Return samples, before and after fine-tuning, beside members that got the image gradients of their learning.

    Args:
        work: the members.
        populations: the results; samples that were fine-tuned have rows.
        epochs: epochs of fine-tuning, a row of each population each.
    """
    rows = []
    for samples in (p for p in populations if p.is_sample and p.curves):
        for epoch in (0, *epochs):
            gradients = work.count_budget(AMORTIZED) + epoch * work.epoch_gradients
            values = select_epoch(samples.curves, epoch) if epoch else samples.zero_shot
            rows.append(_make_work_row(samples.name, gradients, epoch, values))
    for name, result in work.curves.items():
        epoch, spent, budget = len(result.curves[0]) - 1, work.count_spent(name), work.count_budget(name)
        row = _make_work_row(name, spent, epoch, select_epoch(result.curves, epoch))
        rows.append(row | {"budget": f"{budget:,}, cut" if spent < budget else f"{budget:,}"})
    return pd.DataFrame(rows).fillna("")


def _make_work_row(name: str, gradients: int, epoch: int, values: Sequence[float]) -> dict[str, str]:
    return {
        "models": name,
        "n": str(len(values)),
        "image gradients each": f"{gradients:,}",
        "epochs of fine-tuning": str(epoch),
        "accuracy": _format_percent(values),
    }


def control_table(control: Control) -> pd.DataFrame:
    """Return a row per property and sampler: slope and R² of measured against asked values, with 95 % intervals."""
    return pd.DataFrame(
        {
            "property": name,
            "sampler": sampler,
            "n": str(len(result.requests)),
            "asked": f"{min(result.requests):.3f} to {max(result.requests):.3f}",
            "slope": format_interval(result.slope, result.slope_low, result.slope_high),
            "R²": format_interval(result.r2, result.r2_low, result.r2_high),
            "bias": f"{result.bias:+.3f}",
        }
        for name, results in control.items()
        for sampler, result in results.items()
    )


def format_p_value(p: float) -> str:
    """Return p in two digits; a t-test cannot tell values below one in ten thousand apart."""
    return f"{p:.2g}" if p >= 1e-4 else "< 0.0001"


def _format_epochs(curves: Curves, epochs: Iterable[int]) -> dict[str, str]:
    """Return a cell per epoch: the accuracy after it."""
    names = {epoch: f"{epoch} epoch{'s' if epoch > 1 else ''}" if epoch else "zero-shot" for epoch in epochs}
    return {name: _format_percent(select_epoch(curves, epoch)) for epoch, name in names.items()}


def _format_percent(values: Sequence[float]) -> str:
    return PERCENT.format_spread([value for value in values if value is not None])


def _format_spread(values: Sequence[float], digits: int) -> str:
    if len(values) == 0:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _format_pairs(summary: PairSummary | None, digits: int) -> str:
    """Return mean and spread over pairs, or a dash where there are no pairs."""
    if summary is None or summary.mean is None:
        return "-"
    spread = "" if summary.std is None else f" ± {summary.std:.{digits}f}"
    return f"{summary.mean:.{digits}f}{spread}"


def _format_dispersion(ratios: Iterable[float | None]) -> str:
    return " / ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)


def format_interval(value: float | None, low: float | None, high: float | None) -> str:
    """Return a number with its interval, a dash for none."""
    if value is None:
        return "-"
    if value < _FLOOR:
        return f"< {_FLOOR}"
    return f"{value:.3f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")
