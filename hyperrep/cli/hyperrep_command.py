"""modelzoo-hyperrep: learn from a dataset folder, probe, sample and judge."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from modelzoo_datasets.cli import (
    DEFAULT_IMAGES_ROOT,
    Engine,
    ImagesRoot,
    Out,
    Quiet,
    Threads,
    Version,
    entry_point,
    new_app,
    show_progress,
)
from modelzoo_datasets.recipes import recipe_names

from ..sampler_names import check_sampler
from .arguments import check_dataset, check_representation

app = new_app("Learn hyper-representations of a zoo: train, embed, probe, sample, evaluate.")

Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset folder, or a repo such as ORG/NAME.")]
Representation = Annotated[
    str, typer.Option("--hyperrep", help="Folder that modelzoo-hyperrep train made, or a repo such as ORG/NAME.")
]
RecipeName = Annotated[
    str,
    typer.Option("--recipe", help=f"A TOML file or one of {', '.join(recipe_names('hyperrep'))}."),
]
Device = Annotated[str, typer.Option("--device", help="Where it learns: auto, cpu or cuda.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile encoder and decoder first: faster for long runs, other bits.")
]
LearningThreads = Annotated[
    int | None,
    typer.Option(
        "--threads", help="Cores that networks are asked on, all by default; the rest runs on one.", show_default=False
    ),
]
Precision = Annotated[
    str, typer.Option("--precision", help="Of products in transformers: auto (bfloat16 on a GPU), float32 or bfloat16.")
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
    threads: LearningThreads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    device: Device = "auto",
    compiled: Compile = False,
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Train the auto-encoder; goes on from its last checkpoint after a stop."""
    from modelzoo_datasets.engines import get_engine

    from .. import read_hyper_recipe
    from .devices import check_precision, find_device, multiplies_in_half

    hyper_recipe = read_hyper_recipe(recipe)
    check_precision(precision)
    check_dataset(dataset)
    where = find_device(device)
    runs = get_engine(engine, threads)
    is_bfloat16 = multiplies_in_half(precision, where)
    from .. import train

    with show_progress(quiet) as progress:
        rep = train(
            dataset,
            hyper_recipe,
            out,
            engine=runs,
            images_root=images_root,
            device=where,
            compiled=compiled,
            precision="bf16" if is_bfloat16 else "float32",
            progress=progress,
        )
    print(f"{out}: latent vectors of {rep.latent_dim} numbers for {rep.layout.size} weights")


@app.command("embed", epilog="Example: modelzoo-hyperrep embed dataset --hyperrep hyperrep --out z.parquet")
def embed_command(
    dataset: Dataset,
    hyperrep: Representation,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    config: Annotated[str | None, typer.Option(help="Of the dataset.", show_default=False)] = None,
) -> None:
    """Write the embedding of every state beside its table row."""
    check_dataset(dataset)
    check_representation(hyperrep)
    from .. import HyperRepresentation
    from ..data import locate_representation
    from ..release import export_embeddings

    count = export_embeddings(
        dataset, config, HyperRepresentation.from_pretrained(locate_representation(hyperrep)), out
    )
    print(f"{out}: {count} embeddings")


@app.command("probe", epilog="Example: modelzoo-hyperrep probe dataset --hyperrep hyperrep --out probes")
def probe_command(
    dataset: Dataset,
    hyperrep: Representation,
    recipe: RecipeName = "demo",
    test_on: Annotated[
        str | None,
        typer.Option(metavar="DATASET[/CONFIG]", help="Predict the test models of another zoo.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for probes.json and probes.csv.", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Predict properties of test models from W, s(W) and z, beside baselines, with intervals over models."""
    from .. import read_hyper_recipe

    hyper_recipe = read_hyper_recipe(recipe)
    check_dataset(dataset)
    check_representation(hyperrep)
    from modelzoo_datasets.cli import print_table

    from ..api import probe
    from ..data import locate_representation
    from ..report import probe_table

    folder = locate_representation(hyperrep)
    with show_progress(quiet) as progress:
        rows = probe(dataset, folder, hyper_recipe, test_on=test_on, out=out, progress=progress)
    print_table(probe_table(rows))


@app.command(
    "sample",
    epilog="Example: modelzoo-hyperrep sample --hyperrep hyperrep -n 10 --quality 0.3 --out samples",
)
def sample_command(
    hyperrep: Representation,
    out: Out,
    n: Annotated[int, typer.Option("-n", help="How many.")] = 10,
    sampler: Annotated[str, typer.Option(help="By name, see above.")] = "kde",
    quality: Annotated[float, typer.Option(help="Draw from this share of the training states, the best.")] = 0.3,
    bandwidth: Annotated[float, typer.Option(help="Of the kernels of a density.")] = 0.002,
    sigma: Annotated[float, typer.Option(help="Of the sampler `noise`, in layer standard deviations.")] = 0.2,
    share: Annotated[float, typer.Option(help="Of the sampler `move`: how far towards a draw of `normal`.")] = 0.4,
    seed: Annotated[int, typer.Option(help="Equal seeds, equal samples.")] = 0,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="What was learned from: samples are run on its images, and name the row they are nearest to.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Fine-tune samples for so long, to be measured alone.")] = 0,
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    quiet: Quiet = False,
) -> None:
    """Write sampled models, each a folder that is a model repo of the Hub, and a table of them that is a dataset.

    Samplers: uniform, kde, kde-shared, kde-principal, normal, interpolation, neighbour, gan; and baselines:
    reconstruction, move, noise, average, kde-weights, fresh, all but the first of which need --dataset.
    """
    check_representation(hyperrep)
    check_sampler(sampler, with_weights=dataset is not None)
    if dataset is not None:
        check_dataset(dataset)
    from modelzoo_datasets.engines import get_engine

    from ..release import Measurement, SampleRequest, export_samples

    numbers = {"top_fraction": quality, "bandwidth": bandwidth, "sigma": sigma, "share": share}
    request = SampleRequest(n=n, sampler=sampler, seed=seed, epochs=epochs, **numbers)
    measurement = None
    if dataset is not None:
        measurement = Measurement(dataset=dataset, engine=get_engine(engine, threads), images_root=images_root)
    with show_progress(quiet) as progress:
        export_samples(hyperrep, out, request, measurement, progress=progress)
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
    protocol: Annotated[
        Path | None,
        typer.Option(help="A TOML file whose [evaluation] holds instead of the recipe's.", show_default=False),
    ] = None,
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    quiet: Quiet = False,
) -> None:
    """Judge samples: zero-shot, fine-tuned, elsewhere, as ensembles, and how new they are, beside their rivals."""
    from modelzoo_datasets.engines import get_engine

    from .. import read_hyper_recipe
    from ..recipe_toml import read_protocol

    hyper_recipe = read_hyper_recipe(recipe)
    if protocol is not None:
        hyper_recipe = dataclasses.replace(hyper_recipe, evaluation=read_protocol(protocol))
    check_dataset(dataset)
    check_representation(hyperrep)
    runs = get_engine(engine, threads)
    from modelzoo_datasets.cli import print_table

    from .. import evaluate
    from ..data import locate_representation
    from ..report import accuracy_table, novelty_table, write_verdicts

    with show_progress(quiet) as progress:
        result = evaluate(
            dataset,
            locate_representation(hyperrep),
            hyper_recipe,
            out,
            engine=runs,
            images_root=images_root,
            progress=progress,
        )
    accuracies = accuracy_table(result.populations, hyper_recipe.evaluation.finetune_epochs)
    print_table(accuracies, "test accuracy in percent, mean ± std")
    print_table(novelty_table(result.populations), "novelty")
    for sentence in write_verdicts(result):
        print(f"- {sentence}")
    print(f"open {out / 'report.html'}")


main = entry_point(app)
