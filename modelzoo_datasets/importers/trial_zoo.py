"""Zoos of trial folders as a collection: the two formats that have them differ in words and units alone.

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
from .checkpoints import architectures_of, described, largest_checkpoint, packed, read_checkpoint
from .ray_tune import Row, Trial, metrics_of, read_trials
from .skip_report import Skipped, SkipReport
from .variational_checkpoints import TwinReader, is_twin

_TRIED = 100  # checkpoints, until one can be read


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a format calls things."""

    format: str
    epoch_key: str  # in a result
    offset: int  # epochs that were trained before the checkpoint and the result of number 0
    metrics: Mapping[str, str]  # our name -> theirs
    percent: bool  # accuracies
    kind: Callable[[Mapping[str, Any]], str]  # of network, by its parameters: the same for all models of a zoo
    training: Callable[[Mapping[str, Any], int, str], Training]  # of parameters, last epoch and images
    parent: Callable[[Mapping[str, Any]], str | None]  # name of the parent's trial
    identify: Callable[[str, Architecture, Overrides, bool], Identity]  # of the folder's name; whether twins


class TrialZoo:
    """See `Collection`."""

    def __init__(self, source: Source, claims: Overrides, dialect: Dialect, progress: Progress) -> None:
        """Look through all trials, and into one checkpoint.

        Raises:
            FormatError: there are no trials, or of several zoos or kinds of networks, or none can be read, or of an
                architecture that is not registered.
            RecipeError: what was claimed does not exist.
        """
        self.source, self.refusals, self._from, self._dialect = source.name, SkipReport(), source, dialect
        found = read_trials(source, claims.inside, dialect.epoch_key, self.refusals, progress)
        _refuse_mixture(source.name, found.trials, dialect)
        self.architecture, self._twins = self._look_into(found.trials, claims.architecture)
        folder = found.root.rpartition("/")[2] or source.name
        self.identity = dialect.identify(folder, self.architecture, claims, self._twins is not None)
        self._trials: list[Trial] = []
        self._reader = CheckpointReader()
        self.models: list[ImportedModel] = []
        for trial in found.trials:
            try:
                self.models.append(self._original(trial))
                self._trials.append(trial)
            except (Skipped, RecipeError) as reason:
                self.refusals.add(f"model whose parameters say: {reason}", trial.path)
        if not self.models:
            why = "; ".join(self.refusals.lines())
            raise FormatError(f"no model of {source.name} can be imported; is its format {dialect.format}? {why}")

    def _look_into(self, trials: Sequence[Trial], named: str | None) -> tuple[Architecture, TwinReader | None]:
        """The architecture of the first checkpoint that can be read, and whether it is of a twin."""
        paths = [path for trial in trials for path in trial.checkpoints.values()][:_TRIED]
        reason: Skipped | None = None
        for _, contents in self._from.groups([[path] for path in paths]):
            content = next(iter(contents.values()))
            try:
                if isinstance(content, Skipped):
                    raise content
                state = read_checkpoint(content)
            except Skipped as error:
                reason = error
                continue
            architecture = self._architecture_of(state, named)
            return architecture, TwinReader(architecture) if is_twin(state) else None
        raise FormatError(f"no checkpoint of {self.source} can be read: each of the first {len(paths)} {reason}")

    def _architecture_of(self, state: Mapping[str, Tensor], named: str | None) -> Architecture:
        found = architectures_of(state)
        if named is not None:
            wanted = get_architecture(named)
            if wanted not in found:
                raise FormatError(f"the states of {self.source} are not of {named}: they hold {described(state)}")
            return wanted
        if not found:
            raise FormatError(
                f"no architecture is known whose states hold {described(state)}; register it with --plugin"
            )
        return found[0]

    def _original(self, trial: Trial) -> ImportedModel:
        offset, dialect = self._dialect.offset, self._dialect
        epochs = tuple(number + offset for number in trial.checkpoints)
        return ImportedModel(
            origin=trial.name,
            seed=_seed(trial.params),
            training=dialect.training(trial.params, epochs[-1], self.identity.images),
            metrics={
                number + offset: metrics_of(row, dialect.metrics, percent=dialect.percent)
                for number, row in trial.rows.items()
            },
            epochs=epochs,
            parent=dialect.parent(trial.params),
        )

    def states(self, chosen: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        """See `Collection`."""
        largest = largest_checkpoint(self.architecture.layout)
        wanted = []
        for index in chosen:
            paths = self._trials[index].checkpoints.values()
            wanted.append([path for path in paths if self._from.sizes[path] <= largest])
            for path in paths:
                if self._from.sizes[path] > largest:
                    self.refusals.add("checkpoint that is larger than any of such a network", path)
        for place, contents in self._from.groups(wanted):
            index = chosen[place]
            numbers = {path: number for number, path in self._trials[index].checkpoints.items()}
            states = []
            for path, content in sorted(contents.items(), key=lambda item: numbers[item[0]]):
                try:
                    states.append(self._state(numbers[path] + self._dialect.offset, content))
                except Skipped as reason:
                    self.refusals.add(f"checkpoint that {reason}", path)
            yield index, states

    def _state(self, epoch: int, content: bytes | Skipped) -> ImportedState:
        if isinstance(content, Skipped):
            raise content
        state = self._reader.read(content)
        if self._twins is not None:
            return ImportedState(epoch, *self._twins.read(state))
        return ImportedState(epoch, packed(state, self.architecture.layout))


def _seed(params: Row) -> int:
    seed = params.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise Skipped("there is no seed")
    return seed


def _refuse_mixture(source: str, trials: Sequence[Trial], dialect: Dialect) -> None:
    kinds: dict[str, str] = {}
    for trial in trials:
        kinds.setdefault(dialect.kind(trial.params), trial.path)
    if len(kinds) > 1:
        found = ", ".join(f"{kind} ({path})" for kind, path in kinds.items())
        raise FormatError(f"one zoo is of one architecture, {source} has {found}; import them apart")
