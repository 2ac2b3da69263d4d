"""modelzoo-demo: the whole pipeline on the embedded images, through the public functions of both packages."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import hyperrep

# Rooms import their modules when a name is used, so that help and errors do not wait for torch.
from modelzoo_datasets import builder, cli, engines, generation, images, loading
from modelzoo_datasets.cli import (
    DEFAULT_IMAGES_ROOT,
    Out,
    Plugin,
    Quiet,
    Threads,
    Version,
    entry_point,
    new_app,
    show_progress,
)
from modelzoo_datasets.errors import FolderInUseError, ModelZooError, RecipeError
from modelzoo_datasets.extras import require_extra
from modelzoo_datasets.progress import Progress
from modelzoo_datasets.recipes import Recipe, read_recipe
from modelzoo_datasets.zoo import OutputLock

from .. import report
from ..recipe import HyperRecipe

if TYPE_CHECKING:
    from ..evaluation import EvaluationResult

_OUTPUTS = ("zoo", "dataset", "hyperrep", "evaluation", "report.html")
app = new_app("Run the whole pipeline on the embedded images.")


@app.command(epilog="Example: modelzoo-demo --out demo")
def command(
    out: Out,
    recipe: Annotated[str, typer.Option(help="Recipe of the zoos to generate.")] = "fashion-mnist-5k-cnn-s",
    hyper_recipe: Annotated[
        str, typer.Option(help="Recipe of the hyper-representation and of its evaluation.")
    ] = "demo",
    threads: Threads = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Generate zoos, build a dataset, train a hyper-representation on it, evaluate its samples, and write a report.

    The demo takes less than ten minutes on two cores. You can stop it at any time; running it again resumes it.
    """
    start = time.perf_counter()
    recipes = read_recipe(recipe), hyperrep.read_hyper_recipe(hyper_recipe)
    _check_folder(out)
    with show_progress(quiet) as progress, OutputLock(out):
        result = run_pipeline(*recipes, out, threads, progress)
    shown = [p for p in result.populations if not p.matched_to and (p.curves or p.is_sample)]
    accuracies = report.accuracy_table(shown, result.protocol.finetune_epochs)
    cli.print_table(accuracies, "test accuracy in percent, mean ± std")
    cli.print_table(report.judgment_table(result.populations, result.judgments), "samples and the strongest nulls")
    cli.print_table(report.probe_table(result.probes), "probes on test models, with 95 % intervals over models")
    for line in report.describe_probes(result.probes):
        print(f"- {line}")
    print(f"{time.perf_counter() - start:.0f} s; open {out / 'report.html'}")


def run_pipeline(
    recipe: Recipe, hyper_recipe: HyperRecipe, out: Path, threads: int | None, progress: Progress
) -> "EvaluationResult":
    """Write zoos, dataset, hyper-representation, evaluation and report below `out`; finished parts are kept."""
    require_extra("evaluations", "learn")
    _check_epochs(recipe, hyper_recipe)
    engine = engines.get_engine("auto", threads)
    zoos = [out / "zoo" / config for config in recipe.configs]
    dataset, representation = out / "dataset", out / "hyperrep"
    inputs: dict[str, Any] = {"engine": engine, "images_root": DEFAULT_IMAGES_ROOT, "progress": progress}
    for config, zoo in zip(recipe.configs, zoos, strict=True):
        generation.generate_zoo(recipe, zoo, config=config, **inputs)
    builder.build_dataset(zoos, dataset, progress=progress)
    _check_accuracies(dataset, recipe, engine)
    hyperrep.train(dataset, hyper_recipe, representation, **inputs)
    result = hyperrep.evaluate(dataset, representation, hyper_recipe, out / "evaluation", **inputs)
    names = f"{recipe.name}, {hyper_recipe.name}"
    configs = {config: loading.load_zoo(dataset, config) for config in recipe.configs}
    report.write_report(out / "report.html", f"Model zoo {recipe.name}", configs, result, {"recipe": names})
    return result


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise FolderInUseError(f"{out} is a file; pass a different --out")
    names = [path.name for path in out.iterdir() if path.suffix not in (".partial", ".lock")] if out.is_dir() else []
    if others := sorted({*names} - {*_OUTPUTS}):
        raise FolderInUseError(f"output folder {out} already contains {others[0]}; pass a different --out")


def _check_epochs(recipe: Recipe, hyper_recipe: HyperRecipe) -> None:
    """Check that the zoo has all epochs that the hyper-representation is trained on, before anything is trained."""
    config, last = hyper_recipe.data.config, hyper_recipe.data.epochs[1]
    epochs = min(member.training.epochs for member in recipe.members(config))
    if last > epochs:
        raise RecipeError(
            f"recipe {hyper_recipe.name} trains on epochs up to {last}, but {recipe.name}/{config} has {epochs}"
        )


def _check_accuracies(dataset: Path, recipe: Recipe, engine: "engines.Engine") -> None:
    """Run every test model again from the dataset's weights: its accuracy must equal the stored one exactly."""
    inputs = images.load_images(recipe.images, DEFAULT_IMAGES_ROOT)
    for config in recipe.configs:
        zoo = loading.load_zoo(dataset, config, split="test")
        trainings = [zoo.hyperparameters(i) for i in range(len(zoo))]
        networks = [engines.NetworkSpec(training.activation, training.dropout) for training in trainings]
        measured = engine.evaluate(zoo.architecture.name, inputs, zoo.weights, networks, "test").accuracy
        differs = measured.numpy() != zoo.table["test_acc"].to_numpy()
        if differs.any():
            models = ", ".join(sorted(set(zoo.table["model_id"][differs])))
            raise ModelZooError(f"{dataset}/{config}: the test accuracy differs from the stored one for {models}")


main = entry_point(app)
