"""Format `model-zoos`: the published Model Zoos (2209.14764) and their sparsified twins, as Ray Tune wrote them."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ..architectures import Architecture
from ..progress import Progress
from ..recipes import ExternalTraining, Training
from .archives import Source
from .base import Identity, Overrides
from .naming import augmentation_of, identify
from .ray_tune import known, known_number, number_of
from .trial_zoo import Dialect, TrialZoo

_METRICS = {name: name for name in ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")}
_TWIN = "_ARD"  # what the type of a twin's network ends in
_SCHEDULES = {"OneCycleLR": "onecycle"}
_OPTIMIZERS = {"rms_prop": "rmsprop"}


def open_model_zoos(source: Source, claims: Overrides, progress: Progress) -> TrialZoo:
    """The zoo in a source; see `TrialZoo` for errors."""
    return TrialZoo(source, claims, _DIALECT, progress)


def _kind(params: Mapping[str, Any]) -> str:
    """`model::o_dim` is not asked: it is wrong in several of the published zoos, and their code does not use it."""
    kind = str(params.get("model::type", "?")).removesuffix(_TWIN)
    return f"{kind} of {params.get('model::channels_in', '?')} channels"


def _training(params: Mapping[str, Any], last_epoch: int, images: str) -> Training:
    epochs = number_of(params.get("training::epochs_train")) or 0
    optimizer, schedule = str(known(params, "optim::optimizer")), params.get("optim::scheduler")
    momentum = number_of(params.get("optim::momentum"))
    return ExternalTraining(
        epochs=max(int(epochs), last_epoch),
        batch_size=int(known_number(params, "training::batchsize")),
        activation=str(known(params, "model::nlin")),
        init=str(known(params, "model::init_type")),
        optimizer=_OPTIMIZERS.get(optimizer, optimizer),
        lr=known_number(params, "optim::lr"),
        weight_decay=number_of(params.get("optim::wd")) or 0.0,
        dropout=number_of(params.get("model::dropout")) or 0.0,
        momentum=0.9 if momentum is None else momentum,
        schedule=_SCHEDULES.get(str(schedule), str(schedule).lower()) if schedule else "constant",
        augmentation=augmentation_of(images),
    )


def _parent(params: Mapping[str, Any]) -> str | None:
    """The only link from a twin to its parent: the path that the parent's folder had where the twin was trained."""
    path = params.get("training::init_checkpoint_path")
    return PurePosixPath(str(path)).name if path else None


def _identify(folder: str, architecture: Architecture, claims: Overrides, twins: bool) -> Identity:
    return identify(folder, architecture, claims, twins=twins)


_DIALECT = Dialect(
    format="model-zoos",
    epoch_key="training_iteration",
    offset=0,
    metrics={**_METRICS, "sparsity": "sparsity_ratio"},
    percent=False,
    kind=_kind,
    training=_training,
    parent=_parent,
    identify=_identify,
)
