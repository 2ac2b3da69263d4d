"""The folder of a hyper-representation: config.json, model.safetensors, training.json, metrics and a card.

It appears whole: until training has finished everything is in a hidden folder beside it.
"""

import csv
import dataclasses
import io
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from modelzoo_datasets._util import format_versions
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.zoo import commit_folder, partial_path, write_bytes, write_json, write_tensors

from .model import CONFIG_FILE, WEIGHTS_FILE, HyperRepresentation
from .trainer import CHECKPOINT_FILE, EpochMetrics
from .training_info import TRAINING_FILE, TrainingInfo

CARD_FILE, METRICS_FILE = "README.md", "metrics.csv"
_log = logging.getLogger(__name__)


def is_finished(folder: Path, info: TrainingInfo) -> bool:
    """Return whether the folder holds this very hyper-representation.

    Raises:
        FolderInUseError: it holds another one, or other files.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / TRAINING_FILE).is_file():
        raise FolderInUseError(
            f"output folder {folder} already contains other files; pass a different --out or delete it"
        )
    if _read_same_training(folder, info) is None:
        raise FolderInUseError(
            f"{folder} holds a hyper-representation of another recipe or dataset; pass a different --out"
        )
    return True


def start_folder(folder: Path, info: TrainingInfo) -> tuple[Path, TrainingInfo]:
    """Make the working folder beside the final one; a run of the same training that was stopped there is resumed.

    Files of another training, or unreadable ones, are removed. A checkpoint of other versions is resumed with a
    warning, and training.json names both.

    Args:
        folder: the final folder.
        info: the training.

    Returns:
        The working folder, and the content of its training.json.
    """
    work = partial_path(folder)
    stopped = _read_same_training(work, info)
    if stopped is None and work.is_dir():
        shutil.rmtree(work)
    if stopped is not None and (work / CHECKPOINT_FILE).is_file():
        first = stopped.first_versions or stopped.versions
        if first != info.versions:
            _log.warning(
                "%s was begun with %s and is resumed with %s: bits may differ",
                folder,
                _describe_versions(first),
                _describe_versions(info.versions),
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


def _describe_versions(versions: Mapping[str, str] | None) -> str:
    return format_versions(dict(versions)) if versions else "unknown versions"


def finish_folder(folder: Path, rep: HyperRepresentation, history: list[EpochMetrics], card: str) -> None:
    """Write the last files into the working folder, then move it to its final place.

    Args:
        folder: the final folder.
        rep: the trained hyper-representation.
        history: metrics of all epochs.
        card: text of its README.md.
    """
    work = partial_path(folder)
    write_json(work / CONFIG_FILE, rep.config.to_json())
    write_tensors(work / WEIGHTS_FILE, rep.state_dict())
    rows = [row.to_json() for row in history]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(work / METRICS_FILE, table.getvalue().encode())
    write_bytes(work / CARD_FILE, card.encode())
    for checkpoint in work.glob("checkpoint.*"):
        checkpoint.unlink()
    commit_folder(folder)
