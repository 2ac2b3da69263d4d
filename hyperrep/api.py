"""The steps of the commands: dataset -> hyper-representation folder -> evaluation folder, each resumable."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from modelzoo_datasets.engines import Engine, get_engine, one_thread
from modelzoo_datasets.extras import require_extra
from modelzoo_datasets.loading import load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.zoo import OutputLock

from .data import (
    check_trained_on,
    describe_training,
    load_recipe_states,
    locate_representation,
    read_dataset_info,
    read_stored_recipe,
)
from .evaluation import EvaluationResult, run_protocol
from .model import HyperRepresentation
from .recipe import HyperRecipe
from .recipe_choice import choose_recipe
from .recipe_toml import resolve_recipe
from .release import not_evaluated, representation_card
from .storage import TrainingInfo, finish_folder, is_finished, start_folder
from .trainer import Precision, check_trainable, create_representation, open_metrics_log, train_epochs
from .training_inputs import prepare_training
from .zoo_values import describe_stand_ins

_CPU = torch.device("cpu")
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
    recipe, out = choose_recipe(dataset).recipe if recipe is None else resolve_recipe(recipe), Path(out)
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
    gradients = inputs.recipe.learning.count_image_gradients(len(inputs.states))
    info = dataclasses.replace(
        info,
        notes=inputs.notes,
        stand_ins=describe_stand_ins(states["train"]),
        image_gradients=gradients if recipe.learning.needs_images else None,
    )
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
    recipe, out = read_stored_recipe(representation) if recipe is None else resolve_recipe(recipe), Path(out)
    runner = get_engine(engine)
    root = None if images_root is None else Path(images_root)
    folder = locate_representation(representation)
    rep = HyperRepresentation.from_pretrained(folder)
    info = check_trained_on(folder, recipe, dataset)
    from .report import write_report  # here, because training needs no figures

    with OutputLock(out):
        result = run_protocol(rep, dataset, recipe, out, info, engine=runner, images_root=root, progress=progress)
        title, zoo = f"Hyper-representation {recipe.name}", load_zoo(dataset, recipe.data.config)
        write_report(out / "report.html", title, {recipe.data.config: zoo}, result, {"recipe": recipe.name})
    return result
