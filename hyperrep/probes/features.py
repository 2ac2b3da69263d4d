"""Features that properties are predicted from: weights and what is computed from them, and what needs no weights.

N states, F features.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from modelzoo_datasets.analysis import NUM_PROBE_IMAGES, compute_answers, make_noise_images
from modelzoo_datasets.engines import Engine, get_engine
from modelzoo_datasets.errors import ArgumentError, RecipeError
from modelzoo_datasets.images import Images, Split
from modelzoo_datasets.loading import Zoo

from ..data import find_image_spec
from ..model import HyperRepresentation, compute_layer_statistics
from ..zoo_values import read_column, read_networks, read_numbers

CATEGORIES = ("activation", "init", "optimizer")
HYPERPARAMETERS = "hyper-parameters"
HYPERPARAMETERS_EPOCH = "hyper-parameters, epoch"  # what is known of a model without a look at it
_HYPERPARAMETERS = ("batch_size", "lr", "weight_decay", "dropout", "momentum", *CATEGORIES)
Splits = Mapping[str, Tensor]  # train, test and, if there is one, validation
AnswerSource = Literal["noise", "training"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """The images whose answers are features, and the engine that runs the networks."""

    source: AnswerSource = "noise"  # smooth noise, or training images without their labels
    engine: str | Engine = "auto"
    images: Images | None = None  # those of the zoo, if they are there; their test images are for the ceilings


def make_features(zoo: Mapping[str, Zoo], rep: HyperRepresentation | None, options: AnswerOptions) -> dict[str, Splits]:
    """Return all features of the states: W, s(W), z and answers.

    Args:
        zoo: split -> states of one architecture.
        rep: the hyper-representation that computes z; without one there is none.
        options: of the answers, which are left out, with a line, where the networks cannot be run.
    """
    layout = zoo["train"].layout
    features: dict[str, Splits] = {
        "W": {split: part.weights for split, part in zoo.items()},
        "s(W)": {split: compute_layer_statistics(part.weights, layout) for split, part in zoo.items()},
    }
    if rep is not None:
        features["z"] = {split: rep.encode(part.weights) for split, part in zoo.items()}
    try:
        networks = {split: read_networks(part) for split, part in zoo.items()}
    except RecipeError as error:
        _log.warning("answers of the networks are left out, because they cannot be run: %s", error)
        return features
    images, name = find_probe_images(zoo["train"], options), zoo["train"].architecture.name
    features["answers"] = {
        split: compute_answers(part.weights, name, networks[split], images, engine=options.engine)
        for split, part in zoo.items()
    }
    return features


def find_probe_images(zoo: Zoo, options: AnswerOptions) -> Images:
    """Return the images that networks answer: smooth noise, or the first training images, without their labels.

    Args:
        zoo: states that give the size of the images and their normalization.
        options: which images.

    Raises:
        ArgumentError: training images are asked for without the images.
    """
    if options.source == "noise":
        spec, architecture = find_image_spec(zoo), zoo.architecture
        return make_noise_images(architecture.input_shape, architecture.classes, mean=spec.mean, std=spec.std)
    if (images := options.images) is None:
        raise ArgumentError("answers to training images need the images; pass AnswerOptions(images=load_images(name))")
    pixels = images.splits["train"].pixels[:NUM_PROBE_IMAGES]
    unlabeled = Split(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    return Images(images.name, images.classes, images.mean, images.std, {"train": unlabeled})


def measure_hits(zoo: Zoo, options: AnswerOptions) -> Tensor | None:
    """Return which test images each state gets right, (N, B) bool; None if the images are not there.

    Args:
        zoo: the states.
        options: images and engine.
    """
    images = options.images
    if images is None or images.name != zoo.images:
        return None
    try:
        networks = read_networks(zoo)
    except RecipeError:
        return None
    labels = images.labels("test")
    hits = torch.empty(len(zoo), len(labels), dtype=torch.bool)
    engine = get_engine(options.engine)
    for index, logits in engine.compute_logits(zoo.architecture.name, images, zoo.weights, networks, "test"):
        hits[index] = logits.argmax(dim=1) == labels
    return hits


def make_weight_free_features(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Tensor]]:
    """Return features that are known before training: hyperparameters, and with the epoch; never the target itself.

    Args:
        name: the target.
        tables: split -> table of the states, the training states first.
    """
    hyperparameters = make_hyperparameter_features(name, tables)
    if name == "epoch":
        return {HYPERPARAMETERS: hyperparameters}
    train_epochs = sorted(tables["train"]["epoch"].unique())
    epochs = {split: table["epoch"].to_numpy(float)[:, None] for split, table in tables.items()}
    epoch_features = {s: torch.from_numpy(np.hstack([e, e == np.array(train_epochs)])) for s, e in epochs.items()}
    both = {split: torch.cat([hyperparameters[split], epoch_features[split]], dim=1) for split in tables}
    return {HYPERPARAMETERS: hyperparameters, HYPERPARAMETERS_EPOCH: both}


def make_hyperparameter_features(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, Tensor]:
    """Return split -> (N, F): categories one-hot over the training states' values, positive numbers as logarithms.

    A number that is not recorded counts as the mean of the training states, and a category as none of theirs.
    """
    columns: dict[str, list[Tensor]] = {split: [] for split in tables}
    for column in _HYPERPARAMETERS:
        train = read_column(tables["train"], column).dropna()
        if column == name or train.nunique() < 2:
            continue
        values = sorted(train.unique())
        mean = 0.0
        for split, table in tables.items():  # the training states come first
            if column in CATEGORIES:
                cells = read_column(table, column)
                columns[split] += [torch.tensor((cells == v).to_numpy(float)) for v in values]
                continue
            numbers = read_numbers(table, column)
            numbers = numbers.clamp_min(1e-12).log10() if min(values) > 0 else numbers
            mean = float(numbers.nanmean()) if split == "train" else mean
            columns[split].append(torch.where(numbers.isnan(), mean, numbers))
    return {
        s: torch.stack(parts, 1) if parts else torch.zeros(len(tables[s]), 1, dtype=torch.float64)
        for s, parts in columns.items()
    }
