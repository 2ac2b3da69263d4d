"""How fast many small models are trained: us, and what one would do instead, taking turns in one run.

    python benchmarks/training.py      prints Markdown; a quarter of an hour on two cores, most of it for the rivals

Every rival keeps all cores busy: a process of one thread for each core, or one process that uses them all. A step is
forwards, backwards and Adam for one model; evaluation is no part of it.
"""

import argparse
import statistics
from collections.abc import Mapping

import stacked
from live import Rival, Team
from machine import Peak, flops
from rivals import Case, channels_last, data_loader, ours, plain
from tables import installed, markdown, measured, parser_of, ratio, report

ROWS = ("cnn-s/32", "cnn-s/10", "cnn-m/32")  # architecture/batch
RIVALS: dict[str, Rival[Case]] = {
    "plain": Rival("plain PyTorch loop", plain),
    "channels-last": Rival("plain loop, channels last", channels_last),
    "loader": Rival("DataLoader loop", data_loader),
    "vmap": Rival("torch.func vmap(grad)", stacked.vmap_grad),
    "groups": Rival("torch.compile, grouped convolution", stacked.compiled_groups),
    "groups-shared": Rival("the same, one order of images for all", stacked.compiled_groups_shared),
    "jax": Rival("JAX jit(vmap)", stacked.jax_vmap, pinned=True, needs="jax"),
    "ours": Rival("**ours**", ours, whole=True),
}
QUICK = ("plain", "channels-last", "loader", "vmap", "ours")
COLUMNS = (
    "rival",
    "processes",
    "steps/s per core",
    "steps/s per CPU s",
    "x plain (min to max)",
    "x plain by CPU",
    "x channels last",
    "% of peak, dense",
    "% of peak, sparse",
    "MB per process",
    "first call s",
)


def cells(team: Team, teams: Mapping[str, Team], case: Case, peak: Peak) -> list[str]:
    """One line: medians over the rounds, ratios within a round."""
    rate = statistics.median(turn.rate for turn in team.turns) / case.cores
    cpu_rate = statistics.median(turn.cpu_rate for turn in team.turns)
    plain, needed = teams.get("plain"), flops(case.architecture)
    return [
        *(team.label, str(len(team.processes)), f"{rate:,.0f}", f"{cpu_rate:,.0f}"),
        *(ratio(team.turns, plain, spread=True), ratio(team.turns, plain, by_cpu=True)),
        ratio(team.turns, teams.get("channels-last")),
        *(share_of(peak, count * case.batch * cpu_rate) for count in (needed.dense, needed.sparse)),
        *(f"{team.megabytes:,.0f}", f"{team.first_call:.1f}"),
    ]


def share_of(peak: Peak, per_cpu_second: float) -> str:
    """Per cent of the peak that so many operations per second are."""
    return "-" if peak.gflops is None else f"{100 * per_cpu_second / 1e9 / peak.gflops:.1f}"


def cases(options: argparse.Namespace) -> list[Case]:
    """The rows as the command line says."""
    rows = [name.split("/") for name in options.rows]
    images = 320 if options.quick else Case.images
    return [
        Case(architecture, int(batch), images, engine=options.engine, cores=options.cores, models=options.models)
        for architecture, batch in rows
    ]


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__, tuple(RIVALS), seconds=2.0)
    parser.add_argument("--rows", nargs="+", default=ROWS, metavar="ARCHITECTURE/BATCH", help=f"of {', '.join(ROWS)}")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(rows=ROWS[:1], rivals=QUICK, rounds=1, seconds=0.05, models=4)
    with report(options.cores, options.rounds) as folder:
        rivals, peak = installed(RIVALS, options.rivals), Peak.compiled(folder, options.cores, options.seconds / 4)
        for case in cases(options):
            teams = measured(rivals, case, options, peak.measure)
            lines = [cells(team, teams, case, peak) for team in teams.values()]
            print(f"\n{case}\n", markdown(COLUMNS, lines), sep="\n", flush=True)
        found = "not measured, no compiler" if peak.gflops is None else f"{peak.gflops:.0f} GFLOP/s float32"
        print(f"\npeak of a core, all cores busy: {found}")


if __name__ == "__main__":
    main()
