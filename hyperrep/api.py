"""The steps of the commands: dataset -> hyper-representation folder -> evaluation folder, each resumable."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modelzoo_datasets._util import format_versions, versions
from modelzoo_datasets.engines import Engine, NetworkSpec, make_batched_network, one_thread
from modelzoo_datasets.errors import FolderInUseError, ModelZooError
from modelzoo_datasets.images import load_images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.zoo import read_json, write_bytes, write_json

from .data import (
    learned_states,
    origin_of,
    parse_source,
    read_zoo_info,
    refuse_foreign,
    refuse_other_architecture,
    splits_of,
    trained_states,
)
from .evaluation import evaluated
from .model import THIS_FOLDER, HyperRepresentation
from .probes import Probe, probe_all
from .recipe import HyperRecipe
from .release import not_evaluated, representation_card
from .report import render_report
from .storage import facts_of, finish, is_finished, start
from .trainer import Queries, learn, new_representation, recording

_CPU = torch.device("cpu")


@one_thread()
def train(
    dataset: str | Path,
    recipe: HyperRecipe,
    out: Path,
    *,
    engine: Engine | None = None,
    images_root: Path | None = None,
    device: torch.device = _CPU,
    compiled: bool = False,
    half: bool = False,
    progress: Progress = NO_PROGRESS,
) -> HyperRepresentation:
    """Make sure that `out` holds the hyper-representation of this recipe and dataset.

    Args:
        engine: what runs networks, for recipes with a loss of behaviour.
        images_root: where the images are that the networks were trained on, for such recipes too.
        device: where it learns; each gives bits of its own.
        compiled: through `torch.compile`; other bits again.
        half: transformers multiply in bfloat16; other bits too.

    Raises:
        FormatError: no such dataset, config or epochs.
        FolderInUseError: `out` holds something else.
    """
    facts = facts_of(recipe, read_zoo_info(dataset, recipe), origin_of(dataset, recipe.data.config))
    if is_finished(out, facts):
        return HyperRepresentation.from_pretrained(out)
    states = {s: learned_states(dataset, recipe, s) for s in ("train", "validation")}
    rep = new_representation(recipe, states["train"]).to(device)
    work = start(out, facts)
    history = []
    queries = _queries(states["train"], engine, images_root) if recipe.learning.asks else None
    weights, unseen = states["train"].weights, states["validation"].weights
    epochs = learn(rep, weights, unseen, recipe, work, queries, compiled=compiled, half=half)
    with (
        recording(work) as record,
        progress.start("learning a hyper-representation", recipe.learning.epochs) as task,
    ):
        for row in epochs:
            history.append(row)
            record(row)
            task.update()
    worth = not_evaluated(history[-1].validation_r2)
    finish(out, rep, history, representation_card(THIS_FOLDER, rep, read_json(work / "training.json"), worth))
    return HyperRepresentation.from_pretrained(out)


@one_thread()
def evaluate(
    dataset: str | Path,
    representation: Path,
    recipe: HyperRecipe,
    out: Path,
    *,
    engine: Engine,
    images_root: Path,
    progress: Progress = NO_PROGRESS,
) -> dict[str, Any]:
    """Make sure that `out` holds the evaluation of a hyper-representation; returns what its evaluation.json says.

    Populations that were judged before a stop are not judged again.

    Raises:
        FormatError: a folder is not what it must be.
        ModelZooError: the recipe asks for what this zoo does not allow.
        FolderInUseError: `out` holds the evaluation of something else.
    """
    rep = HyperRepresentation.from_pretrained(representation)
    refuse_foreign(representation, recipe, dataset)
    learned_by = read_json(representation / "training.json")
    found = evaluated(rep, dataset, recipe, out, learned_by, engine=engine, images_root=images_root, progress=progress)
    write_report(out / "report.html", dataset, [recipe.data.config], recipe.name, found)
    return found


def write_report(
    path: Path, dataset: str | Path, configs: Sequence[str], recipe: str, found: dict[str, Any], title: str = ""
) -> None:
    """Render what was found as one page, with the zoos of these configs beside it."""
    zoos = {config: load_zoo(dataset, config) for config in configs}
    first = next(iter(zoos.values()))
    facts = {
        "images": first.images,
        "architecture": f"{first.architecture.name}, {first.layout.size:,} parameters",
        "models": ", ".join(f"{zoo.table['model_id'].nunique()} in {config}" for config, zoo in zoos.items()),
        "states": ", ".join(f"{len(zoo)} in {config}" for config, zoo in zoos.items()),
        "recipe": recipe,
        "protocol": ", ".join(f"{name} {_plainly(value)}" for name, value in found["protocol"].items()),
        "versions": format_versions(versions()),
    }
    page = render_report(
        title or f"Hyper-representation {recipe}",
        {config: zoo.table for config, zoo in zoos.items()},
        ["×".join(map(str, layer.weight.shape)) for layer in first.layout.layers],
        found,
        facts,
    )
    write_bytes(path, page.encode())


def _plainly(value: Any) -> str:
    """A value of the recipe in words."""
    return " / ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


@one_thread()
def probe(
    dataset: str | Path,
    representation: Path,
    recipe: HyperRecipe,
    *,
    test_on: str | None = None,
    out: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[Probe]:
    """Linear probes of W, s(W) and z beside their baselines, on test models; see `probing.probe_all`.

    Args:
        test_on: another dataset, or DATASET/CONFIG, whose test models are predicted instead.
        out: a folder for `probes.json` and `probes.csv`.

    Raises:
        FormatError: a folder is not what it must be, holds another architecture, or has too few models.
        FolderInUseError: `out` holds something else.
    """
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderInUseError(f"{out} is not empty; choose another --out")
    rep = HyperRepresentation.from_pretrained(representation)
    refuse_foreign(representation, recipe, dataset)
    zoo = splits_of(trained_states(load_zoo(dataset, recipe.data.config)))
    if test_on is not None:
        other, config = parse_source(test_on)
        tested = load_zoo(other, config, split="test")
        refuse_other_architecture(rep, tested, test_on)
        zoo["test"] = trained_states(tested)
    rows = probe_all(rep, zoo, seed=recipe.evaluation.seed, progress=progress)
    if out is not None:
        _write_probes(out, rows, {"dataset": str(dataset), "config": recipe.data.config, "test_on": test_on})
    return rows


def _write_probes(out: Path, rows: list[Probe], facts: dict[str, Any]) -> None:
    values = [dataclasses.asdict(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Probe)])
    writer.writeheader()
    writer.writerows(values)
    write_bytes(out / "probes.csv", text.getvalue().encode())
    write_json(out / "probes.json", {**facts, "probes": values})


def _queries(zoo: Zoo, engine: Engine | None, images_root: Path | None) -> Queries:
    """The training images of a zoo, to ask its networks about."""
    if engine is None or images_root is None:
        raise ModelZooError("a recipe with a loss of behaviour needs an engine and the folder of the images")
    training = zoo.hyperparameters(0)
    functions = make_batched_network(engine, zoo.architecture.name, NetworkSpec(training.activation, training.dropout))
    return Queries(functions, load_images(zoo.images, images_root).inputs("train"))
