"""The tables of `modelzoo-generate --list` and `--estimate`: every zoo, its size and its cost on this machine."""

from typing import Any

import pandas as pd

from ..engines import get_engine
from ..generation import CatalogueEntry, CostKey, CostRate, list_shipped_zoos, list_zoos, measure_costs
from ..recipes import read_recipe
from .display import print_table, show_progress

_SECONDS = 3  # per measurement of one kind of zoo
_UPLOAD_MBIT = 100  # per second, of a connection to the Hub


def print_catalogue(recipe: str | None, config: str | None, *, estimate: bool, engine: str, quiet: bool) -> None:
    """Print one zoo, all zoos of a recipe, or all zoos of all shipped recipes, with totals.

    Args:
        recipe: Name or file of a recipe; all shipped recipes if None.
        config: A config of the recipe; all configs if None.
        estimate: Whether to add costs, measured on one core of this machine.
        engine: Name of the engine that is measured.
        quiet: Whether to hide the progress bar of the measurement.
    """
    zoos = list_shipped_zoos() if recipe is None else list_zoos(read_recipe(recipe), config)
    rates: dict[CostKey, CostRate] | None = None
    if estimate:
        with show_progress(quiet) as progress:
            rates = measure_costs(zoos, get_engine(engine, 1), seconds=_SECONDS, progress=progress)
    parts = {
        "zoos of 2209.14764": [z for z in zoos if z.recipe.source and not z.is_twins],
        "zoos of their sparsified twins": [z for z in zoos if z.recipe.source and z.is_twins],
        "other zoos": [z for z in zoos if not z.recipe.source],
    }
    rows = [row for part in parts.values() for row in (_row(zoo, rates) for zoo in part)]
    totals = [_total(f"{len(part)} {what}", part, rates) for what, part in parts.items() if part]
    print_table(pd.DataFrame([*rows, *totals]))
    published = [*parts["zoos of 2209.14764"], *parts["zoos of their sparsified twins"]]
    if recipe is None:
        trained, twins = (
            sum(z.states_as_published for z in published if z.is_twins is is_twins) for is_twins in (False, True)
        )
        print(
            f"As the paper counts them, without epoch 0 of the ResNets and of the twins: {trained:,} states, "
            f"{trained + twins:,} with twins."
        )
    if rates:
        print(
            f"core-h: measured on one core of this machine with {_engines(zoos, engine)}; evaluation of every state "
            f"included. upload: at {_UPLOAD_MBIT} Mbit/s, uncompressed."
        )


def _engines(zoos: list[CatalogueEntry], engine: str) -> str:
    """Return the names of the engines that train these zoos, as text."""
    selected = get_engine(engine, 1)
    names = {selected.resolve(name).name for name in {zoo.architecture.name for zoo in zoos}}
    return " and ".join(f"the {name} engine" for name in sorted(names))


def _row(zoo: CatalogueEntry, rates: dict[CostKey, CostRate] | None) -> dict[str, Any]:
    numbers = {"models": len(zoo.members), "states": zoo.states, "parameters": zoo.parameters}
    return {"zoo": zoo.name, **_format_counts(numbers), **_sizes([zoo], rates)}


def _total(what: str, zoos: list[CatalogueEntry], rates: dict[CostKey, CostRate] | None) -> dict[str, Any]:
    numbers = {"models": sum(len(z.members) for z in zoos), "states": sum(z.states for z in zoos)}
    return {"zoo": what, **_format_counts(numbers), "parameters": "", **_sizes(zoos, rates)}


def _sizes(zoos: list[CatalogueEntry], rates: dict[CostKey, CostRate] | None) -> dict[str, str]:
    weights = sum(4 * zoo.architecture.layout.size * zoo.states for zoo in zoos)
    cells = {"files": f"{sum(z.files for z in zoos):,}", "GB": _format_number(sum(z.bytes for z in zoos) / 1e9)}
    if rates is None:
        return cells
    hours = sum(rates[CostKey.from_zoo(zoo)].core_seconds(zoo) for zoo in zoos) / 3600
    upload = weights * 8 / (_UPLOAD_MBIT * 1e6) / 3600
    return {**cells, "core-h": _format_number(hours), "upload h": _format_number(upload)}


def _format_counts(numbers: dict[str, int]) -> dict[str, str]:
    return {name: f"{number:,}" for name, number in numbers.items()}


def _format_number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:,.1f}"
