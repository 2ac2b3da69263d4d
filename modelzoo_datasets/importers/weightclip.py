"""Format `weightclip`: the zoos of WeightCLIP (2607.03551): one archive per image dataset, trial folders without Ray.

Their numbers are of epochs that were trained, from 0: checkpoint_000030 is the state after 31 epochs, and there is no
untrained one. Accuracies are in percent; losses are means over batches, of which the last may be smaller.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..architectures import Architecture
from ..errors import FormatError
from ..images import image_dataset_names
from ..progress import Progress
from ..recipes import ExternalTraining, Training
from .archives import Source
from .base import Identity, Overrides
from .naming import check_images, named
from .ray_tune import known_number, number_of
from .trial_zoo import Dialect, TrialZoo

_METRICS = {name: name for name in ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")}
_FOLDER = re.compile(r"tune_zoo_(?P<images>[A-Za-z0-9_.-]+)_(?P<network>[A-Za-z0-9]+)")
_MEASURED_OTHERWISE = ("val_loss", "test_loss")


def open_weightclip(source: Source, claims: Overrides, progress: Progress) -> TrialZoo:
    """The zoo in a source; see `TrialZoo` for errors."""
    return TrialZoo(source, claims, _DIALECT, progress)


def _kind(params: Mapping[str, Any]) -> str:
    return f"{params.get('model::type', '?')} of {params.get('model::channels_in', '?')} channels"


def _training(params: Mapping[str, Any], last_epoch: int, images: str) -> Training:
    """Adam with a cosine schedule and a warm-up, as all of them were trained."""
    return ExternalTraining(
        epochs=max(int(number_of(params.get("num_epochs")) or 0), last_epoch),
        batch_size=int(known_number(params, "batch_size")),
        activation=str(params.get("model::nlin")),
        init=str(params.get("model::init_type")),
        optimizer="adam",
        lr=known_number(params, "lr"),
        weight_decay=number_of(params.get("weight_decay")) or 0.0,
        dropout=number_of(params.get("model::dropout")) or 0.0,
        schedule="cosine",
    )


def _no_parent(params: Mapping[str, Any]) -> None:
    return None


def _identify(folder: str, architecture: Architecture, claims: Overrides, twins: bool) -> Identity:
    """By the name of the folder; its images need not be known here: then accuracies cannot be measured again."""
    found = _FOLDER.fullmatch(folder)
    if found is None and (claims.images is None or claims.name is None):
        raise FormatError(f"{folder} is not named tune_zoo_<images>_<network>; say what it is with --images and --name")
    theirs = found["images"].replace("_", "-").lower() if found else ""
    images = claims.images or f"weightclip-{theirs}"
    if images in image_dataset_names() or claims.images is not None:
        check_images(images, architecture)
    name = claims.name or f"{images}-{architecture.family}/seed"
    return named(name, images, _MEASURED_OTHERWISE)


_DIALECT = Dialect(
    format="weightclip",
    epoch_key="epoch",
    offset=1,
    metrics=_METRICS,
    percent=True,
    kind=_kind,
    training=_training,
    parent=_no_parent,
    identify=_identify,
)
