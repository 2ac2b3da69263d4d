"""Format `weightclip`: the zoos of WeightCLIP (2607.03551): one archive per image dataset, trial folders without Ray.

Numbers count epochs from 0: checkpoint_000030 is the state after 31 epochs, and there is no untrained state. Accuracies
are in percent. Losses are means over batches, the last of which may be smaller.
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
from .identity import check_images, make_identity
from .ray_tune import parse_number, require_number
from .trial_zoo import Dialect, TrialZoo

_METRICS = {name: name for name in ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")}
_FOLDER = re.compile(r"tune_zoo_(?P<images>[A-Za-z0-9_.-]+)_(?P<network>[A-Za-z0-9]+)")
_INCOMPARABLE_METRICS = ("val_loss", "test_loss")


def open_weightclip(source: Source, overrides: Overrides, progress: Progress) -> TrialZoo:
    """Open the zoo in a source; see `TrialZoo` for errors."""
    return TrialZoo(source, overrides, _DIALECT, progress)


def _describe_network(params: Mapping[str, Any]) -> str:
    return f"{params.get('model::type', '?')} of {params.get('model::channels_in', '?')} channels"


def _read_training(params: Mapping[str, Any], last_epoch: int, images: str) -> Training:
    """Return the hyper-parameters; all models were trained by Adam with a cosine schedule and a warm-up."""
    return ExternalTraining(
        epochs=max(int(parse_number(params.get("num_epochs")) or 0), last_epoch),
        batch_size=int(require_number(params, "batch_size")),
        activation=str(params.get("model::nlin")),
        init=str(params.get("model::init_type")),
        optimizer="adam",
        lr=require_number(params, "lr"),
        weight_decay=parse_number(params.get("weight_decay")) or 0.0,
        dropout=parse_number(params.get("model::dropout")) or 0.0,
        schedule="cosine",
    )


def _read_parent(params: Mapping[str, Any]) -> None:
    return None


def _identify(folder: str, architecture: Architecture, overrides: Overrides, twins: bool) -> Identity:
    """Identify a zoo by the name of its folder; accuracies on unknown images cannot be measured again."""
    match = _FOLDER.fullmatch(folder)
    if match is None and (overrides.images is None or overrides.name is None):
        raise FormatError(f"{folder} is not named tune_zoo_<images>_<network>; say what it is with --images and --name")
    dataset = match["images"].replace("_", "-").lower() if match else ""
    images = overrides.images or f"weightclip-{dataset}"
    if images in image_dataset_names() or overrides.images is not None:
        check_images(images, architecture)
    name = overrides.name or f"{images}-{architecture.family}/seed"
    return make_identity(name, images, _INCOMPARABLE_METRICS)


_DIALECT = Dialect(
    format="weightclip",
    epoch_key="epoch",
    offset=1,
    metrics=_METRICS,
    percent=True,
    kind=_describe_network,
    training=_read_training,
    parent=_read_parent,
    identify=_identify,
)
