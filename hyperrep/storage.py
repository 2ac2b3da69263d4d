"""The folder of a hyper-representation: config.json, model.safetensors, training.json, metrics and a card.

It appears whole: until training has finished everything is in a hidden folder beside it.
"""

import csv
import dataclasses
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from modelzoo_datasets._util import format_versions
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.zoo import (
    commit_folder,
    is_free,
    read_json,
    remove_partial_files,
    working_path,
    write_bytes,
    write_json,
    write_tensors,
)

from .json_record import JsonRecord
from .model import CONFIG_FILE, HYPERREP_FORMAT, OLD_FORMAT, WEIGHTS_FILE, HyperRepresentation
from .recipe import EvaluationRecipe, HyperRecipe
from .trainer import CHECKPOINT_FILE, EpochMetrics

TRAINING_FILE = "training.json"
CARD_FILE, METRICS_FILE = "README.md", "metrics.csv"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DatasetOrigin(JsonRecord):
    """Public name of a dataset; None for everything that is unknown."""

    dataset: str | None = None  # repo of the Hub
    revision: str | None = None  # commit of the repo
    license: str | None = None
    images: str | None = None  # name of the image dataset


@dataclass(frozen=True, kw_only=True)
class TrainingInfo(JsonRecord):
    """Everything that determines a trained hyper-representation, and the versions that trained it."""

    ALIASES: ClassVar[Mapping[str, str]] = {"learned_from": "origin", "begun_with": "first_versions"}
    IGNORES_UNKNOWN: ClassVar[bool] = True

    recipe: HyperRecipe  # its evaluation does not decide the weights
    evaluation: EvaluationRecipe | None = None  # the protocol of the recipe; earlier releases did not note it
    states_sha256: str  # hash of the hashes of all states of the config
    origin: DatasetOrigin | None = None  # earlier releases did not note it
    versions: Mapping[str, str] | None = None  # this package and torch
    first_versions: Mapping[str, str] | None = None  # versions of the stopped run, if others resumed it
    notes: tuple[str, ...] = ()  # a line for everything that the zoo does not record or that was not there
    stand_ins: str | None = None  # a line about hyperparameters that are not recorded, if models are fine-tuned
    image_gradients: int | None = None  # gradients of one network on one image

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read training.json of a folder.

        Raises:
            FormatError: the folder has no such file, or it is of another format.
        """
        path = folder / TRAINING_FILE
        if not path.is_file():
            raise FormatError(f"{folder} is not a hyper-representation: it has no {TRAINING_FILE}")
        try:
            return cls.from_json(read_json(path))
        except FormatError as error:
            raise FormatError(f"cannot read {path}: {error}") from error

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read the result of `to_json` of any release; raises FormatError."""
        if not isinstance(values, Mapping) or values.get("format") not in (HYPERREP_FORMAT, OLD_FORMAT):
            raise FormatError(f"expected format {HYPERREP_FORMAT!r}; train it again with this release")
        if not isinstance(values.get("states_sha256"), str):
            raise FormatError(f"'states_sha256' must be text, got {values.get('states_sha256')!r}")
        info = super().from_json(values)
        evaluation = info.evaluation or info.recipe.evaluation
        return dataclasses.replace(info, recipe=dataclasses.replace(info.recipe, evaluation=evaluation))

    def to_json(self) -> dict[str, Any]:
        """Return the content of training.json, keys in their order there."""
        values = {"format": HYPERREP_FORMAT, **super().to_json()}
        if self.first_versions is None:
            del values["begun_with"]
        if not self.notes:
            del values["notes"]
        for key in ("stand_ins", "image_gradients"):
            if values[key] is None:
                del values[key]
        return values

    def is_same_training(self, other: "TrainingInfo") -> bool:
        """Compare recipe and training states; versions and public name of the dataset do not count."""
        recipes = self.recipe.to_json(), other.recipe.to_json()
        return recipes[0] == recipes[1] and self.states_sha256 == other.states_sha256


def check_unused(folder: Path) -> None:
    """Raise FolderInUseError unless an output folder does not exist or is empty."""
    if not is_free(folder):
        raise FolderInUseError(
            f"output folder {folder} already contains other files; pass a different --out or delete it"
        )


def is_finished(folder: Path, info: TrainingInfo) -> bool:
    """Return whether the folder holds this very hyper-representation.

    Raises:
        FolderInUseError: it holds another one, or other files.
    """
    if not (folder / TRAINING_FILE).is_file():
        check_unused(folder)
        return False
    if _read_same_training(folder, info) is None:
        raise FolderInUseError(
            f"{folder} holds a hyper-representation of another recipe or dataset; pass a different --out"
        )
    return True


def start_folder(folder: Path, info: TrainingInfo) -> tuple[Path, TrainingInfo]:
    """Make the working folder beside the final one; a run of the same training that was stopped there is resumed.

    A checkpoint of other versions is resumed with a warning, and training.json names both. Call it with the lock of
    the final folder.

    Args:
        folder: the final folder.
        info: the training.

    Returns:
        The working folder, and the content of its training.json.

    Raises:
        FolderInUseError: a stopped run of another training lies there, or other files.
    """
    work = working_path(folder)
    stopped = _read_same_training(work, info)
    if stopped is None and not is_free(work):
        raise FolderInUseError(
            f"{work} holds a stopped training of another recipe or dataset; resume that one, pass a different --out, "
            f"or delete {work}"
        )
    remove_partial_files(work)
    if stopped is not None and stopped.notes != info.notes:  # such as images that are there by now
        _log.warning("%s was stopped when other inputs were there: it is trained from the beginning", folder)
        for checkpoint in work.glob("checkpoint.*"):
            checkpoint.unlink()
    if stopped is not None and (work / CHECKPOINT_FILE).is_file():
        first = stopped.first_versions or stopped.versions
        if first != info.versions:
            _log.warning(
                "%s was begun with %s and is resumed with %s: bits may differ",
                folder,
                *(format_versions(versions or {}) or "unknown versions" for versions in (first, info.versions)),
            )
            info = dataclasses.replace(info, first_versions=first)
    write_json(work / TRAINING_FILE, info.to_json())
    return work, info


def _read_same_training(folder: Path, info: TrainingInfo) -> TrainingInfo | None:
    """Return the training.json of a folder; None if it is of another training, or cannot be read."""
    try:
        stored = TrainingInfo.read(folder)
    except FormatError:
        return None
    return stored if stored.is_same_training(info) else None


def finish_folder(folder: Path, rep: HyperRepresentation, history: list[EpochMetrics], card: str) -> None:
    """Write the last files into the working folder, then move it to its final place.

    Args:
        folder: the final folder.
        rep: the trained hyper-representation.
        history: metrics of all epochs.
        card: text of its README.md.
    """
    work = working_path(folder)
    write_json(work / CONFIG_FILE, rep.config.to_json())
    write_tensors(work / WEIGHTS_FILE, rep.state_dict())
    write_csv(work / METRICS_FILE, EpochMetrics, history)
    write_bytes(work / CARD_FILE, card.encode())
    for checkpoint in work.glob("checkpoint.*"):
        checkpoint.unlink()
    commit_folder(work, folder)


def write_csv(path: Path, kind: type[JsonRecord], records: Sequence[JsonRecord]) -> None:
    """Write a table with a column per field of a kind of records, and a row per record."""
    text = io.StringIO()
    writer = csv.DictWriter(text, kind.list_keys())
    writer.writeheader()
    writer.writerows(record.to_json() for record in records)
    write_bytes(path, text.getvalue().encode())
