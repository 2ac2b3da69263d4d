"""modelzoo-demo: the whole pipeline on the embedded images, through the same functions as the other commands."""

import time
from typing import Annotated

import typer

from modelzoo_datasets.cli import Out, Quiet, Threads, Version, entry_point, new_app, show_progress

app = new_app("Run the whole pipeline on the embedded images.")


@app.command(epilog="Example: modelzoo-demo --out demo")
def command(
    out: Out,
    recipe: Annotated[str, typer.Option(help="Generation recipe of the zoos.")] = "fashion-mnist-5k-cnn-s",
    hyper_recipe: Annotated[
        str, typer.Option(help="Recipe of the hyper-representation and of its evaluation.")
    ] = "demo",
    threads: Threads = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Generate zoos, build the dataset, learn from it, sample, judge, report: under ten minutes on two cores.

    Stopped or killed, it goes on where it was when run again.
    """
    start = time.perf_counter()
    from modelzoo_datasets.recipes import read_recipe

    from .. import read_hyper_recipe

    read_recipe(recipe)  # raises where it is unknown, before torch is imported
    read_hyper_recipe(hyper_recipe)
    from modelzoo_datasets.cli import print_table

    from ..report import accuracy_table, probe_table
    from .demo_pipeline import run_pipeline

    with show_progress(quiet) as progress:
        result = run_pipeline(recipe, hyper_recipe, out, threads, progress)
    accuracies = accuracy_table(result.populations, result.protocol.finetune_epochs)
    print_table(accuracies, "test accuracy in percent, mean ± std")
    print_table(probe_table(result.probes), "linear probes on test models, with 95 % intervals")
    print(f"{time.perf_counter() - start:.0f} s; open {out / 'report.html'}")


main = entry_point(app)
