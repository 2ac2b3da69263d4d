"""Embeddings and samples as files that need no code of ours: Parquet, safetensors, JSON, and cards about them."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

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

from ..data import check_architecture, load_recipe_states, locate_representation, read_dataset_info, read_origin
from ..evaluation import (
    CachedEvaluator,
    CachedSamplingContext,
    Population,
    draw,
    judge,
    measure_novelty,
)
from ..model import HyperRepresentation
from ..recipe import EvaluationRecipe
from ..sampler_names import SAMPLER_INFO, check_sampler
from ..training_info import DatasetOrigin, TrainingInfo
from .lineage import Lineage, model_card, table_card
from .sampled_model import SAMPLE_FORMAT

SAMPLES_FORMAT = "modelzoo-samples-2"


def export_embeddings(dataset: str | Path, config: str | None, rep: HyperRepresentation, out: Path) -> int:
    """Write one row per state: the dataset's columns without weights, and `z`; returns how many rows."""
    if out.exists():
        raise FolderInUseError(f"{out} exists; choose another --out")
    zoo = load_zoo(dataset, config)
    check_architecture(rep, zoo, dataset)
    write_table(out, zoo.table.assign(z=list(rep.encode(zoo.weights).numpy())))
    return len(zoo)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What is drawn, and with what it is measured."""

    n: int
    sampler: str = "kde"
    quality: float = 1.0
    bandwidth: float = 0.002
    sigma: float = 0.2  # of the sampler `noise`
    share: float = 0.4  # of the sampler `move`
    seed: int = 0
    epochs: int = 0  # of fine-tuning, to be measured alone: the samples stay as they were drawn

    def __post_init__(self) -> None:
        for name in ("bandwidth", "sigma", "share"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ModelZooError(f"{name} must be a number of 0 or more, got {getattr(self, name)}")
        if self.epochs < 0:
            raise ModelZooError(f"epochs of fine-tuning must be 0 or more, got {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Where samples are run: the zoo's dataset, and an engine with the images."""

    dataset: str | Path
    engine: Engine
    images_root: Path


@one_thread()
def export_samples(
    representation: str | Path,
    out: Path,
    asked: Draw,
    measuring: Measuring | None = None,
    *,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Write sampled models, `<sampler>-0000/{model.safetensors,config.json,README.md}` each, and their table.

    Each folder is a model repo of the Hub as it is; `samples.parquet`, `samples.json` and `README.md` are a dataset.
    With the dataset that was learned from, samples are run on its images and name the zoo's row that they are nearest
    to; without it they are compared with the decoded training states, since a hyper-representation carries no weights.

    Args:
        representation: a folder, or a model repo of the Hub.

    Raises:
        FolderInUseError: `out` is not empty.
        FormatError: the dataset is not the one that was learned from.
        ModelZooError: an unknown sampler, numbers out of range, or a sampler that needs the dataset.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderInUseError(f"{out} is not empty; choose another --out")
    check_sampler(asked.sampler, with_weights=measuring is not None)
    if asked.epochs and measuring is None:
        raise ModelZooError("fine-tuning needs images; name the dataset that the hyper-representation was learned from")
    folder = locate_representation(representation)
    rep = HyperRepresentation.from_pretrained(folder)
    zoo = None if measuring is None else _learned(rep, folder, measuring.dataset)
    lineage = _lineage(representation, folder, asked, measuring)
    source = CachedSamplingContext(
        rep=rep,
        zoo=zoo,
        quality=asked.quality,
        bandwidth=asked.bandwidth,
        sigma=asked.sigma,
        share=asked.share,
        hyperrep_sha256=lineage.hyperrep_sha256,
    )
    weights = draw(asked.sampler, asked.n, source, keyed_generator(asked.seed, "samples", asked.sampler))
    configs = _configs(weights, source, lineage, asked, measuring, progress)
    _write(out, weights, rep, configs)


def _learned(rep: HyperRepresentation, folder: Path, dataset: str | Path) -> Zoo:
    """The training states of a hyper-representation in a dataset; raises FormatError where it was not learned there."""
    info = TrainingInfo.read(folder)
    data = info.recipe.data
    config = read_dataset_info(dataset).configs.get(data.config)
    if config is None or config.states_sha256 != info.states_sha256:
        raise FormatError(
            f"{folder} was not trained on {dataset}; pass the dataset whose config {data.config!r} it was trained on"
        )
    zoo = load_recipe_states(dataset, info.recipe, "train")
    check_architecture(rep, zoo, dataset)
    return zoo


def _lineage(representation: str | Path, folder: Path, asked: Draw, measuring: Measuring | None) -> Lineage:
    info = TrainingInfo.read(folder)
    dataset = None if measuring is None else measuring.dataset
    config, hyperrep_repo = info.recipe.data.config, parse_repo_id(representation)
    origin = (info.origin or DatasetOrigin()) if dataset is None else read_origin(dataset, config)
    return Lineage(
        sampler=asked.sampler,
        promise=SAMPLER_INFO[asked.sampler].description,
        quality=asked.quality,
        bandwidth=asked.bandwidth,
        sigma=asked.sigma,
        share=asked.share,
        seed=asked.seed,
        zoo=origin.dataset,
        zoo_config=config,
        zoo_revision=origin.revision,
        states_sha256=info.states_sha256,
        hyperrep=hyperrep_repo,
        hyperrep_revision=None if hyperrep_repo is None else get_commit(hyperrep_repo, repo_type="model"),
        hyperrep_sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    )


def _configs(
    weights: Tensor,
    source: CachedSamplingContext,
    lineage: Lineage,
    asked: Draw,
    measuring: Measuring | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """config.json of every sample."""
    rep = source.rep
    if measuring is None:
        distance, index = measure_novelty(rep, weights, rep.decode(rep.embeddings))
        nearest = [
            {"distance": d, "index": i, "model_id": None, "epoch": None, "measured_on_weights": False}
            for d, i in zip(distance.tolist(), index.tolist(), strict=True)
        ]
        measured: Sequence[dict[str, Any]] = [{}] * asked.n
    else:
        nearest, measured = _measured(weights, source, asked, measuring, progress)
    return [
        {
            "format": SAMPLE_FORMAT,
            "architecture": rep.architecture.name,
            "activation": rep.activation,
            "dropout": rep.dropout,
            "number": number,
            "lineage": dataclasses.asdict(lineage),
            "nearest": nearest[number],
            "measured": measured[number],
        }
        for number in range(asked.n)
    ]


def _measured(
    weights: Tensor, source: CachedSamplingContext, asked: Draw, measuring: Measuring, progress: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Per sample what it is nearest to, and what it is worth."""
    zoo = source.states
    bench = CachedEvaluator(
        key=source.key,
        rep=source.rep,
        train=zoo,
        aligned=source.aligned,
        engine=measuring.engine,
        images=load_images(zoo.images, measuring.images_root),
        training=zoo.hyperparameters(0),
        recipe=EvaluationRecipe(finetune_epochs=(max(1, asked.epochs),), seed=asked.seed),
    )
    count = asked.n if asked.epochs else 0
    population = Population(name=asked.sampler, what="", weights=weights, fine_tuned=count)
    found = judge(population, bench, progress=progress)
    rows = zip(found["distance"], found["nearest"], strict=True)
    nearest = [
        {"distance": distance, "index": None, "model_id": model, "epoch": epoch, "measured_on_weights": True}
        for distance, (model, epoch) in rows
    ]
    measured = []
    for number in range(asked.n):
        values = {"images": zoo.images, "zero_shot": found["zero_shot"][number]}
        values["error_similarity"] = found["error_similarity"][number]
        if count:
            values["tuned"] = {str(asked.epochs): found["curves"][number][-1]}
        measured.append(values)
    return nearest, measured


def _write(out: Path, weights: Tensor, rep: HyperRepresentation, configs: list[dict[str, Any]]) -> None:
    """All files, which appear whole."""
    layout = Layout.from_module(rep.architecture.module(rep.activation, rep.dropout))
    with atomic_folder(out) as partial:
        for vector, config in zip(weights, configs, strict=True):
            name = _name(config)
            write_tensors(partial / name / "model.safetensors", layout.unpack(vector))
            write_json(partial / name / "config.json", config)
            write_bytes(partial / name / "README.md", model_card(name, config).encode())
        table = _table(weights, rep.encode(weights), configs)
        write_table(partial / "samples.parquet", table)
        shared = {key: configs[0][key] for key in ("architecture", "activation", "dropout", "lineage")}
        write_json(partial / "samples.json", {"format": SAMPLES_FORMAT, **shared, "layout": layout.to_json()})
        write_bytes(partial / "README.md", table_card(configs[0], table).encode())


def _name(config: dict[str, Any]) -> str:
    return f"{config['lineage']['sampler']}-{config['number']:04d}"


def _table(weights: Tensor, z: Tensor, configs: list[dict[str, Any]]) -> pa.Table:
    """One row per sample: what it is, how new, what it is worth, embedding and weights."""
    tuned = [config["measured"].get("tuned") for config in configs]
    columns: dict[str, Any] = {
        "sample": pa.array([_name(config) for config in configs]),
        "sampler": pa.array([config["lineage"]["sampler"] for config in configs]),
        "seed": pa.array([config["lineage"]["seed"] for config in configs], pa.int64()),
        "distance": pa.array([config["nearest"]["distance"] for config in configs], pa.float64()),
        "nearest_model_id": pa.array([config["nearest"]["model_id"] for config in configs], pa.string()),
        "nearest_epoch": pa.array([config["nearest"]["epoch"] for config in configs], pa.int32()),
        "error_similarity": pa.array([c["measured"].get("error_similarity") for c in configs], pa.float64()),
        "test_acc": pa.array([config["measured"].get("zero_shot") for config in configs], pa.float64()),
        "tuned_epochs": pa.array([int(next(iter(t))) if t else None for t in tuned], pa.int32()),
        "tuned_test_acc": pa.array([next(iter(t.values())) if t else None for t in tuned], pa.float64()),
        "lineage": pa.array([json.dumps(config["lineage"], sort_keys=True) for config in configs]),
        "sha256": pa.array([hash_weights(row) for row in weights]),
        "z": _lists(z),
        "weights": _lists(weights),
    }
    return pa.table(columns)


def _lists(rows: Tensor) -> pa.FixedSizeListArray:
    """Float32 rows as fixed-size lists of numbers that cannot be null."""
    flat = pa.array(np.ascontiguousarray(rows.numpy()).reshape(-1), pa.float32())
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), rows.shape[1])
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
