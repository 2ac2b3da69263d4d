"""Zoos written as the published ones lie on disk: Ray Tune's trial folders around models that were really trained.

<zoo>/config.json, dataset.pt, readme.md, experiment_state-*.json, and per model
<zoo>/NN_tune_trainable_<hex>_<number>_.../{params.json, params.pkl, result.json, progress.csv, checkpoint_*/...}
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo_datasets.architectures.variational import make_variational, prune_state, sparsity
from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.images import Images
from modelzoo_datasets.zoo import ZooFolder, read_tensors

_METRICS = ("train_loss", "train_acc", "test_loss", "test_acc")
NO_PICKLE = b"\x80\x04not to be opened"  # what stands where the originals have pickles that nobody may open


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one generation of the published zoos was written."""

    padded: bool = True  # checkpoint_000002 or checkpoint_2
    optimizer: bool = True
    filler: bool = True  # -999 for train metrics at epoch 0
    validation: bool = False
    model_type: str = "CNN"
    o_dim: int = 4  # wrong on purpose, as in several published configs
    every: int = 1  # epochs between checkpoints, the last always there


def trial_name(index: int, seed: int, hexadecimal: str = "97ebe") -> str:
    """As Ray Tune 1.x names trials; index from 1."""
    return f"NN_tune_trainable_{hexadecimal}_{index - 1:05d}_{index - 1}_seed={seed}_2021-07-26_17-33-32"


def params_of(model: Mapping[str, Any], style: Style, zoo: str) -> dict[str, Any]:
    """What a trial's params.json says."""
    more = {"optim::scheduler": "OneCycleLR"} if model["schedule"] == "onecycle" else {}
    return {
        "cuda": False,
        "dataset::dump": f"/home/somebody/zoos/{zoo}/dataset.pt",
        "model::channels_in": 3 if style.model_type != "CNN" else 1,
        "model::dropout": model["dropout"],
        "model::init_type": model["init"],
        "model::nlin": model["activation"],
        "model::o_dim": style.o_dim,
        "model::type": style.model_type,
        "model::use_bias": False,
        "optim::lr": model["lr"],
        "optim::momentum": 0.9,
        "optim::optimizer": model["optimizer"],
        **more,
        "optim::wd": model["weight_decay"],
        "seed": int(model["seed"]),
        "training::batchsize": int(model["batch_size"]),
        "training::checkpoint_dir": None,
        "training::epochs_train": int(model["epochs"]),
        "training::output_epoch": 1,
    }


def write_zoo(source: Path, target: Path, style: Style = Style()) -> Path:
    """Write all models of a zoo folder of ours as trials below `target`; returns it."""
    zoo = ZooFolder.open(source)
    _write_zoo_files(target)
    for model in zoo.models.to_dict("records"):
        trial = target / trial_name(model["index"], model["seed"])
        rows = zoo.states[zoo.states["model_id"] == model["model_id"]].to_dict("records")
        _write_descriptions(trial, params_of(model, style, target.name), [_row(row, style) for row in rows])
        for row in rows:
            if row["epoch"] % style.every == 0 or row["epoch"] == model["epochs"]:
                path = source / "states" / model["model_id"] / f"epoch-{row['epoch']:03d}.safetensors"
                write_checkpoint(trial, row["epoch"], read_tensors(path), style)
    return target


def _write_zoo_files(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text("{}")
    (target / "dataset.pt").write_bytes(NO_PICKLE)
    (target / "readme.md").touch()
    (target / "experiment_state-2021-07-26_17-33-32.json").write_text('{"checkpoints": []}')


def _row(row: Mapping[str, Any], style: Style) -> dict[str, Any]:
    names = (*_METRICS, *(("val_loss", "val_acc") if style.validation else ()))
    values = {name: float(row[name]) for name in names}
    if style.filler and row["epoch"] == 0:
        values |= {"train_loss": -999, "train_acc": -999}
    return {**values, "training_iteration": int(row["epoch"])}


def _write_descriptions(trial: Path, params: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    trial.mkdir()
    (trial / "params.json").write_text(json.dumps(params, indent=2, sort_keys=True))
    (trial / "params.pkl").write_bytes(NO_PICKLE)
    ray = {"time_this_iter_s": 12.5, "done": False, "trial_id": "97ebe_00000", "hostname": "node", "pid": 7}
    full = [{**row, **ray, "config": dict(params), "experiment_tag": "0_seed=1"} for row in rows]
    (trial / "result.json").write_text("".join(json.dumps(row) + "\n" for row in full))
    with (trial / "progress.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], *ray])
        table.writeheader()
        table.writerows([{**row, **ray} for row in rows])


def checkpoint_folder(trial: Path, epoch: int, style: Style) -> Path:
    """Where the state of an epoch lies."""
    return trial / (f"checkpoint_{epoch:06d}" if style.padded else f"checkpoint_{epoch}")


def write_checkpoint(trial: Path, epoch: int, state: Mapping[str, Tensor], style: Style) -> Path:
    """One state as `torch.save` writes it; returns its file."""
    folder = checkpoint_folder(trial, epoch, style)
    folder.mkdir(exist_ok=True)
    torch.save(dict(state), folder / "checkpoints")
    if style.optimizer:
        (folder / "optimizer").write_bytes(NO_PICKLE)
    (folder / ".is_checkpoint").touch()
    (folder / ".tune_metadata").write_bytes(NO_PICKLE)
    return folder / "checkpoints"


def write_twins(source: Path, parents: Path, target: Path, images: Images, engine: TorchEngine) -> Path:
    """Write twins of ours as published: unpruned, with log sigma², the first evaluated as pruned as it is."""
    zoo, originals = ZooFolder.open(source), ZooFolder.open(parents)
    names = {
        m: trial_name(i, s)
        for m, i, s in zip(*(originals.models[key] for key in ("model_id", "index", "seed")), strict=True)
    }
    _write_zoo_files(target)
    style = Style(filler=False, model_type="CNN_ARD")
    for model in zoo.models.to_dict("records"):
        name = trial_name(model["index"], model["seed"], "0abcd").replace("trainable", "trainable_from_checkpoint")
        params = params_of(model, style, target.name) | {
            "model::channels_in": 1,
            "training::init_checkpoint_path": f"zoos/MNIST/tune_zoo_uniform/{names[model['parent_id']]}",
            "training::sample_epoch": 50,
        }
        rows = zoo.states[zoo.states["model_id"] == model["model_id"]].to_dict("records")
        states = [_ard_state(zoo, row) for row in rows]
        first = {**rows[0], **_measured_pruned(zoo, model, states[0], images, engine)}
        results = [{**_row(row, style), "sparsity_ratio": row["sparsity"]} for row in (first, *rows[1:])]
        _write_descriptions(target / name, params, results)
        for row, state in zip(rows, states, strict=True):
            write_checkpoint(target / name, row["epoch"], state, style)
    return target


def _ard_state(zoo: ZooFolder, row: Mapping[str, Any]) -> dict[str, Tensor]:
    """With what the published linear layers have too, and nobody sets or uses."""
    state = zoo.read_variational(row["model_id"], row["epoch"])
    unused = {f"module_list.{i}.log_sigma2_bias": torch.full((n,), float("nan")) for i, n in ((9, 20), (11, 10))}
    return {**state, **unused}


def _measured_pruned(
    zoo: ZooFolder, model: Mapping[str, Any], state: Mapping[str, Tensor], images: Images, engine: TorchEngine
) -> dict[str, float]:
    module = make_variational(zoo.architecture.module(model["activation"]))
    module.load_state_dict(state, strict=False)
    weights = zoo.layout.pack(prune_state(module)).unsqueeze(0)
    found = {"sparsity": sparsity(module)}
    for split, prefix in (("train", "train"), ("test", "test")):
        measured = engine.evaluate("cnn-s", images, weights, [NetworkSpec(model["activation"])], split)
        found |= {f"{prefix}_loss": measured.loss.item(), f"{prefix}_acc": measured.accuracy.item()}
    return found
