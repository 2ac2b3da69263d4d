"""Export of embeddings and samples as Parquet, safetensors, JSON and cards, readable without this package."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from modelzoo_datasets._util import file_sha256
from modelzoo_datasets.engines import Engine, one_thread
from modelzoo_datasets.errors import FolderInUseError, FormatError, ModelZooError
from modelzoo_datasets.hub import get_commit, parse_repo_id
from modelzoo_datasets.images import load_images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights import Layout
from modelzoo_datasets.zoo import (
    atomic_folder,
    hash_weights,
    write_bytes,
    write_json,
    write_table,
    write_tensors,
)

from ..data import check_architecture, drop_diverged, locate_representation, read_dataset_info, read_origin
from ..evaluation import (
    CachedEvaluator,
    CachedSamplingContext,
    Population,
    draw_weights,
    evaluate_population,
    measure_novelty,
)
from ..model import HyperRepresentation
from ..recipe import EvaluationRecipe
from ..sampler_names import SAMPLER_INFO, check_sampler
from ..training_info import TrainingInfo
from .lineage import write_model_card, write_table_card
from .sample_info import Lineage, NearestState, SampleInfo, SampleMetrics


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
        FolderInUseError: `out` exists.
        FormatError: the dataset holds models of another architecture.
    """
    if out.exists():
        raise FolderInUseError(f"{out} already exists; pass a different --out")
    zoo = load_zoo(dataset, config)
    check_architecture(rep, zoo, dataset)
    write_table(out, zoo.table.assign(z=list(rep.encode(zoo.weights).numpy())))
    return len(zoo)


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """Number of samples, sampler and its options."""

    n: int
    sampler: str = "kde"
    top_fraction: float = 1.0  # share of the training states, best validation accuracy first
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


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Inputs to measure samples: the dataset of the zoo, an engine, and the images."""

    dataset: str | Path
    engine: Engine
    images_root: Path


@one_thread()
def export_samples(
    representation: str | Path,
    out: Path,
    request: SampleRequest,
    measurement: Measurement | None = None,
    *,
    progress: Progress = NO_PROGRESS,
) -> None:
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

    Raises:
        FolderInUseError: `out` is not empty.
        FormatError: the hyper-representation did not learn from this dataset.
        ModelZooError: an unknown sampler, numbers out of range, or a sampler that needs the dataset.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderInUseError(f"output folder {out} is not empty; pass a different --out")
    check_sampler(request.sampler, with_weights=measurement is not None)
    if request.epochs and measurement is None:
        raise ModelZooError("fine-tuning needs images; name the dataset that the representation learned from")
    folder = locate_representation(representation)
    rep = HyperRepresentation.from_pretrained(folder)
    zoo = None if measurement is None else _load_training_states(rep, folder, measurement.dataset)
    lineage = _trace_lineage(representation, folder, request, measurement)
    context = CachedSamplingContext(
        rep=rep,
        zoo=zoo,
        top_fraction=request.top_fraction,
        bandwidth=request.bandwidth,
        sigma=request.sigma,
        share=request.share,
        hyperrep_sha256=lineage.hyperrep_sha256,
    )
    generator = keyed_generator(request.seed, "samples", request.sampler)
    weights = draw_weights(request.sampler, request.n, context, generator)
    _write_samples(out, weights, rep, _describe_samples(weights, context, lineage, request, measurement, progress))


def _load_training_states(rep: HyperRepresentation, folder: Path, dataset: str | Path) -> Zoo:
    """Return the training states of a hyper-representation; raise FormatError for another dataset."""
    info = TrainingInfo.read(folder)
    data = info.recipe.data
    config = read_dataset_info(dataset).configs.get(data.config)
    if config is None or config.states_sha256 != info.states_sha256:
        raise FormatError(
            f"{folder} did not learn from {dataset}; name the dataset whose config {data.config!r} it learned from"
        )
    first, last = data.epochs
    zoo = drop_diverged(load_zoo(dataset, data.config, split="train", epochs=range(first, last + 1)))
    check_architecture(rep, zoo, dataset)
    return zoo


def _trace_lineage(
    representation: str | Path, folder: Path, request: SampleRequest, measurement: Measurement | None
) -> Lineage:
    info, hyperrep_repo = TrainingInfo.read(folder), parse_repo_id(representation)
    config = info.recipe.data.config
    origin = info.origin if measurement is None else read_origin(measurement.dataset, config)
    return Lineage(
        sampler=request.sampler,
        description=SAMPLER_INFO[request.sampler].description,
        top_fraction=request.top_fraction,
        bandwidth=request.bandwidth,
        sigma=request.sigma,
        share=request.share,
        seed=request.seed,
        zoo_repo=origin.dataset if origin else None,
        zoo_config=config,
        zoo_revision=origin.revision if origin else None,
        states_sha256=info.states_sha256,
        hyperrep_repo=hyperrep_repo,
        hyperrep_revision=None if hyperrep_repo is None else get_commit(hyperrep_repo, repo_type="model"),
        hyperrep_sha256=file_sha256(folder / "model.safetensors"),
    )


def _describe_samples(
    weights: Tensor,
    context: CachedSamplingContext,
    lineage: Lineage,
    request: SampleRequest,
    measurement: Measurement | None,
    progress: Progress,
) -> list[SampleInfo]:
    """Return the record of every sample."""
    rep = context.rep
    metrics: Sequence[SampleMetrics | None] = [None] * request.n
    if measurement is None:
        distance, index = measure_novelty(rep, weights, rep.decode(rep.embeddings))
        nearest = [
            NearestState(distance=d, index=i, model_id=None, epoch=None, measured_on_weights=False)
            for d, i in zip(distance.tolist(), index.tolist(), strict=True)
        ]
    else:
        nearest, metrics = _measure_samples(weights, context, request, measurement, progress)
    return [
        SampleInfo(
            architecture=rep.architecture.name,
            activation=rep.activation,
            dropout=rep.dropout,
            number=number,
            lineage=lineage,
            nearest=nearest[number],
            metrics=metrics[number],
        )
        for number in range(request.n)
    ]


def _measure_samples(
    weights: Tensor,
    context: CachedSamplingContext,
    request: SampleRequest,
    measurement: Measurement,
    progress: Progress,
) -> tuple[list[NearestState], list[SampleMetrics]]:
    """Return the nearest training state and the metrics of every sample."""
    zoo = context.states
    evaluator = CachedEvaluator(
        key=context.key,
        rep=context.rep,
        train=zoo,
        aligned=context.train_weights,
        engine=measurement.engine,
        images=load_images(zoo.images, measurement.images_root),
        training=zoo.hyperparameters(0),
        recipe=EvaluationRecipe(finetune_epochs=(max(1, request.epochs),), seed=request.seed),
    )
    count = request.n if request.epochs else 0
    population = Population(name=request.sampler, description="", weights=weights, num_finetuned=count)
    result = evaluate_population(population, evaluator, progress=progress)
    nearest = [
        NearestState(distance=distance, index=None, model_id=model, epoch=epoch, measured_on_weights=True)
        for distance, (model, epoch) in zip(result.distance, result.nearest, strict=True)
    ]
    metrics = [
        SampleMetrics(
            images=zoo.images,
            zero_shot=result.zero_shot[number],
            error_overlap=result.error_overlap[number],
            tuned_epochs=request.epochs if count else None,
            tuned=result.curves[number][-1] if count else None,
        )
        for number in range(request.n)
    ]
    return nearest, metrics


def _write_samples(out: Path, weights: Tensor, rep: HyperRepresentation, samples: Sequence[SampleInfo]) -> None:
    """Write all files; the folder appears whole."""
    layout = Layout.from_module(rep.architecture.module(rep.activation, rep.dropout))
    with atomic_folder(out) as partial:
        for vector, info in zip(weights, samples, strict=True):
            write_tensors(partial / info.name / "model.safetensors", layout.unpack(vector))
            write_json(partial / info.name / "config.json", info.to_json())
            write_bytes(partial / info.name / "README.md", write_model_card(info).encode())
        table = _make_table(weights, rep.encode(weights), samples)
        write_table(partial / "samples.parquet", table)
        write_json(partial / "samples.json", samples[0].to_table_json(layout))
        write_bytes(partial / "README.md", write_table_card(samples[0], table).encode())


def _make_table(weights: Tensor, z: Tensor, samples: Sequence[SampleInfo]) -> pa.Table:
    """Return a row per sample: origin, novelty, metrics, embedding and weights."""
    metrics, nearest = [info.metrics for info in samples], [info.nearest for info in samples]
    columns: dict[str, Any] = {
        "sample": pa.array([info.name for info in samples]),
        "sampler": pa.array([info.lineage.sampler for info in samples]),
        "seed": pa.array([info.lineage.seed for info in samples], pa.int64()),
        "distance": pa.array([state.distance for state in nearest], pa.float64()),
        "nearest_model_id": pa.array([state.model_id for state in nearest], pa.string()),
        "nearest_epoch": pa.array([state.epoch for state in nearest], pa.int32()),
        "error_similarity": pa.array([m and m.error_overlap for m in metrics], pa.float64()),
        "test_acc": pa.array([m and m.zero_shot for m in metrics], pa.float64()),
        "tuned_epochs": pa.array([m and m.tuned_epochs for m in metrics], pa.int32()),
        "tuned_test_acc": pa.array([m and m.tuned for m in metrics], pa.float64()),
        "lineage": pa.array([json.dumps(info.lineage.to_json(), sort_keys=True) for info in samples]),
        "sha256": pa.array([hash_weights(row) for row in weights]),
        "z": _make_lists(z),
        "weights": _make_lists(weights),
    }
    return pa.table(columns)


def _make_lists(rows: Tensor) -> pa.FixedSizeListArray:
    """Return float32 rows (n, K) as fixed-size lists whose numbers cannot be null."""
    flat = pa.array(np.ascontiguousarray(rows.numpy()).reshape(-1), pa.float32())
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), rows.shape[1])
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
