"""Zoos of trial folders, of two formats that differ in words and units alone.

`model-zoos`: the published Model Zoos (2209.14764) and their sparsified twins, as Ray Tune wrote them.

`weightclip`: the zoos of WeightCLIP (2607.03551), one archive per image dataset, trial folders without Ray. Numbers
count epochs from 0: checkpoint_000030 is the state after 31 epochs, and there is no untrained state. Accuracies are in
percent. Losses are means over batches, the last of which may be smaller.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor

from ..architectures import Architecture, architecture_names, get_architecture
from ..engines import METRICS
from ..errors import FormatError, RecipeError
from ..images import image_dataset_names
from ..progress import Progress
from ..recipes import ExternalTraining, Training
from .archives import Source
from .base import Identity, ImportedModel, ImportedState, ModelSource, Overrides, Skipped, SkipReport
from .checkpoint_templates import CheckpointReader
from .checkpoints import (
    TwinReader,
    describe_tensors,
    find_architectures,
    is_twin,
    max_checkpoint_size,
    pack_state,
    read_checkpoint,
)
from .identity import check_images, get_augmentation, identify, parse_zoo_name
from .ray_tune import ResultKeys, Trial, parse_number, read_metrics, read_trials, require_number, require_value

_MAX_TRIES = 100  # checkpoints that are tried until one is readable
_METRICS = {name: name for name in METRICS} | {"sparsity": "sparsity_ratio"}  # metric -> its key in a result
_TWIN_ENDING = "_ARD"  # ends the network type of sparsified twins
_SCHEDULES = {"OneCycleLR": "onecycle"}
_OPTIMIZERS = {"rms_prop": "rmsprop"}
_WEIGHTCLIP_FOLDER = re.compile(r"tune_zoo_(?P<images>[A-Za-z0-9_.-]+)_(?P<network>[A-Za-z0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Words and units of a format."""

    format: str
    epoch_key: str  # in a result
    offset: int  # epochs trained before checkpoint 0 and result 0
    percent: bool  # accuracies are in percent
    read_training: Callable[[Mapping[str, Any], int, str], Training]  # parameters, last epoch, images
    identify: Callable[[str, Architecture, Overrides, bool], Identity]  # folder, architecture, overrides, is it twins


class TrialZoo(ModelSource):
    """A zoo of trial folders; see `ModelSource`."""

    def __init__(self, source: Source, overrides: Overrides, progress: Progress, dialect: Dialect) -> None:
        """Describe all trials and read one checkpoint.

        Raises:
            FormatError: There are no trials, or trials of several zoos or networks, or no readable checkpoint, or the
                architecture is not registered.
            RecipeError: The architecture or the images of `overrides` do not exist.
        """
        self.source, self.skipped, self._from, self._dialect = source.name, SkipReport(), source, dialect
        keys = ResultKeys(dialect.epoch_key, tuple(_METRICS.values()))
        root, trials = read_trials(source, overrides.inside, keys, self.skipped, progress)
        if not trials:
            raise FormatError(f"no model of {source.name} can be imported: {'; '.join(self.skipped.lines())}")
        _check_one_network(source.name, trials)
        self.architecture, self._twins = self._detect_architecture(trials, overrides.architecture)
        folder = root.rpartition("/")[2] or source.name
        self.identity = dialect.identify(folder, self.architecture, overrides, self._twins is not None)
        self._reader = CheckpointReader(max_checkpoint_size(self.architecture.layout))
        models, self._trials = list[ImportedModel](), list[Trial]()
        for trial in trials:
            try:
                models.append(self._make_model(trial))
                self._trials.append(trial)
            except (Skipped, RecipeError) as reason:
                self.skipped.add(f"model whose parameters say: {reason}", trial.path)
        self.models = models
        if not models:
            why = "; ".join(self.skipped.lines())
            raise FormatError(f"no model of {source.name} can be imported; is its format {dialect.format}? {why}")

    def _detect_architecture(self, trials: Sequence[Trial], name: str | None) -> tuple[Architecture, TwinReader | None]:
        """Return the architecture of the first readable checkpoint, and a reader of twins if it is of a twin."""
        paths = [path for trial in trials for path in trial.checkpoints.values()][:_MAX_TRIES]
        max_size = _max_size(name)
        last_error: Skipped | None = None
        for path in paths:
            try:
                if self._from.sizes[path] > max_size:
                    raise Skipped("is larger than any of a registered architecture; register its own with --plugin")
                state = read_checkpoint(self._from.read(path), max_size)
            except Skipped as error:
                last_error = error
                continue
            architecture = self._match_architecture(state, name)
            return architecture, TwinReader(architecture) if is_twin(state) else None
        raise FormatError(f"no checkpoint of {self.source} can be read: each of the first {len(paths)} {last_error}")

    def _match_architecture(self, state: Mapping[str, Tensor], name: str | None) -> Architecture:
        result = find_architectures(state)
        if name is not None:
            architecture = get_architecture(name)
            if architecture not in result:
                raise FormatError(f"the states of {self.source} are not of {name}: they hold {describe_tensors(state)}")
            return architecture
        if not result:
            raise FormatError(
                f"no architecture is known whose states hold {describe_tensors(state)}; register it with --plugin"
            )
        return result[0]

    def _make_model(self, trial: Trial) -> ImportedModel:
        offset, dialect = self._dialect.offset, self._dialect
        epochs = tuple(number + offset for number in trial.checkpoints)
        return ImportedModel(
            origin=trial.name,
            seed=_read_seed(trial.params),
            training=dialect.read_training(trial.params, epochs[-1], self.identity.images),
            metrics={
                number + offset: read_metrics(row, _METRICS, percent=dialect.percent)
                for number, row in trial.rows.items()
            },
            epochs=epochs,
            parent=_read_parent(trial.params),
        )

    def read_states(self, models: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        max_size = max_checkpoint_size(self.architecture.layout)
        for index in models:
            states = []
            for number, path in self._trials[index].checkpoints.items():
                if self._from.sizes[path] > max_size:
                    self.skipped.add("checkpoint that is larger than any of such a network", path)
                    continue
                try:
                    states.append(self._read_state(number + self._dialect.offset, path))
                except Skipped as reason:
                    self.skipped.add(f"checkpoint that {reason}", path)
            yield index, states

    def _read_state(self, epoch: int, path: str) -> ImportedState:
        state = self._reader.read(self._from.read(path))
        if self._twins is not None:
            return ImportedState(epoch, *self._twins.read(state))
        return ImportedState(epoch, pack_state(state, self.architecture.layout))


def _max_size(name: str | None) -> int:
    """Return the size in bytes of the largest checkpoint of an architecture, of all of them without a name."""
    names = architecture_names() if name is None else [name]
    return max(max_checkpoint_size(get_architecture(each).layout) for each in names)


def _read_seed(params: Mapping[str, Any]) -> int:
    seed = params.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise Skipped("there is no seed")
    return seed


def _read_parent(params: Mapping[str, Any]) -> str | None:
    """Return the name of the parent: the last part of the path that its folder had when the twin was trained."""
    path = params.get("training::init_checkpoint_path")
    return PurePosixPath(str(path)).name if path else None


def _check_one_network(source: str, trials: Sequence[Trial]) -> None:
    networks: dict[str, str] = {}
    for trial in trials:
        networks.setdefault(_describe_network(trial.params), trial.path)
    if len(networks) > 1:
        result = ", ".join(f"{network} ({path})" for network, path in networks.items())
        raise FormatError(f"a zoo has one architecture, but {source} has {result}; import each by itself")


def _describe_network(params: Mapping[str, Any]) -> str:
    """Describe the network; `model::o_dim` is ignored, because it is wrong in several published zoos and unused."""
    kind = str(params.get("model::type", "?")).removesuffix(_TWIN_ENDING)
    return f"{kind} of {params.get('model::channels_in', '?')} channels"


def _read_ray_training(params: Mapping[str, Any], last_epoch: int, images: str) -> Training:
    optimizer, schedule = str(require_value(params, "optim::optimizer")), params.get("optim::scheduler")
    momentum = parse_number(params.get("optim::momentum"))
    return ExternalTraining(
        epochs=max(int(parse_number(params.get("training::epochs_train")) or 0), last_epoch),
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


def _read_weightclip_training(params: Mapping[str, Any], last_epoch: int, images: str) -> Training:
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


def _identify_weightclip(folder: str, architecture: Architecture, overrides: Overrides, twins: bool) -> Identity:
    """Identify a zoo by the name of its folder; accuracies on unknown images cannot be measured again."""
    match = _WEIGHTCLIP_FOLDER.fullmatch(folder)
    if match is None and (overrides.images is None or overrides.name is None):
        raise FormatError(f"{folder} is not named tune_zoo_<images>_<network>; say what it is with --images and --name")
    dataset = match["images"].replace("_", "-").lower() if match else ""
    images = overrides.images or f"weightclip-{dataset}"
    if images in image_dataset_names() or overrides.images is not None:
        check_images(images, architecture)
    recipe, config = parse_zoo_name(overrides.name or f"{images}-{architecture.family}/seed")
    return Identity(recipe=recipe, config=config, images=images, incomparable_metrics=("val_loss", "test_loss"))


MODEL_ZOOS = Dialect(
    format="model-zoos",
    epoch_key="training_iteration",
    offset=0,
    percent=False,
    read_training=_read_ray_training,
    identify=identify,
)
WEIGHTCLIP = Dialect(
    format="weightclip",
    epoch_key="epoch",
    offset=1,
    percent=True,
    read_training=_read_weightclip_training,
    identify=_identify_weightclip,
)
