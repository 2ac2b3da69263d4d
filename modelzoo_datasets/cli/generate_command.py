"""modelzoo-generate: recipe -> zoo folder."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ArgumentError, RecipeError
from ..plugins import explain_unknown, has_plugins
from ..recipes import Recipe, parse_range, read_recipe, recipe_names, select_members, split_recipe_name
from ..zoo import check_zoo_folder
from .app import (
    DEFAULT_IMAGES_ROOT,
    Engine,
    ImagesRoot,
    Layout,
    Parent,
    Plugin,
    Quiet,
    Storage,
    Threads,
    Version,
    entry_point,
    new_app,
    resolve_storage,
)
from .display import show_progress

_log = logging.getLogger(__name__)
_MANY_FILES = 100_000
# The names that this package registers, here once more, so that a wrong name is an error before torch is imported.
BUILTIN_NAMES = {
    "images": "mnist fashion-mnist fashion-mnist-5k mnist-centred svhn-32 svhn usps cifar10-28 cifar10 cifar10-40k "
    "cifar100 stl10-28 stl10 tiny-imagenet",
    "architecture": "cnn-m cnn-more-layers cnn-more-layers-residual cnn-residual cnn-s cnn-s-rgb res-cnn resnet18 "
    "resnet18-100 resnet18-200 small-cnn small-cnn-colour",
}
app = new_app("Train the zoos of a recipe.")

RecipeName = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE[/CONFIG]", help=f"A TOML file or one of {', '.join(recipe_names('generation'))}."),
]
OutFolder = Annotated[Path | None, typer.Option("--out", help="Folder to write.")]
Models = Annotated[str | None, typer.Option(help="Train only these models of the grid, e.g. 1-100.")]
Epochs = Annotated[int | None, typer.Option(help="Number of epochs instead of the recipe's.")]
CohortPart = Annotated[
    str | None,
    typer.Option("--cohort", help="I/N: train only the I-th of N parts, into --results. For job arrays."),
]
ResultsUrl = Annotated[
    str | None,
    typer.Option("--results", help="Shared folder or fsspec URL for the results of cohorts; OUT.cohorts by default."),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", help="Train on a Ray cluster: HOST:PORT of its head, auto or local."),
]
RayCpus = Annotated[int, typer.Option(help="Number of CPU cores of one Ray task.")]
RayGpus = Annotated[float, typer.Option(help="Number of GPUs of one Ray task, or its share of one GPU.")]
RayCohort = Annotated[int, typer.Option(help="Number of models of one Ray task; enough for a task to take minutes.")]
List = Annotated[bool, typer.Option("--list", help="List all zoos with their sizes, and exit.")]
Estimate = Annotated[
    bool, typer.Option("--estimate", help="List all zoos with their costs, measured on this machine, and exit.")
]


@app.command(
    epilog="Example: modelzoo-generate fashion-mnist-5k-cnn-s/seed --models 1-10 --out zoo/seed. "
    "All recipes and their sizes: modelzoo-generate --list."
)
def command(
    recipe: RecipeName = None,
    out: OutFolder = None,
    models: Models = None,
    epochs: Epochs = None,
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    storage: Storage = None,
    layout: Layout = None,
    parent: Parent = None,
    cohort: CohortPart = None,
    results: ResultsUrl = None,
    ray: RayAddress = None,
    ray_cpus: RayCpus = 1,
    ray_gpus: RayGpus = 0.0,
    ray_cohort: RayCohort = 8,
    listing: List = False,
    estimate: Estimate = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Train the models of RECIPE/CONFIG into a zoo folder, or those of every config of RECIPE into folders below --out.

    You can stop the command at any time; running it again resumes it. With more --models it adds to the folder.
    """
    name, config = split_recipe_name(recipe) if recipe is not None else (None, None)
    if listing or estimate:
        from .zoo_tables import print_catalogue

        print_catalogue(name, config, estimate=estimate, engine=engine, quiet=quiet)
        return
    if name is None or out is None:
        raise ArgumentError("expected a recipe and a folder: modelzoo-generate RECIPE[/CONFIG] --out DIR, or --list")
    selected, storage = read_recipe(name), resolve_storage(storage, layout)
    targets = {config: out} if config else {each: out / each for each in _parents_first(selected)}
    positions = parse_range("--models", models) if models is not None else None
    _check_names(selected)
    _check_configs(selected, targets, positions, epochs, storage)
    if cohort is not None and ray is not None:
        raise ArgumentError("--cohort and --ray are alternative ways to distribute the work; pass only one of them")
    if cohort is not None:
        train = _cohort_trainer(_parse_part(cohort), engine, threads, results)
    elif ray is not None:
        tasks = {"cpus": ray_cpus, "gpus": ray_gpus, "cohort_size": ray_cohort}
        train = _ray_trainer(ray, engine, storage, results, tasks)
    else:
        train = _local_trainer(engine, threads, storage, results, list(targets.values()))
    train = partial(train, images_root=images_root, models=positions, epochs=epochs, parent=parent)
    _train_configs(selected, targets, train, quiet)


def _train_configs(recipe: Recipe, targets: Mapping[str, Path], train: Callable[..., int], quiet: bool) -> None:
    """Train the zoo of each config into its folder, and print a line for it."""
    for config, folder in targets.items():
        with show_progress(quiet) as progress:
            trained = train(recipe, folder, config=config, progress=progress)
        print(f"{folder}: {recipe.name}/{config}, {trained} models trained")


def _parents_first(recipe: Recipe) -> list[str]:
    """Return all configs, parents before their twins, which start from them."""
    return sorted(recipe.configs, key=lambda config: recipe.configs[config].parent is not None)


def _check_names(recipe: Recipe) -> None:
    """Check that the images and the architecture of a recipe are known, unless a plugin may register others."""
    for kind, name in (("images", recipe.images), ("architecture", recipe.architecture)):
        known = BUILTIN_NAMES[kind].split()
        if name not in known and not has_plugins():
            raise RecipeError(explain_unknown(kind, name, known))


def _check_configs(
    recipe: Recipe, configs: Iterable[str], models: range | None, epochs: int | None, storage: str
) -> None:
    """Check every config before the first one is trained, which may take hours."""
    for config in configs:
        members = select_members(recipe.members(config, epochs=epochs), models)
        files_per_state = 1 if recipe.config(config).parent is None else 2
        files = files_per_state * sum(member.training.epochs + 1 for member in members)
        if storage == "states" and files >= _MANY_FILES:
            size = f"{files:,} files"
            _log.warning("%s/%s will be %s; --storage packed writes one per 100 models", recipe.name, config, size)


def _parse_part(cohort: str) -> tuple[int, int]:
    """Return (3, 40) for "3/40"."""
    part, _, parts = cohort.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise ArgumentError(f"--cohort must look like 3/40, got {cohort!r}")
    return int(part), int(parts)


# Each of these returns a function with the arguments of `generate_zoo` that trains one config. They import torch
# only after all options were checked, since that takes seconds.


def _local_trainer(
    engine: str, threads: int | None, storage: str, results: str | None, folders: Sequence[Path]
) -> Callable[..., int]:
    from ..engines import get_engine

    for folder in folders:
        check_zoo_folder(folder)
    selected = get_engine(engine, threads)
    from ..generation import generate_zoo

    return partial(generate_zoo, engine=selected, storage=storage, results=results)


def _cohort_trainer(part: tuple[int, int], engine: str, threads: int | None, results: str | None) -> Callable[..., int]:
    from ..engines import get_engine

    selected = get_engine(engine, threads)
    from ..generation import generate_cohort

    return partial(generate_cohort, part=part, engine=selected, results=results)


def _ray_trainer(
    address: str, engine: str, storage: str, results: str | None, tasks: dict[str, Any]
) -> Callable[..., int]:
    from ..generation import check_ray_options

    check_ray_options(address, **tasks)
    from ..generation import generate_on_ray

    return partial(generate_on_ray, address=address, engine=engine, storage=storage, results=results, **tasks)


main = entry_point(app)
