"""modelzoo-hyperrep: learn from a dataset folder, probe, sample and judge."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..recipes import recipe_names
from .app import (
    DEFAULT_IMAGES_ROOT,
    Engine,
    ImagesRoot,
    Out,
    Quiet,
    Threads,
    Version,
    entry_point,
    new_app,
    progress_bars,
)

app = new_app("Learn hyper-representations of a zoo: train, embed, probe, sample, evaluate.")

Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset folder.")]
Representation = Annotated[Path, typer.Option("--hyperrep", help="Folder that modelzoo-hyperrep train made.")]
RecipeName = Annotated[
    str,
    typer.Option("--recipe", help=f"A TOML file or one of {', '.join(recipe_names('hyperrep'))}."),
]


Device = Annotated[str, typer.Option("--device", help="Where it learns: auto, cpu or cuda.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile encoder and decoder first: faster for long runs, other bits.")
]


@app.callback(epilog="Example: modelzoo-hyperrep train dataset --recipe demo --out hyperrep")
def _common(version: Version = False) -> None:
    """Learn hyper-representations from a dataset folder, probe them, sample from them and judge the samples."""


@app.command("train", epilog="Example: modelzoo-hyperrep train dataset --out hyperrep")
def train_command(
    dataset: Dataset,
    out: Out,
    recipe: RecipeName = "demo",
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    device: Device = "auto",
    compiled: Compile = False,
    quiet: Quiet = False,
) -> None:
    """Train the auto-encoder; goes on from its last checkpoint after a stop."""
    from hyperrep import read_hyper_recipe, train
    from hyperrep.devices import find_device

    from ..engines import get_engine

    where, chosen, runs = find_device(device), read_hyper_recipe(recipe), get_engine(engine, threads)
    with progress_bars(quiet) as progress:
        rep = train(
            dataset,
            chosen,
            out,
            engine=runs,
            images_root=images_root,
            device=where,
            compiled=compiled,
            progress=progress,
            tell=lambda line: print(f"modelzoo-hyperrep: {line}", file=sys.stderr),
        )
    print(f"{out}: latent vectors of {rep.latent} numbers for {rep.layout.size} weights")


@app.command("embed", epilog="Example: modelzoo-hyperrep embed dataset --hyperrep hyperrep --out z.parquet")
def embed_command(
    dataset: Dataset,
    hyperrep: Representation,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    config: Annotated[str | None, typer.Option(help="Of the dataset.", show_default=False)] = None,
) -> None:
    """Write the embedding of every state beside its table row."""
    from hyperrep import load_representation
    from hyperrep.export import export_embeddings

    count = export_embeddings(dataset, config, load_representation(hyperrep), out)
    print(f"{out}: {count} embeddings")


@app.command("probe", epilog="Example: modelzoo-hyperrep probe dataset --hyperrep hyperrep")
def probe_command(dataset: Dataset, hyperrep: Representation, recipe: RecipeName = "demo") -> None:
    """Print R² of linear probes for accuracy, generalization gap and epoch on test models."""
    from hyperrep import read_hyper_recipe
    from hyperrep.run import probe

    from ..report import print_table, probe_table

    print_table(probe_table(probe(dataset, hyperrep, read_hyper_recipe(recipe))))


@app.command(
    "sample",
    epilog="Example: modelzoo-hyperrep sample --hyperrep hyperrep -n 10 --quality 0.3 --out samples",
)
def sample_command(
    hyperrep: Representation,
    out: Out,
    n: Annotated[int, typer.Option("-n", help="How many.")] = 10,
    sampler: Annotated[str, typer.Option(help="kde, kde-principal or kde-shared.")] = "kde",
    quality: Annotated[float, typer.Option(help="Draw from this share of the training states, the best.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Equal seeds, equal samples.")] = 0,
) -> None:
    """Write sampled models, one folder each with model.safetensors and config.json, and a table of them."""
    from hyperrep.export import export_samples

    export_samples(hyperrep, out, n=n, sampler=sampler, quality=quality, seed=seed)
    print(f"{out}: {n} models")


@app.command(
    "evaluate",
    epilog="Example: modelzoo-hyperrep evaluate dataset --hyperrep hyperrep --out evaluation",
)
def evaluate_command(
    dataset: Dataset,
    hyperrep: Representation,
    out: Out,
    recipe: RecipeName = "demo",
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    quiet: Quiet = False,
) -> None:
    """Judge samples zero-shot and fine-tuned, beside scratch, zoo members, reconstructions and noise."""
    from hyperrep import evaluate, read_hyper_recipe

    from ..engines import get_engine
    from ..report import accuracy_table, print_table

    with progress_bars(quiet) as progress:
        found = evaluate(
            dataset,
            hyperrep,
            read_hyper_recipe(recipe),
            out,
            engine=get_engine(engine, threads),
            images_root=images_root,
            progress=progress,
        )
    print_table(accuracy_table(found["populations"]))


main = entry_point(app)
