"""modelzoo-hyperrep: train a hyper-representation on a dataset, probe it, sample from it and evaluate the samples."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import hyperrep
from modelzoo_datasets import cli, engines, hub
from modelzoo_datasets.cli import (
    DEFAULT_IMAGES_ROOT,
    Engine,
    ImagesRoot,
    Out,
    Plugin,
    Quiet,
    Threads,
    Version,
    entry_point,
    new_app,
    show_progress,
)
from modelzoo_datasets.errors import DeviceError, FormatError
from modelzoo_datasets.recipes import recipe_names

# Rooms import their modules when a name is used, so that help and errors do not wait for torch.
from .. import release, report
from ..recipe_toml import read_protocol
from ..sampler_names import DEFAULT_SAMPLER, DEFAULT_TOP_FRACTION, check_sampler

if TYPE_CHECKING:
    import torch

    from ..trainer import Precision

app = new_app("Train, probe, sample and evaluate hyper-representations of a model zoo.")

Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="Dataset folder, or a repo such as ORG/NAME.")]
Representation = Annotated[
    str, typer.Option("--hyperrep", help="Folder from modelzoo-hyperrep train, or a repo such as ORG/NAME.")
]
_RECIPES = f"A TOML file or one of {', '.join(recipe_names('hyperrep'))}"
TrainingRecipe = Annotated[
    str | None, typer.Option("--recipe", help=f"{_RECIPES}.", show_default="one that suits the dataset")
]
StoredRecipe = Annotated[
    str | None, typer.Option("--recipe", help=f"{_RECIPES}.", show_default="the one that the folder stores")
]
DeviceName = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="Device to train on; auto takes a GPU if there is one."),
]
PrecisionName = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option("--precision", help="Precision of the transformers' products; auto is bfloat16 on a GPU."),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile encoder and decoder: faster in long runs, with other rounding errors."),
]
EngineThreads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="Number of CPU cores that run networks for the loss; all by default. All else runs on one core.",
    ),
]


@app.callback(epilog="Example: modelzoo-hyperrep train dataset --out hyperrep")
def _common(version: Version = False) -> None:
    """Train hyper-representations on a dataset, probe them, sample from them and evaluate the samples."""


@app.command("train", epilog="Example: modelzoo-hyperrep train dataset --out hyperrep")
def train_command(
    dataset: Dataset,
    out: Out,
    recipe: TrainingRecipe = None,
    engine: Engine = "auto",
    threads: EngineThreads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    device: DeviceName = "auto",
    compiled: Compile = False,
    precision: PrecisionName = "auto",
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Train a hyper-representation: an auto-encoder of the weights of a model zoo.

    Without --recipe one is chosen by images, architecture, configs and epochs of the dataset, and a line says why.

    You can stop the command at any time; running it again resumes from the last checkpoint.
    """
    hyper_recipe = None if recipe is None else hyperrep.read_hyper_recipe(recipe)
    _check_sources(dataset)
    target = find_device(device)
    if hyper_recipe is None:
        choice = hyperrep.choose_recipe(dataset)
        hyper_recipe = choice.recipe
        print(f"recipe {hyper_recipe.name}: {choice.reason}")
    with show_progress(quiet) as progress:
        rep = hyperrep.train(
            dataset,
            hyper_recipe,
            out,
            engine=engines.get_engine(engine, threads),
            images_root=images_root,
            device=target,
            compiled=compiled,
            precision=resolve_precision(precision, target),
            progress=progress,
        )
    print(f"{out}: latent vectors of {rep.latent_dim} numbers for {rep.layout.size} weights")


@app.command("embed", epilog="Example: modelzoo-hyperrep embed dataset --hyperrep hyperrep --out z.parquet")
def embed_command(
    dataset: Dataset,
    representation: Representation,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    config: Annotated[
        str | None, typer.Option(help="Config of the dataset; needed if the dataset has several.")
    ] = None,
    plugin: Plugin = None,
) -> None:
    """Encode every state of a dataset; write its embedding z beside its hyperparameters and metrics."""
    _check_sources(dataset, representation)
    rep = hyperrep.HyperRepresentation.from_pretrained(representation)
    print(f"{out}: {release.export_embeddings(dataset, config, rep, out)} embeddings")


@app.command("probe", epilog="Example: modelzoo-hyperrep probe dataset/seed --out probes")
def probe_command(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET[/CONFIG]", help="Dataset folder, or a repo such as ORG/NAME.")
    ],
    representation: Annotated[
        str | None,
        typer.Option("--hyperrep", help="Folder from modelzoo-hyperrep train, or a repo such as ORG/NAME, for z."),
    ] = None,
    recipe: StoredRecipe = None,
    test_on: Annotated[
        str | None, typer.Option(metavar="DATASET[/CONFIG]", help="Another zoo, whose test models to predict.")
    ] = None,
    max_weight: Annotated[
        float, typer.Option(min=0, help="Leave out states with a weight beyond it; inf keeps all.")
    ] = 5.0,
    answers: Annotated[
        Literal["noise", "training"],
        typer.Option(
            help="Images that networks answer: smooth noise, or training images without their labels. With the images "
            "of the zoo the ceilings are measured."
        ),
    ] = "noise",
    engine: Engine = "auto",
    threads: EngineThreads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write probes.json and probes.csv to.")] = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Predict properties of test models, such as accuracy, from their weights W, statistics s(W) and answers.

    --hyperrep adds the embeddings z. Scores have 95 % intervals over models. R² within an epoch comes first, because
    the epoch alone explains most of R² over all epochs; baselines that see no weights are scored beside.
    """
    hyper_recipe = None if recipe is None else hyperrep.read_hyper_recipe(recipe)
    _check_sources(dataset, representation, with_config=True)
    with show_progress(quiet) as progress:
        rows = hyperrep.probe(
            dataset,
            representation,
            hyper_recipe,
            test_on=test_on,
            out=out,
            max_weight=None if math.isinf(max_weight) else max_weight,
            answers=answers,
            engine=engines.get_engine(engine, threads),
            images_root=images_root,
            progress=progress,
        )
    cli.print_table(report.probe_table(rows), "probes on test models, with 95 % intervals over models")
    for line in report.describe_probes(rows):
        print(f"- {line}")


@app.command("sample", epilog="Example: modelzoo-hyperrep sample --hyperrep hyperrep -n 10 --out samples")
def sample_command(
    representation: Representation,
    out: Out,
    n: Annotated[int, typer.Option("-n", help="Number of models.")] = 10,
    sampler: Annotated[str, typer.Option(help="Name of a sampler or baseline, see above.")] = DEFAULT_SAMPLER,
    quality: Annotated[
        float, typer.Option(help="Share of the training states to draw from, best validation accuracy first.")
    ] = DEFAULT_TOP_FRACTION,
    bandwidth: Annotated[float, typer.Option(help="Standard deviation of the kernels of a density estimate.")] = 0.002,
    sigma: Annotated[float, typer.Option(help="For noise: its size in layer standard deviations.")] = 0.2,
    share: Annotated[
        float, typer.Option(help="For move: share of the way from an embedding to a draw of the sampler normal.")
    ] = 0.4,
    seed: Annotated[int, typer.Option(help="Random seed; equal seeds draw equal samples.")] = 0,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset that the hyper-representation was trained on: samples are tested on its images and compared "
            "with its states."
        ),
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(help="Fine-tune for this many epochs and report the accuracy; the samples are written as drawn."),
    ] = 0,
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Sample new models: one folder each, ready to be pushed as a model repo, and one table of all of them.

    Samplers: normal, interpolation, kde, kde-principal, kde-shared, uniform, neighbour, gan. Baselines:
    reconstruction, move, noise, average, kde-weights, fresh. All baselines except reconstruction need --dataset.
    """
    _check_sources(dataset, representation)
    check_sampler(sampler, with_weights=dataset is not None)
    options = {"top_fraction": quality, "bandwidth": bandwidth, "sigma": sigma, "share": share}
    request = release.SampleRequest(n=n, sampler=sampler, seed=seed, epochs=epochs, **options)
    measurement = None
    if dataset is not None:
        measurement = release.Measurement(
            dataset=dataset, engine=engines.get_engine(engine, threads), images_root=images_root
        )
    with show_progress(quiet) as progress:
        is_new = release.export_samples(representation, out, request, measurement, progress=progress)
    print(f"{out}: {n} models" if is_new else f"{out}: holds these {n} models already")


@app.command("evaluate", epilog="Example: modelzoo-hyperrep evaluate dataset --hyperrep hyperrep --out evaluation")
def evaluate_command(
    dataset: Dataset,
    representation: Representation,
    out: Out,
    recipe: StoredRecipe = None,
    protocol: Annotated[
        Path | None, typer.Option(help="TOML file with an [evaluation] section to use instead of the recipe's.")
    ] = None,
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate sampled models beside their baselines, and write evaluation.json and report.html.

    The protocol measures accuracy before and after fine-tuning, transfer to other images and architectures, ensembles,
    and the distance to the training states. You can stop the command at any time; running it again resumes it.
    """
    hyper_recipe = None if recipe is None else hyperrep.read_hyper_recipe(recipe)
    questions = None if protocol is None else read_protocol(protocol)
    _check_sources(dataset, representation)
    if hyper_recipe is None:
        from ..data import read_stored_recipe  # imports torch

        hyper_recipe = read_stored_recipe(representation)
    if questions is not None:
        hyper_recipe = dataclasses.replace(hyper_recipe, evaluation=questions)
    runner = engines.get_engine(engine, threads)
    with show_progress(quiet) as progress:
        result = hyperrep.evaluate(
            dataset, representation, hyper_recipe, out, engine=runner, images_root=images_root, progress=progress
        )
    shown = [p for p in result.populations if not p.matched_to and (p.curves or p.is_sample)]
    accuracies = report.accuracy_table(shown, hyper_recipe.evaluation.finetune_epochs)
    cli.print_table(accuracies, "test accuracy in percent, mean ± std")
    cli.print_table(report.judgment_table(result.populations, result.judgments), "samples and the strongest nulls")
    for sentence in report.write_verdicts(result):
        print(f"- {sentence}")
    print(f"open {out / 'report.html'}")


def _check_sources(dataset: str | None, representation: str | None = None, *, with_config: bool = False) -> None:
    """Check, before torch is imported, that each source is a folder of its kind or looks like a repo."""
    places = [] if dataset is None else [dataset, *([dataset.rpartition("/")[0]] if with_config else [])]
    if places and not any((Path(p) / "zoo.json").is_file() or (p and hub.parse_repo_id(p)) for p in places):
        raise FormatError(f"{dataset} is not a dataset folder or ORG/NAME on the Hub; build one with modelzoo-build")
    if representation is None or (Path(representation) / "training.json").is_file():
        return
    if hub.parse_repo_id(representation) is None:
        raise FormatError(
            f"{representation} is not a folder of a hyper-representation or ORG/NAME on the Hub; "
            "make one with modelzoo-hyperrep train"
        )


def find_device(name: str) -> "torch.device":
    """Return the device to train on; raise DeviceError for "cuda" if torch sees no GPU."""
    import torch

    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise DeviceError("device 'cuda': torch sees no CUDA GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and has_gpu else "cpu")


def resolve_precision(name: str, device: "torch.device") -> "Precision":
    """Return the precision of the transformers; "auto" is float32 on CPUs, so that results are equal on all of them."""
    return "bf16" if name == "bfloat16" or (name == "auto" and device.type == "cuda") else "float32"


main = entry_point(app)
