"""The steps of the commands: dataset -> hyper-representation folder -> evaluation folder, each resumable."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modelzoo_datasets._util import file_sha256, format_versions, versions
from modelzoo_datasets.engines import Engine, get_engine, one_thread
from modelzoo_datasets.extras import require_extra
from modelzoo_datasets.loading import load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.zoo import OutputLock, read_json, write_bytes, write_json

from .data import (
    check_trained_on,
    describe_training,
    drop_untrained,
    group_by_split,
    load_recipe_states,
    locate_representation,
    parse_source,
    read_dataset_info,
    read_stored_recipe,
)
from .evaluation import EvaluationResult, run_protocol
from .json_record import describe_record
from .model import WEIGHTS_FILE, HyperRepresentation
from .probes import Probe, probe_properties
from .recipe import HyperRecipe
from .recipe_choice import choose_recipe
from .recipe_toml import read_hyper_recipe
from .release import not_evaluated, representation_card
from .storage import TrainingInfo, check_unused, finish_folder, is_finished, start_folder, write_csv
from .trainer import Precision, check_trainable, create_representation, open_metrics_log, train_epochs
from .training_inputs import prepare_training
from .zoo_values import describe_stand_ins, read_numbers

_CPU = torch.device("cpu")
PROBES_FILE = "probes.json"
_log = logging.getLogger(__name__)


@one_thread()
def train(
    dataset: str | Path,
    recipe: str | HyperRecipe | None,
    out: str | Path,
    *,
    engine: str | Engine = "auto",
    images_root: str | Path | None = None,
    device: torch.device = _CPU,
    compiled: bool = False,
    precision: Precision = "float32",
    progress: Progress = NO_PROGRESS,
) -> HyperRepresentation:
    """Train a hyper-representation on a dataset and write its folder.

    A folder that is there already is loaded; a run that was stopped is resumed, to the same bits.

    Args:
        dataset: dataset folder, or repo such as ORG/NAME.
        recipe: states, sizes, losses: a recipe, or its name or file for `read_hyper_recipe`; None for the one of
            `choose_recipe`.
        out: folder to write.
        engine: runs networks, for recipes with a functional loss; an engine or its name.
        images_root: folder of the images, for recipes with a functional loss; the user's cache by default.
        device: device to train on; each rounds differently.
        compiled: train through `torch.compile`, which rounds differently again.
        precision: of products inside the transformers: "float32", or "bf16" for bfloat16.
        progress: display of the epochs.

    Returns:
        The trained hyper-representation, on the CPU.

    Raises:
        FormatError: there is no such dataset, config or epochs.
        FolderInUseError: `out` already contains other files, another training was stopped there, or another process
            is writing it.

    Example:
        >>> import dataclasses
        >>> from hyperrep import read_hyper_recipe, train
        >>> recipe = read_hyper_recipe("demo")
        >>> short = dataclasses.replace(
        ...     recipe.learning, epochs=1, batch_size=16, functional_weight=0.0, mixed_functional_weight=0.0
        ... )
        >>> data = dataclasses.replace(recipe.data, epochs=(1, 2))
        >>> rep = train(dataset, dataclasses.replace(recipe, data=data, learning=short), out / "hyperrep")
        >>> rep.latent_dim < rep.layout.size
        True
    """
    recipe, out = choose_recipe(dataset).recipe if recipe is None else _resolve_recipe(recipe), Path(out)
    info = describe_training(dataset, recipe, with_origin=True)
    if not is_finished(out, info):
        with OutputLock(out):
            if not is_finished(out, info):  # another process may have written it meanwhile
                options: dict[str, Any] = {"compiled": compiled, "precision": precision, "progress": progress}
                _train(dataset, recipe, out, info, engine, images_root, device, **options)
                return HyperRepresentation.from_pretrained(out)
    _log.info("%s is finished already; nothing was trained", out)
    return HyperRepresentation.from_pretrained(out)


def _train(
    dataset: str | Path,
    recipe: HyperRecipe,
    out: Path,
    info: TrainingInfo,
    engine: str | Engine,
    images_root: str | Path | None,
    device: torch.device,
    *,
    compiled: bool,
    precision: Precision,
    progress: Progress,
) -> None:
    """Train a hyper-representation and write its folder; see `train`."""
    states = {split: load_recipe_states(dataset, recipe, split) for split in ("train", "validation")}
    check_trainable(recipe, states["train"])
    inputs = prepare_training(
        states["train"],
        recipe,
        get_engine(engine),
        None if images_root is None else Path(images_root),
        images_sha256=read_dataset_info(dataset).configs[recipe.data.config].images_sha256,
        progress=progress,
    )
    rep = create_representation(recipe, inputs.states).to(device)
    info = dataclasses.replace(info, notes=inputs.notes, stand_ins=describe_stand_ins(states["train"]))
    work, info = start_folder(out, info)
    weights, validation = states["train"].weights, states["validation"].weights
    epochs = train_epochs(
        rep, weights, validation, inputs.recipe, work, inputs.predictor, compiled=compiled, precision=precision
    )
    history = []
    with (
        open_metrics_log(work) as write_metrics,
        progress.start("training a hyper-representation", recipe.learning.epochs) as task,
    ):
        for row in epochs:
            history.append(row)
            write_metrics(row)
            task.update()
    card = representation_card(rep, info, not_evaluated(history[-1].validation_r2))
    finish_folder(out, rep, history, card)


@one_thread()
def evaluate(
    dataset: str | Path,
    representation: str | Path,
    recipe: str | HyperRecipe | None,
    out: str | Path,
    *,
    engine: str | Engine = "auto",
    images_root: str | Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> EvaluationResult:
    """Evaluate the samples of a hyper-representation and write evaluation.json and report.html.

    Populations that were evaluated before a stop are not evaluated again.

    Args:
        dataset: dataset folder or repo that it was trained on.
        representation: its folder, or its model repo on the Hub.
        recipe: recipe that it was trained by, or its name or file, whose `evaluation` is the protocol; None for the
            one that the folder stores.
        out: folder to write.
        engine: runs networks; an engine or its name.
        images_root: folder of the images; the user's cache by default.
        progress: display of the populations.

    Returns:
        The content of evaluation.json.

    Raises:
        MissingExtraError: the extra `learn` is not installed.
        FormatError: a folder is not what it must be, or does not belong to the recipe and the dataset.
        ModelZooError: the protocol needs something that this zoo does not have.
        FolderInUseError: `out` holds another evaluation, or other files, or another process is writing it.

    Example:
        >>> import dataclasses
        >>> from hyperrep import evaluate, read_hyper_recipe, train
        >>> recipe = read_hyper_recipe("demo")
        >>> short = dataclasses.replace(
        ...     recipe.learning, epochs=1, batch_size=16, functional_weight=0.0, mixed_functional_weight=0.0
        ... )
        >>> small = dataclasses.replace(
        ...     recipe.evaluation, samplers=("normal",), num_samples=2, num_finetuned=1, finetune_epochs=(1,), noise=()
        ... )
        >>> data = dataclasses.replace(recipe.data, epochs=(1, 2))
        >>> recipe = dataclasses.replace(recipe, data=data, learning=short, evaluation=small)
        >>> rep = train(dataset, recipe, out / "hyperrep")
        >>> result = evaluate(dataset, out / "hyperrep", None, out / "evaluation")  # by the recipe of the folder
        >>> [population.n for population in result.populations if population.name == "normal@30"]
        [2]
    """
    require_extra("evaluations", "learn")
    recipe, out = read_stored_recipe(representation) if recipe is None else _resolve_recipe(recipe), Path(out)
    runner = get_engine(engine)
    root = None if images_root is None else Path(images_root)
    folder = locate_representation(representation)
    rep = HyperRepresentation.from_pretrained(folder)
    info = check_trained_on(folder, recipe, dataset)
    with OutputLock(out):
        result = run_protocol(rep, dataset, recipe, out, info, engine=runner, images_root=root, progress=progress)
        write_report(out / "report.html", dataset, [recipe.data.config], recipe.name, result)
    return result


def write_report(
    path: Path, dataset: str | Path, configs: Sequence[str], recipe: str, result: EvaluationResult, title: str = ""
) -> None:
    """Write report.html: an evaluation, and the zoos of these configs.

    Args:
        path: file to write.
        dataset: dataset folder or repo.
        configs: its configs to show.
        recipe: name of the recipe, for the provenance.
        result: the evaluation.
        title: heading of the page.
    """
    from .report import render_report  # here, because training needs no figures

    zoos = {config: load_zoo(dataset, config) for config in configs}
    first = next(iter(zoos.values()))
    provenance = {
        "images": first.images,
        "architecture": f"{first.architecture.name}, {first.layout.size:,} parameters",
        "models": ", ".join(f"{zoo.table['model_id'].nunique()} in {config}" for config, zoo in zoos.items()),
        "states": ", ".join(f"{len(zoo)} in {config}" for config, zoo in zoos.items()),
        "recipe": recipe,
        "protocol": describe_record(result.protocol),
        "versions": format_versions(versions()),
    }
    page = render_report(
        title or f"Hyper-representation {recipe}",
        {name: zoo.table.assign(test_acc=read_numbers(zoo.table, "test_acc").numpy()) for name, zoo in zoos.items()},
        ["×".join(map(str, layer.weight.shape)) for layer in first.layout.layers],
        result,
        provenance,
    )
    write_bytes(path, page.encode())


@one_thread()
def probe(
    dataset: str | Path,
    representation: str | Path,
    recipe: str | HyperRecipe | None = None,
    *,
    test_on: str | None = None,
    out: str | Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[Probe]:
    """Predict properties of test models from W, s(W) and z, beside baselines.

    Args:
        dataset: dataset folder or repo that the hyper-representation was trained on.
        representation: its folder, or its model repo on the Hub.
        recipe: recipe that it was trained by, or its name or file; by default the one that the folder stores.
        test_on: another dataset, or DATASET/CONFIG, whose test models are predicted instead.
        out: folder for `probes.json` and `probes.csv`.
        progress: display of the properties.

    Returns:
        One row per property and representation.

    Raises:
        MissingExtraError: the extra `learn` is not installed.
        FormatError: a folder is not what it must be, holds another architecture, or has too few models.
        FolderInUseError: `out` already contains other files.

    Example:
        >>> import dataclasses
        >>> from hyperrep import probe, read_hyper_recipe, train
        >>> recipe = read_hyper_recipe("demo")
        >>> short = dataclasses.replace(
        ...     recipe.learning, epochs=1, batch_size=16, functional_weight=0.0, mixed_functional_weight=0.0
        ... )
        >>> data = dataclasses.replace(recipe.data, epochs=(1, 2))
        >>> recipe = dataclasses.replace(recipe, data=data, learning=short)
        >>> rep = train(dataset, recipe, out / "hyperrep")
        >>> rows = probe(dataset, out / "hyperrep")
        >>> {row.representation for row in rows} >= {"W", "s(W)", "z"}
        True
    """
    require_extra("probes", "learn")
    recipe = read_stored_recipe(representation) if recipe is None else _resolve_recipe(recipe)
    out = None if out is None else Path(out)
    if out is not None and not (out / PROBES_FILE).is_file():
        check_unused(out)
    folder = locate_representation(representation)
    rep = HyperRepresentation.from_pretrained(folder)
    check_trained_on(folder, recipe, dataset)
    if out is None:
        return _probe(dataset, rep, recipe, test_on, progress)
    inputs: dict[str, Any] = {"dataset": str(dataset), "config": recipe.data.config, "test_on": test_on}
    inputs |= {"hyperrep_sha256": file_sha256(folder / WEIGHTS_FILE), "seed": recipe.evaluation.seed}
    with OutputLock(out):
        if rows := _read_probes(out, inputs):
            _log.info("%s is finished already; nothing was probed", out)
            return rows
        check_unused(out)
        rows = _probe(dataset, rep, recipe, test_on, progress)
        write_csv(out / "probes.csv", Probe, rows)
        write_json(out / PROBES_FILE, {**inputs, "probes": [row.to_json() for row in rows]})
    return rows


def _read_probes(out: Path, inputs: Mapping[str, Any]) -> list[Probe]:
    """Return the probes that a folder holds of these inputs; none of others."""
    if not (out / PROBES_FILE).is_file():
        return []
    values: Any = read_json(out / PROBES_FILE)
    is_same = isinstance(values, dict) and all(values.get(key) == value for key, value in inputs.items())
    return [Probe.from_json(row) for row in values["probes"]] if is_same else []


def _probe(
    dataset: str | Path, rep: HyperRepresentation, recipe: HyperRecipe, test_on: str | None, progress: Progress
) -> list[Probe]:
    """Probe a hyper-representation; see `probe`."""
    zoo = group_by_split(drop_untrained(load_zoo(dataset, recipe.data.config)))
    if test_on is not None:
        source, config = parse_source(test_on)
        other = load_zoo(source, config, split="test")
        rep.check_architecture(other.architecture, test_on)
        zoo["test"] = drop_untrained(other)
    return probe_properties(rep, zoo, seed=recipe.evaluation.seed, progress=progress)


def _resolve_recipe(recipe: str | HyperRecipe) -> HyperRecipe:
    return read_hyper_recipe(recipe) if isinstance(recipe, str) else recipe
