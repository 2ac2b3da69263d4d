"""The steps of the demo: the public functions of the other commands, chained through files."""

from pathlib import Path

from modelzoo_datasets.builder import build_dataset
from modelzoo_datasets.cli import DEFAULT_IMAGES_ROOT
from modelzoo_datasets.engines import Engine, NetworkSpec, get_engine
from modelzoo_datasets.errors import FolderInUseError, ModelZooError, RecipeError
from modelzoo_datasets.generation import generate_zoo
from modelzoo_datasets.images import load_images
from modelzoo_datasets.loading import load_zoo
from modelzoo_datasets.progress import Progress
from modelzoo_datasets.recipes import Recipe, read_recipe

from .. import evaluate, read_hyper_recipe, train
from ..api import write_report
from ..evaluation import EvaluationResult
from ..recipe import HyperRecipe


def run_pipeline(
    recipe: str, hyper_recipe: str, out: Path, threads: int | None, progress: Progress
) -> EvaluationResult:
    """Zoos, dataset, hyper-representation, evaluation and report below `out`; what is there already is kept."""
    zoo_recipe, learned = read_recipe(recipe), read_hyper_recipe(hyper_recipe)
    _refuse_foreign_folder(out)
    _check_recipes(zoo_recipe, learned)
    engine = get_engine("auto", threads)
    dataset = _make_dataset(zoo_recipe, out, engine, progress)
    _check_dataset(dataset, zoo_recipe, engine)
    hyperrep = out / "hyperrep"
    train(dataset, learned, hyperrep, engine=engine, images_root=DEFAULT_IMAGES_ROOT, progress=progress)
    result = evaluate(
        dataset,
        out / "hyperrep",
        learned,
        out / "evaluation",
        engine=engine,
        images_root=DEFAULT_IMAGES_ROOT,
        progress=progress,
    )
    recipes = f"{zoo_recipe.name}, {learned.name}"
    write_report(
        out / "report.html", dataset, list(zoo_recipe.configs), recipes, result, f"Model zoo {zoo_recipe.name}"
    )
    return result


def _refuse_foreign_folder(out: Path) -> None:
    own_names = {"zoo", "dataset", "hyperrep", "evaluation", "report.html"}
    if out.exists() and not out.is_dir():
        raise FolderInUseError(f"{out} is a file; choose another --out")
    foreign = (
        [p.name for p in out.iterdir() if p.name not in own_names and p.suffix != ".partial"] if out.is_dir() else []
    )
    if foreign:
        raise FolderInUseError(f"{out} holds something else ({sorted(foreign)[0]}); choose another --out")


def _check_recipes(recipe: Recipe, learned: HyperRecipe) -> None:
    """Check that the recipes fit together before anything is trained."""
    epochs = min(member.training.epochs for member in recipe.members(learned.data.config))
    if learned.data.epochs[1] > epochs:
        raise RecipeError(
            f"recipe {learned.name} learns from epochs up to {learned.data.epochs[1]}, {recipe.name}/"
            f"{learned.data.config} has {epochs}"
        )


def _make_dataset(recipe: Recipe, out: Path, engine: Engine, progress: Progress) -> Path:
    zoos = [out / "zoo" / config for config in recipe.configs]
    for config, folder in zip(recipe.configs, zoos, strict=True):
        generate_zoo(
            recipe,
            folder,
            config=config,
            engine=engine,
            images_root=DEFAULT_IMAGES_ROOT,
            progress=progress,
        )
    build_dataset(zoos, out / "dataset", progress=progress)
    return out / "dataset"


def _check_dataset(dataset: Path, recipe: Recipe, engine: Engine) -> None:
    """Run every test model again from the dataset's weights: its accuracy must be the stored one, exactly."""
    images = load_images(recipe.images, DEFAULT_IMAGES_ROOT)
    for config in recipe.configs:
        zoo = load_zoo(dataset, config, split="test")
        trainings = [zoo.hyperparameters(i) for i in range(len(zoo))]
        networks = [NetworkSpec(training.activation, training.dropout) for training in trainings]
        measured = engine.evaluate(zoo.architecture.name, images, zoo.weights, networks, "test").accuracy
        differs = measured.numpy() != zoo.table["test_acc"].to_numpy()
        if differs.any():
            models = ", ".join(sorted(set(zoo.table["model_id"][differs])))
            raise ModelZooError(f"{dataset}/{config}: another test accuracy than stored for {models}")
