"""The table of probes, and what its columns mean."""

from collections.abc import Sequence

import pandas as pd

from ..probes import Probe
from .tables import format_interval

_CEILINGS = {
    "errors": "ceiling: R² of a predictor that knows all models without the noise of a finite number of images",
    "size": "ceiling: R² of a predictor that knows all models without the noise of a finite number of images, if every "
    "model had images of its own; models of a zoo share their images and errors, so that the true ceiling is higher",
}


def probe_table(probes: Sequence[Probe]) -> pd.DataFrame:
    """Return a row per property and representation: R² within an epoch first, or accuracy; intervals over models."""
    rows = []
    for probe in probes:
        is_number, above = probe.majority is None, probe.is_above_baseline()
        accuracy = format_interval(probe.accuracy, probe.accuracy_low, probe.accuracy_high)
        rows.append(
            {
                "property": probe.property,
                "from": probe.representation,
                "R² in an epoch": format_interval(probe.r2_within, probe.r2_within_low, probe.r2_within_high)
                if probe.epochs
                else "",
                "ceiling": _format_number(probe.ceiling_within),
                "accuracy": "" if is_number else accuracy,
                "majority class": _format_number(probe.majority),
                "beats epoch": "" if above is None else "yes" if above else "no",
                "R² pooled": format_interval(probe.r2, probe.r2_low, probe.r2_high) if is_number else "",
                "pooled ceiling": _format_number(probe.ceiling),
                "tau": format_interval(probe.tau, probe.tau_low, probe.tau_high) if is_number else "",
                "highest tau": _format_number(probe.tau_ceiling),
                "tied": _format_number(probe.tied),
                "tau, none stuck": _format_number(probe.tau_untied),
                "models": str(probe.models),
            }
        )
    table = pd.DataFrame(rows)
    return table[[name for name in table.columns if (table[name] != "").any()]]


def describe_probes(probes: Sequence[Probe]) -> list[str]:
    """Return what the columns of `probe_table` mean for these probes, a sentence each."""
    lines = [_describe_within(probes)] if probes else []
    if any(probe.gain is not None for probe in probes):
        lines.append("beats epoch: the interval of the difference to hyper-parameters and epoch is above zero")
    lines += [_CEILINGS[kind] for kind in dict.fromkeys(probe.ceiling_from for probe in probes) if kind]
    if any(probe.tied for probe in probes):
        lines.append("tied: share of the pairs of states that differ in the property and not in the prediction")
    if probes and probes[0].left_out and probes[0].max_weight is not None:
        lines.append(f"{probes[0].left_out} states with a weight beyond {probes[0].max_weight:g} are left out")
    return lines


def _describe_within(probes: Sequence[Probe]) -> str:
    epochs = next((probe.epochs for probe in probes if probe.epochs), ())
    if not epochs:
        return "no property varies within an epoch"
    names = [name for name in dict.fromkeys(p.property for p in probes if p.majority is None and not p.epochs)]
    constant = f"; {', '.join(names)} {'do' if len(names) > 1 else 'does'} not vary within one" if names else ""
    if len(epochs) == 1:
        return f"R² in an epoch: of epoch {epochs[0]}, the only one{constant}"
    return f"R² in an epoch: around the mean of each epoch, mean over epochs {', '.join(map(str, epochs))}{constant}"


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
