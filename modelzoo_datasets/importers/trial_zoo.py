"""Zoos of trial folders: the two formats of this kind differ in words and units alone.

P numbers of a state.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..architectures import Architecture, get_architecture
from ..errors import FormatError, RecipeError
from ..progress import Progress
from ..recipes import Training
from .archives import Source
from .base import Identity, ImportedModel, ImportedState, Overrides
from .checkpoint_templates import CheckpointReader
from .checkpoints import describe_tensors, find_architectures, max_checkpoint_size, pack_state, read_checkpoint
from .ray_tune import Row, Trial, read_metrics, read_trials
from .skip_report import Skipped, SkipReport
from .variational_checkpoints import TwinReader, is_twin

_MAX_TRIES = 100  # checkpoints that are tried until one is readable


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Words and units of a format."""

    format: str
    epoch_key: str  # in a result
    offset: int  # epochs trained before checkpoint 0 and result 0
    metrics: Mapping[str, str]  # metric -> its key in a result
    percent: bool  # accuracies are in percent
    kind: Callable[[Mapping[str, Any]], str]  # describes the network; the same for all models of a zoo
    training: Callable[[Mapping[str, Any], int, str], Training]  # parameters, last epoch, images -> hyper-parameters
    parent: Callable[[Mapping[str, Any]], str | None]  # name of the trial of the parent
    identify: Callable[[str, Architecture, Overrides, bool], Identity]  # folder, architecture, overrides, is it twins


class TrialZoo:
    """A zoo of trial folders; see `ModelSource`."""

    def __init__(self, source: Source, overrides: Overrides, dialect: Dialect, progress: Progress) -> None:
        """Describe all trials and read one checkpoint.

        Raises:
            FormatError: There are no trials, or trials of several zoos or networks, or no readable checkpoint, or the
                architecture is not registered.
            RecipeError: The architecture or the images of `overrides` do not exist.
        """
        self.source, self.skipped, self._from, self._dialect = source.name, SkipReport(), source, dialect
        result = read_trials(source, overrides.inside, dialect.epoch_key, self.skipped, progress)
        _check_one_kind(source.name, result.trials, dialect)
        self.architecture, self._twins = self._detect_architecture(result.trials, overrides.architecture)
        folder = result.root.rpartition("/")[2] or source.name
        self.identity = dialect.identify(folder, self.architecture, overrides, self._twins is not None)
        self._trials: list[Trial] = []
        self._reader = CheckpointReader()
        self.models: list[ImportedModel] = []
        for trial in result.trials:
            try:
                self.models.append(self._make_model(trial))
                self._trials.append(trial)
            except (Skipped, RecipeError) as reason:
                self.skipped.add(f"model whose parameters say: {reason}", trial.path)
        if not self.models:
            why = "; ".join(self.skipped.lines())
            raise FormatError(f"no model of {source.name} can be imported; is its format {dialect.format}? {why}")

    def _detect_architecture(self, trials: Sequence[Trial], name: str | None) -> tuple[Architecture, TwinReader | None]:
        """Return the architecture of the first readable checkpoint, and a reader of twins if it is of a twin."""
        paths = [path for trial in trials for path in trial.checkpoints.values()][:_MAX_TRIES]
        reason: Skipped | None = None
        for path in paths:
            try:
                state = read_checkpoint(self._from.read(path))
            except Skipped as error:
                reason = error
                continue
            architecture = self._match_architecture(state, name)
            return architecture, TwinReader(architecture) if is_twin(state) else None
        raise FormatError(f"no checkpoint of {self.source} can be read: each of the first {len(paths)} {reason}")

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
            training=dialect.training(trial.params, epochs[-1], self.identity.images),
            metrics={
                number + offset: read_metrics(row, dialect.metrics, percent=dialect.percent)
                for number, row in trial.rows.items()
            },
            epochs=epochs,
            parent=dialect.parent(trial.params),
        )

    def read_states(self, models: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        """See `ModelSource`."""
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


def _read_seed(params: Row) -> int:
    seed = params.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise Skipped("there is no seed")
    return seed


def _check_one_kind(source: str, trials: Sequence[Trial], dialect: Dialect) -> None:
    kinds: dict[str, str] = {}
    for trial in trials:
        kinds.setdefault(dialect.kind(trial.params), trial.path)
    if len(kinds) > 1:
        result = ", ".join(f"{kind} ({path})" for kind, path in kinds.items())
        raise FormatError(f"a zoo has one architecture, but {source} has {result}; import each by itself")
