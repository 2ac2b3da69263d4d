"""The steps of the commands: dataset folder -> hyper-representation folder -> evaluation folder, each resumable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modelzoo_datasets.engines import Engine, Network, functions_of, one_thread
from modelzoo_datasets.errors import FolderInUseError, FormatError, ModelZooError
from modelzoo_datasets.images import load_images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import Progress, silent
from modelzoo_datasets.states import read_json, write_json

from .autoencoder import HyperRepresentation
from .behaviour import Queries
from .evaluation import embeddings_2d, judge, populations, probe_all, reconstruction, scratch
from .fitting import new_representation
from .recipe import HyperRecipe
from .recording import recording
from .storage import facts_of, finish, is_finished, is_learned_by, load_representation, start
from .training import learn

EVALUATION_FORMAT = "modelzoo-evaluation-1"
_CPU = torch.device("cpu")
_SPLITS = ("train", "validation", "test")


@one_thread()
def train(
    dataset: Path,
    recipe: HyperRecipe,
    out: Path,
    *,
    engine: Engine | None = None,
    images_root: Path | None = None,
    device: torch.device = _CPU,
    compiled: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> HyperRepresentation:
    """Make sure that `out` holds the hyper-representation of this recipe and dataset.

    Args:
        engine: what runs networks, for recipes with a loss of behaviour.
        images_root: where the images are that the networks were trained on, for such recipes too.
        device: where it learns; each gives bits of its own.
        compiled: through `torch.compile`; other bits again.
        tell: given a line where an earlier run was stopped that another release or torch began.

    Raises:
        FormatError: no such dataset, config or epochs.
        FolderInUseError: `out` holds something else.
    """
    facts = facts_of(recipe, _dataset_facts(dataset, recipe))
    if is_finished(out, facts):
        return load_representation(out)
    states = {s: _learned_states(dataset, recipe, s) for s in ("train", "validation")}
    rep = new_representation(recipe, states["train"]).to(device)
    work = start(out, facts, tell)
    history = []
    queries = _queries(states["train"], engine, images_root) if recipe.learning.asks else None
    weights, unseen = states["train"].weights, states["validation"].weights
    epochs = learn(rep, weights, unseen, recipe, work, queries, compiled=compiled, tell=tell)
    with recording(work) as record:
        for row in epochs:
            history.append(row)
            record(row)
            progress("learning a hyper-representation", row.epoch, recipe.learning.epochs)
    finish(out, rep, history)
    return load_representation(out)


@one_thread()
def evaluate(
    dataset: Path,
    representation: Path,
    recipe: HyperRecipe,
    out: Path,
    *,
    engine: Engine,
    images_root: Path,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make sure that `out` holds the evaluation of a hyper-representation; returns what its evaluation.json says.

    Populations that were judged before a stop are not judged again.

    Raises:
        FormatError: a folder is not what it must be.
        FolderInUseError: `out` holds the evaluation of something else.
    """
    rep = load_representation(representation)
    _refuse_foreign(representation, recipe, dataset)
    facts = {
        "format": EVALUATION_FORMAT,
        "trained": read_json(representation / "training.json"),
        "protocol": vars(recipe.evaluation),
        "engine": engine.name,
    }
    if (out / "facts.json").is_file():
        if read_json(out / "facts.json") != facts:
            raise FolderInUseError(f"{out} holds another evaluation; choose another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderInUseError(f"{out} holds something else; choose another --out or remove it")
    write_json(out / "facts.json", facts)
    learned = {s: _learned_states(dataset, recipe, s) for s in _SPLITS}
    images = load_images(learned["train"].images, images_root)
    training = learned["train"].training(0)
    aligned = rep.align(learned["train"].weights)
    results = []
    populated = populations(rep, {s: learned[s] for s in ("train", "test")}, recipe.evaluation)
    for population in populated:
        path = out / "populations" / f"{population.name.replace(' ', '-')}.json"
        if not path.is_file():
            how = (engine, images, training, recipe.evaluation)
            write_json(path, judge(population, rep, aligned, *how, progress=progress))
        results.append(read_json(path))
    everything = load_zoo(dataset, recipe.data.config)
    results.append(scratch(everything, recipe.evaluation.fine_tune_epochs))
    report = {
        "populations": results,
        "probes": probe(dataset, representation, recipe),
        "reconstruction": reconstruction(rep, learned),
        "embeddings": embeddings_2d(rep, learned, populated),
    }
    write_json(out / "evaluation.json", report)
    return report


@one_thread()
def probe(dataset: Path, representation: Path, recipe: HyperRecipe) -> dict[str, dict[str, float]]:
    """R² on test models of linear probes: property -> representation (W, s(W), z) -> R²."""
    rep = load_representation(representation)
    _refuse_foreign(representation, recipe, dataset)
    return probe_all(rep, {s: _trained(load_zoo(dataset, recipe.data.config, split=s)) for s in _SPLITS})


def _queries(zoo: Zoo, engine: Engine | None, images_root: Path | None) -> Queries:
    """The training images of a zoo, to ask its networks about."""
    if engine is None or images_root is None:
        raise ModelZooError("a recipe with a loss of behaviour needs an engine and the folder of the images")
    training = zoo.training(0)
    functions = functions_of(engine, zoo.architecture.name, Network(training.activation, training.dropout))
    return Queries(functions, load_images(zoo.images, images_root).inputs("train"))


def _refuse_foreign(representation: Path, recipe: HyperRecipe, dataset: Path) -> None:
    """Another dataset may call test models what were training models here."""
    if not is_learned_by(representation, facts_of(recipe, _dataset_facts(dataset, recipe))):
        raise FormatError(
            f"{representation} was not learned by recipe {recipe.name} from {dataset}; "
            "evaluate it with what it was learned from"
        )


def _dataset_facts(dataset: Path, recipe: HyperRecipe) -> dict[str, Any]:
    if not (dataset / "zoo.json").is_file():
        raise FormatError(f"{dataset} is no dataset folder; modelzoo-build makes one")
    configs: dict[str, Any] = read_json(dataset / "zoo.json").get("configs", {})
    if recipe.data.config not in configs:
        raise FormatError(
            f"{dataset} has no config {recipe.data.config!r}, which recipe {recipe.name} learns from; "
            f"it has {', '.join(configs)}"
        )
    facts: dict[str, Any] = configs[recipe.data.config]
    return facts


def _learned_states(dataset: Path, recipe: HyperRecipe, split: str) -> Zoo:
    first, last = recipe.data.epochs
    return load_zoo(dataset, recipe.data.config, split=split, epochs=range(first, last + 1))


def _trained(zoo: Zoo) -> Zoo:
    """Without the untrained states: probing them is trivial and would flatter every representation."""
    return zoo.select(zoo.table["epoch"] > 0)
