"""Train the zoo of one config into a folder; run again, it goes on where it stopped."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..architectures import get_architecture
from ..engines import Engine, Job
from ..errors import RecipeError
from ..images import Images, load_images
from ..progress import Progress, silent
from ..recipes import Recipe, chosen_members
from ..states import ZooWriter

_METRICS_ON = ("train", "validation", "test")


def generate(
    recipe: Recipe,
    config: str,
    out: Path,
    *,
    engine: Engine,
    images_root: Path,
    models: range | None = None,
    epochs: int | None = None,
    progress: Progress = silent,
) -> int:
    """Make sure that `out` holds the zoo `recipe/config`; returns how many models had to be trained.

    Args:
        models: places in the grid, from 1; all if not given. More can be added to the same folder later.
        epochs: instead of the recipe's; makes it another zoo.

    Raises:
        RecipeError: unknown config, architecture or images, or no such models.
        FolderInUseError: `out` holds another zoo.
        MissingImagesError: the images are neither in `images_root` nor to be downloaded.
    """
    architecture = get_architecture(recipe.architecture)
    grid = recipe.members(config, epochs=epochs)
    members = chosen_members(grid, models)
    images = load_images(recipe.images, images_root)
    if tuple(images.splits["train"].pixels.shape[1:]) != architecture.input_shape:
        raise RecipeError(
            f"recipe {recipe.name}: {architecture.name} takes images of {architecture.input_shape}, "
            f"{images.name} has {tuple(images.splits['train'].pixels.shape[1:])}"
        )
    writer = ZooWriter(out, _facts(recipe, config, epochs, images, engine))
    finished = writer.finished(members)
    missing = [m for m in members if m.model_id not in finished]
    progress(f"training {recipe.name}/{config}", len(finished), len(members))
    jobs = [Job(training=m.training, seed=m.seed) for m in missing]
    trained = 0
    for states in engine.train(architecture.name, images, jobs, metrics_on=_METRICS_ON):
        member = missing[int(states.jobs[0])]
        writer.add(member, states.weights, states.metrics)
        trained += 1
        progress(f"training {recipe.name}/{config}", len(finished) + trained, len(members))
    writer.complete(grid)
    return trained


def _facts(recipe: Recipe, config: str, epochs: int | None, images: Images, engine: Engine) -> dict[str, Any]:
    """All that zoo.json says: equal facts, equal weights."""
    architecture = get_architecture(recipe.architecture)
    return {
        "name": f"{recipe.name}/{config}",
        "architecture": architecture.name,
        "images": images.name,
        "recipe": recipe.resolved(config, epochs=epochs),
        "layout": architecture.layout.to_json(),
        "images_sha256": images.fingerprint,
        "engine": engine.name,
        "versions": {name: version(name) for name in ("modelzoo-datasets", "torch")},
    }
