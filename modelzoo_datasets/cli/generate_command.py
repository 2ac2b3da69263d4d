"""modelzoo-generate: recipe -> zoo folder."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RecipeError
from ..recipes import Recipe, parse_range, read_recipe, recipe_names, select_members
from .app import (
    DEFAULT_IMAGES_ROOT,
    Engine,
    ImagesRoot,
    Plugin,
    Quiet,
    Threads,
    Version,
    entry_point,
    new_app,
)
from .display import show_progress

_log = logging.getLogger(__name__)
_MANY_FILES = 100_000
app = new_app("Train the zoos of a recipe.")


@app.command(
    epilog="Example: modelzoo-generate fashion-mnist-5k-cnn-s/seed --models 1-10 --out zoo/seed. "
    "What there is to generate: modelzoo-generate --list."
)
def command(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE[/CONFIG]",
            help=f"A TOML file or one of {', '.join(recipe_names('generation'))}.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default=False)] = None,
    models: Annotated[str | None, typer.Option(help="Only these of the grid, e.g. 1-100.", show_default=False)] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    layout: Annotated[
        str, typer.Option(help="states: a file per state; packed: a file per 100 models, for many states.")
    ] = "states",
    parent: Annotated[
        Path | None,
        typer.Option(help="Of sparsified twins: their parents' zoo folder; beside --out.", show_default=False),
    ] = None,
    cohort: Annotated[
        str | None,
        typer.Option(help="I/N: train the I-th of N parts into --results, for job arrays.", show_default=False),
    ] = None,
    results: Annotated[
        str | None,
        typer.Option(help="Where cohorts leave results: shared folder or fsspec URL; OUT.cohorts.", show_default=False),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="HOST:PORT of the head of a Ray cluster, auto or local.", show_default=False)
    ] = None,
    ray_cpus: Annotated[int, typer.Option(help="Cores of one Ray task.")] = 1,
    ray_gpus: Annotated[float, typer.Option(help="Share of a GPU of one Ray task.")] = 0.0,
    ray_cohort: Annotated[int, typer.Option(help="Models of one Ray task: so many that it takes minutes.")] = 8,
    listing: Annotated[bool, typer.Option("--list", help="List all zoos and stop.")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="List with costs measured here.")] = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Train the models of RECIPE/CONFIG into a zoo folder; of RECIPE alone, every config into its own folder below.

    Run it again to go on after a stop, or with more --models to add to the folder.
    """
    name, config = _parse(recipe) if recipe is not None else (None, "")
    if listing or estimate:
        from .zoo_listing import print_catalogue

        print_catalogue(name, config, estimate=estimate, engine=engine, quiet=quiet)
        return
    if name is None or out is None:
        raise RecipeError("say what to train and where: modelzoo-generate RECIPE[/CONFIG] --out DIR, or --list")
    chosen = read_recipe(name)
    chosen_models = parse_range("--models", models) if models is not None else None
    # Parents before their twins, which start from them.
    configs = [config] if config else sorted(chosen.configs, key=lambda each: chosen.configs[each].parent is not None)
    _check(chosen, configs, chosen_models, epochs, layout)
    if cohort is not None and ray is not None:
        raise RecipeError("--cohort and --ray are two ways to spread the work; choose one")
    if cohort is not None:
        train = _in_cohorts(_place(cohort), engine, threads, results)
    elif ray is not None:
        tasks = {"cpus": ray_cpus, "gpus": ray_gpus, "cohort_size": ray_cohort}
        train = _on_ray(ray, engine, layout, results, tasks)
    else:
        train = _here(engine, threads, layout, results)
    for each in configs:
        target = out if config else out / each
        with show_progress(quiet) as progress:
            trained = train(
                chosen,
                target,
                config=each,
                images_root=images_root,
                models=chosen_models,
                epochs=epochs,
                parent=parent,
                progress=progress,
            )
        print(f"{target}: {chosen.name}/{each}, {trained} models trained")


def _check(recipe: Recipe, configs: list[str], models: range | None, epochs: int | None, layout: str) -> None:
    """All of them before the first is trained for an hour."""
    if layout not in ("states", "packed"):
        raise RecipeError(f"--layout must be states or packed, got {layout!r}")
    for config in configs:
        members = select_members(recipe.members(config, epochs=epochs), models)
        per_state = 1 if recipe.config(config).parent is None else 2
        files = per_state * sum(member.training.epochs + 1 for member in members)
        if layout == "states" and files >= _MANY_FILES:
            _log.warning(
                "%s/%s will be %s files; --layout packed puts up to 100 models into one",
                recipe.name,
                config,
                f"{files:,}",
            )


def _place(cohort: str) -> tuple[int, int]:
    """'3/40' -> (3, 40)."""
    part, _, parts = cohort.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise RecipeError(f"--cohort must look like 3/40, got {cohort!r}")
    return int(part), int(parts)


# The ways to train a config: each gives a function of (recipe, config, out, ...) that returns how many models it has
# trained. They import what they need themselves, since that takes seconds, which a --help should not.


def _here(engine: str, threads: int | None, layout: str, results: str | None) -> Callable[..., int]:
    from ..engines import get_engine
    from ..generation import generate_zoo

    return partial(generate_zoo, engine=get_engine(engine, threads), storage=layout, results=results)


def _in_cohorts(place: tuple[int, int], engine: str, threads: int | None, results: str | None) -> Callable[..., int]:
    from ..engines import get_engine
    from ..generation import generate_cohort

    return partial(generate_cohort, part=place, engine=get_engine(engine, threads), results=results)


def _on_ray(address: str, engine: str, layout: str, results: str | None, tasks: dict[str, Any]) -> Callable[..., int]:
    from ..generation import generate_on_ray

    return partial(generate_on_ray, address=address, engine=engine, storage=layout, results=results, **tasks)


def _parse(recipe: str) -> tuple[str, str]:
    """'name/config', 'name', 'path/to/file.toml/config' or 'path/to/file.toml' -> (name or path, config or '')."""
    if ".toml/" in recipe:
        path, _, config = recipe.rpartition("/")
        return path, config
    if recipe.endswith(".toml"):
        return recipe, ""
    name, _, config = recipe.partition("/")
    return name, config


main = entry_point(app)
