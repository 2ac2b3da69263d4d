"""WeightCLIP's archives as published, with models of four classes of the embedded images."""

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import torch
from helpers.originals import NO_PICKLE
from torch.nn.functional import interpolate

from modelzoo_datasets.images.image_data import Split
from modelzoo_datasets.images.image_formats import read_fashion_mnist_5k
from modelzoo_datasets.zoo import ZooFolder, read_tensors

IMAGES, CLASSES = "four-garments", 4
FOLDER = "tune_zoo_four-garments_cnn3"
RECIPE = """\
images = "four-garments"
architecture = "cnn-m"

[configs.seed]
epochs = 3
batch_size = 128
seeds = "1-2"
activation = "gelu"
init = "kaiming_uniform"
optimizer = "adam"
lr = 1e-2
weight_decay = 3e-3
"""
FROM = 1  # first epoch with a checkpoint, from 0: the state after two epochs


def read_garments(root: Path) -> Mapping[str, Split]:
    """A few images of four classes, in colour and of the published size."""
    found = {}
    for name, split in read_fashion_mnist_5k(root).items():
        chosen = (split.labels < CLASSES).nonzero()[:, 0][: 400 if name == "train" else 200]
        pixels = interpolate(split.pixels[chosen].float(), size=32).to(torch.uint8).expand(-1, 3, -1, -1)
        found[name] = Split(pixels.contiguous(), split.labels[chosen])
    return found


def write_archive(trained: Path, path: Path) -> Path:
    """One .tar.gz as published: percent, epochs from 0, no untrained state, o_dim, optimizer and scheduler beside."""
    zoo, folder = ZooFolder.open(trained), path.parent / FOLDER
    for model in zoo.models.to_dict("records"):
        trial = folder / f"NN_tune_trainable_seed={model['seed']}"
        trial.mkdir(parents=True)
        params = {
            **{"seed": model["seed"], "num_epochs": 3, "batch_size": 128, "lr": model["lr"]},
            **{"weight_decay": model["weight_decay"], "warmup_epochs": 3, "grad_clip": 1.0, "best_test_acc": 90.0},
            **{"model::type": "CNN3", "model::channels_in": 3, "model::o_dim": CLASSES, "model::nlin": "gelu"},
            **{"model::dropout": 0.0, "model::init_type": "normal"},
        }
        (trial / "params.json").write_text(json.dumps(params, indent=2))
        rows = []
        for row in zoo.states[zoo.states["model_id"] == model["model_id"]].to_dict("records"):
            if row["epoch"] == 0:
                continue
            number = row["epoch"] - 1
            accuracies = {name: 100.0 * row[name] for name in ("train_acc", "val_acc", "test_acc")}
            losses = {name: row[name] + 0.01 for name in ("train_loss", "val_loss", "test_loss")}  # means over batches
            rows.append({"epoch": number, **accuracies, **losses, "learning_rate": 1e-3, "time_per_epoch": 0.5})
            if number >= FROM:
                checkpoint = trial / f"checkpoint_{number:06d}"
                checkpoint.mkdir()
                state = read_tensors(trained / "states" / model["model_id"] / f"epoch-{row['epoch']:03d}.safetensors")
                torch.save(state, checkpoint / "checkpoints")
                for name in ("optimizer", "scheduler"):
                    (checkpoint / name).write_bytes(NO_PICKLE)
        (trial / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dataset.pt").write_bytes(NO_PICKLE)
    (folder / "lr_sweep").mkdir()
    (folder / "lr_sweep" / "summary.json").write_text("{}")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, FOLDER)
    return path
