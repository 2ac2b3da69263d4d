"""modelzoo-generate: recipe -> zoo folder."""

from typing import Annotated

import typer

from ..recipes import chosen_members, parse_range, read_recipe, recipe_names
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

app = new_app("Train the zoos of a recipe.")


@app.command(epilog="Example: modelzoo-generate fashion-mnist-5k-cnn-s/seed --models 1-10 --out zoo/seed")
def command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE[/CONFIG]",
            help=f"A TOML file or one of {', '.join(recipe_names('generation'))}.",
        ),
    ],
    out: Out,
    models: Annotated[str | None, typer.Option(help="Only these of the grid, e.g. 1-100.", show_default=False)] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Train the models of RECIPE/CONFIG into a zoo folder; of RECIPE alone, every config into its own folder below.

    Run it again to go on after a stop, or with more --models to add to the folder.
    """
    name, config = _parse(recipe)
    chosen = read_recipe(name)
    chosen_models = parse_range("--models", models) if models is not None else None
    configs = [config] if config else list(chosen.configs)
    for each in configs:  # all of them before the first is trained for an hour
        chosen_members(chosen.members(each, epochs=epochs), chosen_models)
    from ..engines import get_engine
    from ..generating import generate

    for each in configs:
        target = out if config else out / each
        with progress_bars(quiet) as progress:
            trained = generate(
                chosen,
                each,
                target,
                engine=get_engine(engine, threads),
                images_root=images_root,
                models=chosen_models,
                epochs=epochs,
                progress=progress,
            )
        print(f"{target}: {chosen.name}/{each}, {trained} models trained")


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
