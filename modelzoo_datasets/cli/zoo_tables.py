"""The tables of `modelzoo-generate --list` and `--estimate`: every zoo, its size and its cost on this machine."""

from collections.abc import Sequence

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
    published = [zoo for zoo in zoos if zoo.recipe.source and not zoo.is_twins]
    twins = [zoo for zoo in zoos if zoo.recipe.source and zoo.is_twins]
    other = [zoo for zoo in zoos if not zoo.recipe.source]
    parts = {"zoos of 2209.14764": published, "zoos of their sparsified twins": twins, "other zoos": other}
    rows = [_make_row(zoo.name, [zoo], rates, f"{zoo.parameters:,}") for part in parts.values() for zoo in part]
    totals = [_make_row(f"{len(part)} {what}", part, rates) for what, part in parts.items() if part]
    print_table(pd.DataFrame([*rows, *totals]))
    if recipe is None:
        num_states, num_twin_states = (sum(zoo.states_as_published for zoo in part) for part in (published, twins))
        print(
            f"As the paper counts them, without epoch 0 of the ResNets and of the twins: {num_states:,} states, "
            f"{num_states + num_twin_states:,} with twins."
        )
    if rates:
        print(
            f"core-h: measured on one core of this machine with {_name_engines(zoos, engine)}; evaluation of every "
            f"state included. upload: at {_UPLOAD_MBIT} Mbit/s, uncompressed."
        )


def _name_engines(zoos: list[CatalogueEntry], engine: str) -> str:
    """Return the names of the engines that train these zoos, as text."""
    selected = get_engine(engine, 1)
    names = {selected.resolve(name).name for name in {zoo.architecture.name for zoo in zoos}}
    return " and ".join(f"the {name} engine" for name in sorted(names))


def _make_row(
    name: str, zoos: Sequence[CatalogueEntry], rates: dict[CostKey, CostRate] | None, parameters: str = ""
) -> dict[str, str]:
    """Return the cells of one zoo, or of the total of several."""
    cells = {
        "zoo": name,
        "models": f"{sum(len(zoo.members) for zoo in zoos):,}",
        "states": f"{sum(zoo.states for zoo in zoos):,}",
        "parameters": parameters,
        "files": f"{sum(zoo.files for zoo in zoos):,}",
        "GB": _format_number(sum(zoo.bytes for zoo in zoos) / 1e9),
    }
    if rates is None:
        return cells
    seconds = sum(rates[CostKey.from_zoo(zoo)].core_seconds(zoo) for zoo in zoos)
    weights_bytes = sum(4 * zoo.architecture.layout.size * zoo.states for zoo in zoos)
    upload = 8 * weights_bytes / (_UPLOAD_MBIT * 1e6)
    return {**cells, "core-h": _format_number(seconds / 3600), "upload h": _format_number(upload / 3600)}


def _format_number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:,.1f}"
