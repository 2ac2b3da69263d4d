"""The steps of the commands: dataset -> hyper-representation folder -> evaluation folder, each resumable."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modelzoo_datasets._util import file_sha256
from modelzoo_datasets.engines import Engine, get_engine, one_thread
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.extras import require_extra
from modelzoo_datasets.images import load_images
from modelzoo_datasets.loading import load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.zoo import OutputLock, read_json, write_json

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
from .model import WEIGHTS_FILE, HyperRepresentation
from .probes import MAX_WEIGHT, AnswerOptions, AnswerSource, Probe, probe_properties
from .recipe import HyperRecipe
from .recipe_choice import choose_recipe
from .recipe_toml import read_hyper_recipe
from .release import not_evaluated, representation_card
from .storage import TrainingInfo, check_unused, finish_folder, is_finished, start_folder, write_csv
from .trainer import Precision, check_trainable, create_representation, open_metrics_log, train_epochs
from .training_inputs import prepare_training
from .zoo_values import describe_stand_ins

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
    recipe, out = read_stored_recipe(representation) if recipe is None else _resolve_recipe(recipe), Path(out)
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


@one_thread()
def probe(
    dataset: str | Path,
    representation: str | Path | None = None,
    recipe: str | HyperRecipe | None = None,
    *,
    config: str | None = None,
    test_on: str | None = None,
    out: str | Path | None = None,
    max_weight: float | None = MAX_WEIGHT,
    answers: AnswerSource = "noise",
    engine: str | Engine = "auto",
    images_root: str | Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[Probe]:
    """Predict properties of test models from W, s(W), z and answers, beside baselines.

    Args:
        dataset: dataset folder or repo, or DATASET/CONFIG; the one that the hyper-representation was trained on.
        representation: folder of the hyper-representation that computes z, or its model repo on the Hub; without one
            there is no z.
        recipe: recipe that it was trained by, or its name or file; by default the one that the folder stores.
        config: config of the dataset; by default that of the recipe, or the only one.
        test_on: another dataset, or DATASET/CONFIG, whose test models are predicted instead.
        out: folder for `probes.json` and `probes.csv`.
        max_weight: states with a weight beyond it are left out; None keeps all.
        answers: images that networks answer: "noise", smooth noise that needs no data, or "training", the first
            training images without their labels. With the images of the zoo the ceilings are measured.
        engine: runs networks; an engine or its name.
        images_root: folder of the images; the user's cache by default.
        progress: display of the properties.

    Returns:
        One row per property and representation.

    Raises:
        MissingExtraError: the extra `learn` is not installed.
        FormatError: a folder is not what it must be, holds another architecture, or has too few models.
        MissingImagesError: training images are asked for and are not there.
        FolderInUseError: `out` already contains other files.

    Example:
        >>> from hyperrep import probe
        >>> rows = probe(dataset, config="seed")
        >>> {row.representation for row in rows} >= {"W", "s(W)", "answers", "answers, boosted"}
        True
    """
    require_extra("probes", "learn")
    source, named = parse_source(str(dataset))
    out = None if out is None else Path(out)
    if out is not None and not (out / PROBES_FILE).is_file():
        check_unused(out)
    request = _ProbeRequest(source, config or named, max_weight=max_weight, answers=answers, test_on=test_on)
    rep = None
    if representation is not None:
        folder = locate_representation(representation)
        rep = HyperRepresentation.from_pretrained(folder)
        recipe = read_stored_recipe(representation) if recipe is None else _resolve_recipe(recipe)
        check_trained_on(folder, recipe, source)
        request = request.with_representation(recipe, file_sha256(folder / WEIGHTS_FILE))
    runner, root = get_engine(engine), None if images_root is None else Path(images_root)
    if out is None:
        return _probe(request, rep, runner, root, progress)
    inputs = dataclasses.asdict(request)
    with OutputLock(out):
        if rows := _read_probes(out, inputs):
            _log.info("%s is finished already; nothing was probed", out)
            return rows
        check_unused(out)
        rows = _probe(request, rep, runner, root, progress)
        write_csv(out / "probes.csv", Probe, rows)
        write_json(out / PROBES_FILE, {**inputs, "probes": [row.to_json() for row in rows]})
    return rows


@dataclass(frozen=True)
class _ProbeRequest:
    """The inputs that decide the result of `probe`, as probes.json notes them."""

    dataset: str
    config: str | None
    max_weight: float | None
    answers: AnswerSource
    test_on: str | None
    hyperrep_sha256: str | None = None
    seed: int = 0

    def with_representation(self, recipe: HyperRecipe, sha256: str) -> "_ProbeRequest":
        """Add the hyper-representation, whose config counts."""
        if self.config not in (None, recipe.data.config):
            raise FormatError(
                f"the hyper-representation was trained on config {recipe.data.config!r}, got {self.config!r}; "
                "name no config, or probe it without the hyper-representation"
            )
        config, seed = recipe.data.config, recipe.evaluation.seed
        return dataclasses.replace(self, config=config, hyperrep_sha256=sha256, seed=seed)


def _read_probes(out: Path, inputs: Mapping[str, Any]) -> list[Probe]:
    """Return the probes that a folder holds of these inputs; none of others."""
    if not (out / PROBES_FILE).is_file():
        return []
    values: Any = read_json(out / PROBES_FILE)
    is_same = isinstance(values, dict) and all(values.get(key, "") == value for key, value in inputs.items())
    return [Probe.from_json(row) for row in values["probes"]] if is_same else []


def _probe(
    request: _ProbeRequest,
    rep: HyperRepresentation | None,
    engine: Engine,
    images_root: Path | None,
    progress: Progress,
) -> list[Probe]:
    """Probe the states of a dataset; see `probe`."""
    whole = drop_untrained(load_zoo(request.dataset, request.config))
    zoo = group_by_split(whole)
    images = load_images(whole.images, images_root) if request.answers == "training" else None
    options = AnswerOptions(source=request.answers, engine=engine, images=images)
    if request.test_on is not None:
        source, config = parse_source(request.test_on)
        other = load_zoo(source, config, split="test")
        if rep is not None:
            rep.check_architecture(other.architecture, request.test_on)
        elif other.layout != whole.layout:
            raise FormatError(
                f"{request.dataset} holds models of {whole.architecture.name}, {request.test_on} models of "
                f"{other.architecture.name}; name a zoo of the same architecture"
            )
        zoo["test"] = drop_untrained(other)
    return probe_properties(
        rep, zoo, seed=request.seed, max_weight=request.max_weight, answers=options, progress=progress
    )


def _resolve_recipe(recipe: str | HyperRecipe) -> HyperRecipe:
    return read_hyper_recipe(recipe) if isinstance(recipe, str) else recipe
