"""Inputs of a training: states with the accuracies that rank them, and the networks that functional losses run.

What a zoo does not record is measured where the images are there. Where they are not, the training goes on without.
Notes say so; the command prints them, and training.json and the card keep them.
"""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from modelzoo_datasets.engines import Engine, NetworkSpec, make_batched_network
from modelzoo_datasets.errors import MissingImagesError, RecipeError
from modelzoo_datasets.images import Images, load_images
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress

from .recipe import HyperRecipe
from .trainer import Predictor
from .zoo_values import Ranking, find_network, read_first, read_numbers

_BATCH_SIZE = 256  # models that are measured together
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """States, recipe and networks that a hyper-representation is trained with."""

    states: Zoo  # training states; their `val_acc` may have been measured
    recipe: HyperRecipe  # without functional losses where networks cannot be run
    predictor: Predictor | None  # for functional losses
    notes: tuple[str, ...]  # a line for everything that was not recorded or is not there


def prepare_training(
    states: Zoo,
    recipe: HyperRecipe,
    engine: Engine,
    images_root: Path | None,
    *,
    images_sha256: str = "",
    progress: Progress = NO_PROGRESS,
) -> TrainingInputs:
    """Prepare a training on states that may lack accuracies, images or modules.

    Args:
        states: training states.
        recipe: the recipe.
        engine: runs the networks.
        images_root: folder of the images; the user's cache by default.
        images_sha256: fingerprint of the images that the zoo was trained on; empty if it is unknown.
        progress: display of the states that are measured.
    """
    unranked = read_numbers(states.table, "val_acc").isnan()
    if not recipe.learning.needs_images and not unranked.any():
        return TrainingInputs(states=states, recipe=recipe, predictor=None, notes=())
    notes: list[str | None] = []
    try:
        network = find_network(states)
        images = load_images(states.images, images_root)
    except (MissingImagesError, RecipeError) as error:
        if recipe.learning.needs_images:
            notes.append(f"trained without functional losses, because networks cannot be run: {error}")
            recipe = _drop_functional_losses(recipe)
        predictor = None
    else:
        predictor = _make_predictor(states, recipe, engine, network, images)
        if unranked.any() and images_sha256 in ("", images.fingerprint):
            notes.append(
                f"validation accuracy is not recorded for {int(unranked.sum())} of {len(states)} training states: "
                f"measured on {len(images.labels('validation')):,} validation images of {images.name}"
            )
            states = _measure_accuracy(states, unranked, engine, network, images, progress)
    notes.append(Ranking.from_table(states.table).describe())
    if recipe.data.signs and read_first(states.table, "activation") is None:
        notes.append("signs were not aligned, because no activation is recorded")
    for note in filter(None, notes):
        _log.warning("%s", note)
    return TrainingInputs(states=states, recipe=recipe, predictor=predictor, notes=tuple(filter(None, notes)))


def _drop_functional_losses(recipe: HyperRecipe) -> HyperRecipe:
    learning = dataclasses.replace(recipe.learning, functional_weight=0.0, mixed_functional_weight=0.0)
    return dataclasses.replace(recipe, learning=learning)


def _make_predictor(
    zoo: Zoo, recipe: HyperRecipe, engine: Engine, network: NetworkSpec, images: Images
) -> Predictor | None:
    """Return the networks of a zoo as functions of their weights, with their training images, if a loss needs them."""
    if not recipe.learning.needs_images:
        return None
    return Predictor(make_batched_network(engine, zoo.architecture.name, network), images.inputs("train"))


def _measure_accuracy(
    zoo: Zoo, missing: torch.Tensor, engine: Engine, network: NetworkSpec, images: Images, progress: Progress
) -> Zoo:
    """Return the zoo with the validation accuracy of the states that have none."""
    accuracy = read_numbers(zoo.table, "val_acc")
    with progress.start("measuring validation accuracy", int(missing.sum())) as task:
        for rows in missing.nonzero().squeeze(1).split(_BATCH_SIZE):
            networks = [network] * len(rows)
            metrics = engine.evaluate(zoo.architecture.name, images, zoo.weights[rows], networks, "validation")
            accuracy[rows] = metrics.accuracy.double().cpu()
            task.update(len(rows))
    return dataclasses.replace(zoo, table=zoo.table.assign(val_acc=accuracy.numpy()))
