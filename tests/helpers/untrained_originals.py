"""Zoos of initial weights, written as published and imported: for faults that do not depend on what was learned."""

import json
from pathlib import Path
from typing import Any

from helpers.originals import Style, params_of, trial_name, write_checkpoint
from torch import Tensor

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.importers import Imported, import_zoo
from modelzoo_datasets.importers.base import Overrides
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.verification import verify_folder

IMAGES = "fashion-mnist-5k"
STYLE = Style()
MODEL = {
    **{"activation": "tanh", "init": "uniform", "optimizer": "adam", "lr": 3e-4, "weight_decay": 0.0, "dropout": 0.0},
    **{"batch_size": 10, "epochs": 2, "schedule": "constant"},
}


def state_of(seed: int, epoch: int, name: str = "cnn-s") -> dict[str, Tensor]:
    module = get_architecture(name).module("tanh")
    initialize_weights(module, "kaiming_uniform", keyed_generator(seed, "faults", epoch))
    return dict(module.state_dict())


def write_zoo(folder: Path, models: int = 3, **model: Any) -> Path:
    """A zoo of initial weights: faults do not depend on what was learned."""
    folder.mkdir(parents=True)
    for number in range(1, models + 1):
        trial = folder / trial_name(number, number)
        trial.mkdir()
        (trial / "params.json").write_text(
            json.dumps(params_of({**MODEL, "seed": number, **model}, STYLE, folder.name))
        )
        row = {"train_loss": 2.0, "train_acc": 0.5, "test_loss": 2.5, "test_acc": 0.4}
        rows = [json.dumps({**row, "training_iteration": epoch}) for epoch in range(3)]
        (trial / "result.json").write_text("\n".join(rows) + "\n")
        for epoch in range(3):
            write_checkpoint(trial, epoch, state_of(number, epoch), STYLE)
    return folder


def imported(source: Path, out: Path, **options: Any) -> Imported:
    claims = options.pop("claims", Overrides(images=IMAGES))
    return import_zoo(source, out, format="model-zoos", images_root=out.parent / "images", overrides=claims, **options)


def checkpoint(zoo: Path, number: int, epoch: int) -> Path:
    return zoo / trial_name(number, number) / f"checkpoint_{epoch:06d}" / "checkpoints"


def place(number: int, epoch: int) -> str:
    return f"{trial_name(number, number)}/checkpoint_{epoch:06d}/checkpoints"


def sound(folder: Path) -> bool:
    """Whether a folder is in itself what it says; its made-up metrics are not measured."""
    return all(check.has_passed for check in verify_folder(folder, images_root=folder, states=0))
