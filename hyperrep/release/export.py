"""Export of embeddings and samples as Parquet, safetensors, JSON and cards, readable without this package."""

import dataclasses
import filecmp
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from modelzoo_datasets._util import file_sha256
from modelzoo_datasets.engines import Engine, one_thread
from modelzoo_datasets.errors import FolderInUseError, FormatError, ModelZooError
from modelzoo_datasets.hub import get_commit, parse_repo_id
from modelzoo_datasets.loading import load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.zoo import (
    OutputLock,
    atomic_folder,
    own_partial_path,
    read_table,
    write_bytes,
    write_json,
    write_table,
    write_tensors,
)

from ..data import check_trained_on, load_recipe_states, locate_representation, read_origin
from ..evaluation import (
    Evaluator,
    Population,
    SamplingContext,
    TrainingStates,
    draw_weights,
    evaluate_population,
    measure_novelty,
    select_epoch,
)
from ..model import CONFIG_FILE, WEIGHTS_FILE, HyperRepresentation
from ..recipe import EvaluationRecipe
from ..sampler_names import DEFAULT_SAMPLER, DEFAULT_TOP_FRACTION, SAMPLER_INFO, check_sampler
from ..storage import CARD_FILE, TrainingInfo, check_unused
from .cards import sample_card, samples_card, write_sample_code
from .sampled_model import Lineage, NearestState, SampleInfo, SampleMetrics, make_table

TABLE_FILE = "samples.parquet"
_log = logging.getLogger(__name__)
_Measures = tuple[NearestState, SampleMetrics | None]  # what is known of one sample; None: not measured


def export_embeddings(dataset: str | Path, config: str | None, rep: HyperRepresentation, out: Path) -> int:
    """Write a row per state to a Parquet file: the columns of the dataset without weights, and `z`.

    Args:
        dataset: a folder, or a repo of the Hub.
        config: config of the dataset; None where it has only one.
        rep: the hyper-representation.
        out: the Parquet file.

    Returns:
        Number of rows.

    Raises:
        FolderInUseError: `out` exists and holds anything else, or another process is writing it.
        FormatError: the dataset holds models of another architecture.
    """
    with OutputLock(out):
        zoo = load_zoo(dataset, config)
        rep.check_architecture(zoo.architecture, dataset)
        table = zoo.table.assign(z=list(rep.encode(zoo.weights).numpy()))
        if out.exists():
            if not _holds_table(out, table):
                raise FolderInUseError(f"{out} already exists; pass a different --out")
            _log.info("%s is finished already", out)
        else:
            write_table(out, table)
    return len(zoo)


def _holds_table(path: Path, table: pd.DataFrame) -> bool:
    """Tell whether a file is what `write_table` makes of a table."""
    partial = own_partial_path(path)
    try:
        write_table(partial, table)
        return path.is_file() and filecmp.cmp(path, partial, shallow=False)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """Number of samples, sampler and its options."""

    n: int
    sampler: str = DEFAULT_SAMPLER
    top_fraction: float = DEFAULT_TOP_FRACTION  # share of the training states, best validation accuracy first
    bandwidth: float = 0.002
    sigma: float = 0.2  # option of the sampler `noise`
    share: float = 0.4  # option of the sampler `move`
    seed: int = 0
    epochs: int = 0  # epochs of fine-tuning, for a measurement: the exported weights are those before it

    def __post_init__(self) -> None:
        for name in ("bandwidth", "sigma", "share"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ModelZooError(f"{name} must be a finite number >= 0; got {getattr(self, name)}")
        if self.epochs < 0:
            raise ModelZooError(f"epochs of fine-tuning must be >= 0; got {self.epochs}")

    @property
    def options(self) -> dict[str, Any]:
        """Options of the samplers by name."""
        return {name: getattr(self, name) for name in ("top_fraction", "bandwidth", "sigma", "share")}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Inputs to measure samples: the dataset of the zoo, an engine, and the images."""

    dataset: str | Path
    engine: Engine
    images_root: Path | None = None  # by default the cache folder of the user


@one_thread()
def export_samples(
    representation: str | Path,
    out: Path,
    request: SampleRequest,
    measurement: Measurement | None = None,
    *,
    progress: Progress = NO_PROGRESS,
) -> bool:
    """Write sampled models, `<sampler>-0000/{model.safetensors,config.json,README.md}` each, and their table.

    Each folder is ready to be pushed as a model repo; `samples.parquet`, `samples.json` and `README.md` are a dataset.
    With the dataset that the hyper-representation learned from, samples are tested on its images and compared with its
    states. Without it they are compared with decoded states, because a hyper-representation carries no weights.

    Args:
        representation: a folder, or a model repo of the Hub.
        out: a folder that does not exist or is empty.
        request: number of samples, sampler and options.
        measurement: the dataset, an engine and the images; None to measure nothing.
        progress: reports models that are fine-tuned.

    Returns:
        True if the samples were written, False if the folder held these samples already.

    Raises:
        FolderInUseError: `out` is not empty, or another process is writing it.
        FormatError: the hyper-representation did not learn from this dataset.
        ModelZooError: an unknown sampler, numbers out of range, or a sampler that needs the dataset.
    """
    if not (out / TABLE_FILE).is_file():
        check_unused(out)
    check_sampler(request.sampler, with_weights=measurement is not None)
    if request.epochs and measurement is None:
        raise ModelZooError("fine-tuning needs images; name the dataset that the representation learned from")
    with OutputLock(out):
        return _export_samples(representation, out, request, measurement, progress)


def _export_samples(
    representation: str | Path,
    out: Path,
    request: SampleRequest,
    measurement: Measurement | None,
    progress: Progress,
) -> bool:
    """Write sampled models, unless the folder holds them; see `export_samples`."""
    folder = locate_representation(representation)
    rep = HyperRepresentation.from_pretrained(folder)
    if rep.accuracy.isnan().all():
        request = dataclasses.replace(request, top_fraction=1.0)  # no state is known to be better than another
    lineage = _trace_lineage(representation, folder, request, measurement)
    if _holds_samples(out, request, lineage, measured=measurement is not None):
        return False
    check_unused(out)
    training = None
    if measurement is not None:
        recipe = TrainingInfo.read(folder).recipe
        check_trained_on(folder, recipe, measurement.dataset)
        states = load_recipe_states(measurement.dataset, recipe, "train")
        training = TrainingStates.from_representation(rep, states)
    context = SamplingContext(rep=rep, training=training, **request.options)
    generator = keyed_generator(request.seed, "samples", request.sampler)
    weights = draw_weights(request.sampler, request.n, context, generator)
    if measurement is None:
        measures = _compare_with_decoded_states(weights, rep)
    else:
        measures = _measure_samples(weights, context, request, measurement, progress)
    shared: dict[str, Any] = {"activation": rep.activation, "dropout": rep.dropout, "lineage": lineage}
    samples = [
        SampleInfo(architecture=rep.architecture.name, number=number, nearest=nearest, metrics=metrics, **shared)
        for number, (nearest, metrics) in enumerate(measures)
    ]
    _write_samples(out, weights, rep, samples)
    return True


def _holds_samples(out: Path, request: SampleRequest, lineage: Lineage, *, measured: bool) -> bool:
    """Tell whether a folder holds the samples of this very request."""
    try:
        table = read_table(out / TABLE_FILE)
        stored = {text: json.loads(text) for text in table["lineage"].unique()}
    except (FormatError, OSError, ValueError, LookupError, TypeError):
        return False
    tuned = table["tuned_epochs"].fillna(0).astype(int).unique().tolist()
    is_measured = bool(table["test_acc"].notna().all())
    same = list(stored.values()) == [lineage.to_json()] and len(table) == request.n
    return same and tuned == [request.epochs] and is_measured == measured


def _trace_lineage(
    representation: str | Path, folder: Path, request: SampleRequest, measurement: Measurement | None
) -> Lineage:
    info, hyperrep_repo = TrainingInfo.read(folder), parse_repo_id(representation)
    config = info.recipe.data.config
    origin = info.origin if measurement is None else read_origin(measurement.dataset, config)
    return Lineage(
        sampler=request.sampler,
        description=SAMPLER_INFO[request.sampler].description,
        **request.options,
        seed=request.seed,
        zoo_repo=origin.dataset if origin else None,
        zoo_config=config,
        zoo_revision=origin.revision if origin else None,
        license=origin.license if origin else None,
        states_sha256=info.states_sha256,
        hyperrep_repo=hyperrep_repo,
        hyperrep_revision=None if hyperrep_repo is None else get_commit(hyperrep_repo, repo_type="model"),
        hyperrep_sha256=file_sha256(folder / WEIGHTS_FILE),
    )


def _compare_with_decoded_states(weights: Tensor, rep: HyperRepresentation) -> list[_Measures]:
    """Return the nearest decoded training state of every sample; nothing else is known without the dataset."""
    distance, index = measure_novelty(rep.alignment, weights, rep.decode(rep.embeddings))
    return [
        (NearestState(distance=d, index=i, model_id=None, epoch=None, measured_on_weights=False), None)
        for d, i in zip(distance.tolist(), index.tolist(), strict=True)
    ]


def _measure_samples(
    weights: Tensor,
    context: SamplingContext,
    request: SampleRequest,
    measurement: Measurement,
    progress: Progress,
) -> list[_Measures]:
    """Return the nearest training state and the metrics of every sample."""
    protocol = EvaluationRecipe(finetune_epochs=(max(1, request.epochs),), seed=request.seed)
    evaluator = Evaluator.from_states(context.states, protocol, measurement.engine, measurement.images_root)
    count = request.n if request.epochs else 0
    population = Population(name=request.sampler, description="", weights=weights, num_finetuned=count)
    result = evaluate_population(population, evaluator, progress=progress)
    tuned: list[dict[str, float]] = [{}] * request.n
    if count:
        tuned = [{str(request.epochs): value} for value in select_epoch(result.curves, request.epochs)]
    return [
        (
            NearestState(distance=distance, index=None, model_id=model, epoch=epoch, measured_on_weights=True),
            SampleMetrics(
                images=evaluator.images.name, zero_shot=accuracy, error_overlap=overlap, tuned=tuned_accuracy
            ),
        )
        for distance, (model, epoch), accuracy, overlap, tuned_accuracy in zip(
            result.distance, result.nearest, result.zero_shot, result.error_overlap, tuned, strict=True
        )
    ]


def _write_samples(out: Path, weights: Tensor, rep: HyperRepresentation, samples: Sequence[SampleInfo]) -> None:
    """Write all files; the folder appears whole."""
    layout, code = rep.architecture.layout_with(rep.dropout), write_sample_code(rep)
    with atomic_folder(out) as partial:
        for vector, info in zip(weights, samples, strict=True):
            write_tensors(partial / info.name / WEIGHTS_FILE, layout.unpack(vector))
            write_json(partial / info.name / CONFIG_FILE, info.to_json())
            write_bytes(partial / info.name / CARD_FILE, sample_card(info, code).encode())
        table = make_table(weights, rep.encode(weights), samples)
        write_table(partial / TABLE_FILE, table)
        write_json(partial / "samples.json", samples[0].to_table_json(layout))
        write_bytes(partial / CARD_FILE, samples_card(samples[0], table, code).encode())
