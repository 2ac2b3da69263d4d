"""What `modelzoo-generate --list` and `--estimate` print: every zoo, its size, and what it costs here."""

from typing import Any

import pandas as pd

from ..engines import get_engine
from ..generation import CostKey, CostRate, ZooFacts, all_zoos, measure, zoos_of
from ..recipes import read_recipe
from .display import show_progress
from .table import print_table

_SECONDS = 3  # of measuring, for every kind of zoo
_UPLOAD_MBIT = 100  # of a line to the Hub, per second


def print_catalogue(recipe: str | None, config: str, *, estimate: bool, engine: str, quiet: bool) -> None:
    """Print one zoo, all zoos of a recipe, or those of every shipped one, with totals.

    Args:
        recipe: name or file; all shipped ones if None.
        config: one of the recipe; all if empty.
        estimate: costs too, measured on one core of this machine.
    """
    zoos = all_zoos() if recipe is None else zoos_of(read_recipe(recipe), config)
    rates: dict[CostKey, CostRate] | None = None
    if estimate:
        with show_progress(quiet) as progress:
            rates = measure(zoos, get_engine(engine, 1), seconds=_SECONDS, progress=progress)
    parts = {
        "zoos of 2209.14764": [z for z in zoos if z.recipe.source and not z.twins],
        "zoos of their sparsified twins": [z for z in zoos if z.recipe.source and z.twins],
        "other zoos": [z for z in zoos if not z.recipe.source],
    }
    rows = [row for part in parts.values() for row in (_row(zoo, rates) for zoo in part)]
    totals = [_total(f"{len(part)} {what}", part, rates) for what, part in parts.items() if part]
    print_table(pd.DataFrame([*rows, *totals]))
    published = [*parts["zoos of 2209.14764"], *parts["zoos of their sparsified twins"]]
    if recipe is None:
        trained, twins = (sum(z.states_as_published for z in published if z.twins is kind) for kind in (False, True))
        print(
            f"As the paper counts them, without epoch 0 of the ResNets and of the twins: {trained:,} states, "
            f"{trained + twins:,} with twins."
        )
    if rates:
        print(
            f"core-h: measured on one core of this machine with {_engines(zoos, engine)}; evaluation of every state "
            f"included. upload: at {_UPLOAD_MBIT} Mbit/s, weights as they are."
        )


def _engines(zoos: list[ZooFacts], engine: str) -> str:
    """Which engines train these zoos, in words."""
    chosen = get_engine(engine, 1)
    names = {chosen.resolve(name).name for name in {zoo.architecture.name for zoo in zoos}}
    return " and ".join(f"the {name} engine" for name in sorted(names))


def _row(zoo: ZooFacts, rates: dict[CostKey, CostRate] | None) -> dict[str, Any]:
    numbers = {"models": len(zoo.members), "states": zoo.states, "parameters": zoo.parameters}
    return {"zoo": zoo.name, **_shown(numbers), **_sizes([zoo], rates)}


def _total(what: str, zoos: list[ZooFacts], rates: dict[CostKey, CostRate] | None) -> dict[str, Any]:
    numbers = {"models": sum(len(z.members) for z in zoos), "states": sum(z.states for z in zoos)}
    return {"zoo": what, **_shown(numbers), "parameters": "", **_sizes(zoos, rates)}


def _sizes(zoos: list[ZooFacts], rates: dict[CostKey, CostRate] | None) -> dict[str, str]:
    weights = sum(4 * zoo.architecture.layout.size * zoo.states for zoo in zoos)
    shown = {"files": f"{sum(z.files for z in zoos):,}", "GB": _rounded(sum(z.bytes for z in zoos) / 1e9)}
    if rates is None:
        return shown
    hours = sum(rates[CostKey.of(zoo)].core_seconds(zoo) for zoo in zoos) / 3600
    upload = weights * 8 / (_UPLOAD_MBIT * 1e6) / 3600
    return {**shown, "core-h": _rounded(hours), "upload h": _rounded(upload)}


def _shown(numbers: dict[str, int]) -> dict[str, str]:
    return {name: f"{number:,}" for name, number in numbers.items()}


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:,.1f}"
