"""What the benchmarks of engines have in common: options, the lines around the tables, ratios."""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from live import Case, Rival, Team, Turn, started, stop, take_turns
from machine import heading, load, usable_cores

PACKAGES = ("torch", "jax")


def parser_of(description: str | None, rivals: Sequence[str], seconds: float) -> argparse.ArgumentParser:
    """The options that all of them take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", nargs="+", default=rivals, choices=rivals, metavar="NAME", help=", ".join(rivals))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=seconds, help="of one rival in one round")
    parser.add_argument("--engine", default="native", help="ours")
    parser.add_argument("--models", type=int, default=16, help="that our engine is given at once, at the least")
    parser.add_argument("--cores", type=int, default=min(2, usable_cores()))
    parser.add_argument(
        "--quick", action="store_true", help="least work, to see that it runs: its numbers mean nothing"
    )
    return parser


@contextmanager
def report(cores: int, rounds: int) -> Iterator[Path]:
    """The lines before and after the tables; a folder that is removed at the end."""
    print(heading(cores, PACKAGES))
    print(f"load average at the start {load()}; medians of {rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
    print(f"\nload average at the end {load()}")


def measured(
    rivals: Mapping[str, Rival[Case]],
    case: Case,
    options: argparse.Namespace,
    before_a_round: Callable[[], None] = lambda: None,
) -> dict[str, Team]:
    """Every rival has had its turns; processes live for this case alone."""
    with tempfile.TemporaryDirectory() as folder:
        # Everything is compiled anew: nothing kept from before makes a first call shorter.
        if not options.quick:
            os.environ |= {"XDG_CACHE_HOME": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
        teams = started(rivals, case, options.cores)
        try:
            for name, team in teams.items():
                team.warm_up(options.seconds)
                print(f"{case}: {name}, first call {team.first_call:.1f} s", file=sys.stderr, flush=True)
            take_turns(list(teams.values()), options.rounds, before_a_round)
        finally:
            stop(teams.values())
    return teams


def installed(rivals: Mapping[str, Rival[Case]], names: Sequence[str]) -> dict[str, Rival[Case]]:
    """Those of the rivals named whose packages are there; a line for every other one."""
    there = {}
    for name in names:
        if rivals[name].needs and find_spec(rivals[name].needs) is None:
            print(f"{rivals[name].label}: skipped, {rivals[name].needs} is not installed")
        else:
            there[name] = rivals[name]
    return there


def ratio(turns: Sequence[Turn], base: Team | None, *, by_cpu: bool = False, spread: bool = False) -> str:
    """Median of the ratios within each round; with `spread` the smallest and the largest too."""
    if base is None:
        return "-"
    pairs = zip(turns, base.turns, strict=True)
    ratios = [a.cpu_rate / b.cpu_rate if by_cpu else a.rate / b.rate for a, b in pairs]
    middle = f"{statistics.median(ratios):.2f}"
    return f"{middle} ({min(ratios):.2f} to {max(ratios):.2f})" if spread else middle


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *lines))
