"""Hyper-representations small enough to be learned in a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperrep import HyperRepresentation
from hyperrep.probes.linear import compute_r2, predict_ridge
from hyperrep.recipe import DataRecipe, EvaluationRecipe, HyperRecipe, LearningRecipe, ModelRecipe
from hyperrep.trainer.checkpoints import EpochMetrics
from hyperrep.trainer.initialize import create_representation
from hyperrep.trainer.loop import train_epochs
from modelzoo_datasets.loading import Zoo

_TOML = """\
[data]
config = "seed"
epochs = [1, 2]
[model]
width = 16
blocks = 1
heads = 2
feedforward = 32
bottleneck = "tokens"
latent = 0.4
[learning]
epochs = {epochs}
batch_size = {batch_size}
lr = 1e-3
weight_decay = 1e-2
"""


def write_toml(epochs: int = 3, batch_size: int = 8) -> str:
    """The text of a tiny recipe; its last table is [learning]."""
    return _TOML.format(epochs=epochs, batch_size=batch_size)


TINY_TOML = write_toml()


def recipe(*, data: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **learning: Any) -> HyperRecipe:
    """A tiny recipe; what is given replaces its values."""
    how: dict[str, Any] = {"epochs": 3, "batch_size": 7, "lr": 3e-3, "weight_decay": 1e-2}
    size: dict[str, Any] = {"width": 16, "blocks": 1, "heads": 2, "feedforward": 32, "projection": 8}
    size |= {"bottleneck": "tokens", "latent": 0.2}
    return HyperRecipe(
        name="tiny",
        data=DataRecipe(**{"config": "seed", "epochs": (1, 2)} | (data or {})),
        model=ModelRecipe(**size | (model or {})),
        learning=LearningRecipe(**how | learning),
        evaluation=EvaluationRecipe(),
    )


def learned(
    chosen: HyperRecipe, states: Zoo, unseen: Zoo, folder: Path
) -> tuple[HyperRepresentation, list[EpochMetrics]]:
    """A hyper-representation trained to the end, and its metrics."""
    rep = create_representation(chosen, states)
    return rep, list(train_epochs(rep, states.weights, unseen.weights, chosen, folder))


def ridge_r2(features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> float:
    """R² of the ridge probe on the test split."""
    return compute_r2(predict_ridge(features, targets), targets["test"].double())
