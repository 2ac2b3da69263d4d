"""Embeddings and samples as files that need no code of ours: Parquet, safetensors, JSON."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.layout import Layout
from modelzoo_datasets.loading import load_zoo
from modelzoo_datasets.seeds import generator
from modelzoo_datasets.states import partial_beside, read_json, write_json, write_table, write_tensors

from .autoencoder import HyperRepresentation
from .evaluation import novelty
from .storage import load_representation

SAMPLES_FORMAT = "modelzoo-samples-1"


def export_embeddings(dataset: Path, config: str | None, rep: HyperRepresentation, out: Path) -> int:
    """Write one row per state: the dataset's columns without weights, and `z`; returns how many rows."""
    if out.exists():
        raise FolderInUseError(f"{out} exists; choose another --out")
    zoo = load_zoo(dataset, config)
    if zoo.architecture != rep.architecture:
        raise FormatError(
            f"this hyper-representation is of {rep.architecture.name}, {dataset} holds models of "
            f"{zoo.architecture.name}"
        )
    write_table(out, zoo.table.assign(z=list(rep.embed(zoo.weights).numpy())))
    return len(zoo)


def export_samples(representation: Path, out: Path, *, n: int, sampler: str, quality: float, seed: int) -> None:
    """Write n sampled models, `<sampler>-0000/{model.safetensors,config.json}` each, and `samples.parquet`.

    Raises:
        FolderInUseError: `out` is not empty.
        ModelZooError: an unknown sampler, or numbers out of range.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderInUseError(f"{out} is not empty; choose another --out")
    rep = load_representation(representation)
    weights = rep.sample(n, sampler=sampler, quality=quality, generator=generator(seed, "samples", sampler))
    # Distances are to the decoded training states: a hyper-representation does not carry its training weights.
    distance = novelty(rep, weights, rep.decode(rep.embeddings))
    learned_from = read_json(representation / "training.json")["states_sha256"]
    partial = partial_beside(out)
    shutil.rmtree(partial, ignore_errors=True)
    layout = Layout.of(rep.architecture.module(rep.activation, rep.dropout))
    for number, vector in enumerate(weights):
        folder = partial / f"{sampler}-{number:04d}"
        write_tensors(folder / "model.safetensors", layout.unpack(vector))
        config = {
            "format": SAMPLES_FORMAT,
            "architecture": rep.architecture.name,
            "activation": rep.activation,
            "dropout": rep.dropout,
            "sampler": sampler,
            "quality": quality,
            "seed": seed,
            "number": number,
            "states_sha256": learned_from,
        }
        write_json(folder / "config.json", config)
    z = rep.embed(weights).numpy()
    table = pd.DataFrame(
        {
            "sample": [f"{sampler}-{number:04d}" for number in range(n)],
            "sampler": sampler,
            "seed": seed,
            "distance": distance.numpy().astype(np.float64),
            "z": list(z),
        }
    )
    write_table(partial / "samples.parquet", table)
    if out.is_dir():
        out.rmdir()
    partial.replace(out)
