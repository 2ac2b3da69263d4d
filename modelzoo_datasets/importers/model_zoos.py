"""Format `model-zoos`: the published Model Zoos (2209.14764) and their sparsified twins, as Ray Tune wrote them."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ..architectures import Architecture
from ..progress import Progress
from ..recipes import ExternalTraining, Training
from .archives import Source
from .base import Identity, Overrides
from .identity import get_augmentation, identify
from .ray_tune import parse_number, require_number, require_value
from .trial_zoo import Dialect, TrialZoo

_METRICS = {name: name for name in ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")}
_TWIN = "_ARD"  # ending of the network type of sparsified twins
_SCHEDULES = {"OneCycleLR": "onecycle"}
_OPTIMIZERS = {"rms_prop": "rmsprop"}


def open_model_zoos(source: Source, overrides: Overrides, progress: Progress) -> TrialZoo:
    """Open the zoo in a source; see `TrialZoo` for errors."""
    return TrialZoo(source, overrides, _DIALECT, progress)


def _describe_network(params: Mapping[str, Any]) -> str:
    """Describe the network; `model::o_dim` is ignored, because it is wrong in several published zoos and unused."""
    kind = str(params.get("model::type", "?")).removesuffix(_TWIN)
    return f"{kind} of {params.get('model::channels_in', '?')} channels"


def _read_training(params: Mapping[str, Any], last_epoch: int, images: str) -> Training:
    epochs = parse_number(params.get("training::epochs_train")) or 0
    optimizer, schedule = str(require_value(params, "optim::optimizer")), params.get("optim::scheduler")
    momentum = parse_number(params.get("optim::momentum"))
    return ExternalTraining(
        epochs=max(int(epochs), last_epoch),
        batch_size=int(require_number(params, "training::batchsize")),
        activation=str(require_value(params, "model::nlin")),
        init=str(require_value(params, "model::init_type")),
        optimizer=_OPTIMIZERS.get(optimizer, optimizer),
        lr=require_number(params, "optim::lr"),
        weight_decay=parse_number(params.get("optim::wd")) or 0.0,
        dropout=parse_number(params.get("model::dropout")) or 0.0,
        momentum=0.9 if momentum is None else momentum,
        schedule=_SCHEDULES.get(str(schedule), str(schedule).lower()) if schedule else "constant",
        augmentation=get_augmentation(images),
    )


def _read_parent(params: Mapping[str, Any]) -> str | None:
    """Return the name of the parent: the last part of the path that its folder had when the twin was trained."""
    path = params.get("training::init_checkpoint_path")
    return PurePosixPath(str(path)).name if path else None


def _identify(folder: str, architecture: Architecture, overrides: Overrides, twins: bool) -> Identity:
    return identify(folder, architecture, overrides, twins=twins)


_DIALECT = Dialect(
    format="model-zoos",
    epoch_key="training_iteration",
    offset=0,
    metrics={**_METRICS, "sparsity": "sparsity_ratio"},
    percent=False,
    kind=_describe_network,
    training=_read_training,
    parent=_read_parent,
    identify=_identify,
)
