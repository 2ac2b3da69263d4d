"""The folder of a hyper-representation: config.json, model.safetensors, what it was learned from and how, a card.

It appears whole: until learning has finished everything lies in a hidden folder beside it.
"""

import csv
import dataclasses
import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from modelzoo_datasets._util import versions
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.zoo import ZooInfo, partial_beside, read_json, write_bytes, write_json, write_tensors

from .model import HyperRepresentation
from .recipe import DataRecipe, HyperRecipe, LearningRecipe, ModelRecipe
from .trainer import TENSORS, EpochMetrics

HYPERREP_FORMAT = "modelzoo-hyperrep-1"
_log = logging.getLogger(__name__)
_SECTIONS = {"data": DataRecipe, "model": ModelRecipe, "learning": LearningRecipe}
CARD = "README.md"
_MADE_BY = ("versions", "begun_with", "learned_from")  # facts that do not decide what was to be learned


def facts_of(recipe: HyperRecipe, dataset: ZooInfo, learned_from: dict[str, Any] | None = None) -> dict[str, Any]:
    """What training.json says: the recipe, the hash of the states it was applied to, and the dataset's name."""
    return {
        "format": HYPERREP_FORMAT,
        "recipe": dataclasses.asdict(recipe) | {"evaluation": None},
        "states_sha256": dataset.states_sha256,
        "learned_from": learned_from,
        "versions": versions(),
    }


def is_finished(folder: Path, facts: dict[str, Any]) -> bool:
    """True if the folder holds this very hyper-representation; raises FolderInUseError if it holds another thing."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if (folder / "training.json").is_file():
        if is_learned_by(folder, facts):
            return True
        raise FolderInUseError(
            f"{folder} holds a hyper-representation of another recipe or dataset; choose another --out"
        )
    raise FolderInUseError(f"{folder} holds something else; choose another --out or remove it")


def is_learned_by(folder: Path, facts: dict[str, Any]) -> bool:
    """True if the folder holds the hyper-representation of this recipe and dataset, finished or not."""
    return bool(_identity(read_json(folder / "training.json")) == _identity(facts))


def _identity(facts: Any) -> Any:
    """What was to be learned, whatever release and torch did it.

    A recipe of an earlier release gets the defaults of keys that this release has added: they mean what it did.
    """
    facts = json.loads(json.dumps(facts))  # tuples compare equal to the lists that are read back
    recipe = facts.get("recipe") if isinstance(facts, dict) else None
    if not isinstance(recipe, dict):
        return facts
    for key, kind in _SECTIONS.items():
        if isinstance(recipe.get(key), dict):
            fields = [f for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING]
            defaults = json.loads(json.dumps({f.name: f.default for f in fields}))
            recipe[key] = defaults | recipe[key]
    return {key: value for key, value in facts.items() if key not in _MADE_BY}


def start(folder: Path, facts: dict[str, Any]) -> Path:
    """The working folder, emptied if what lies there is unreadable or belongs to another recipe or dataset.

    What another release or torch left is gone on with: that is logged as a warning, and training.json names both.
    """
    work = partial_beside(folder)
    left = _left(work, facts)
    if left is None and work.is_dir():
        shutil.rmtree(work)
    if left is not None and (work / TENSORS).is_file():
        begun = left.get("begun_with", left.get("versions"))
        if begun != facts["versions"]:
            _log.warning(
                "%s was begun with %s and goes on with %s: bits may differ",
                folder,
                _said(begun),
                _said(facts["versions"]),
            )
            facts = facts | {"begun_with": begun}
    write_json(work / "training.json", facts)
    return work


def _left(work: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of a run that was stopped in this folder, None unless they are those of this run."""
    try:
        return dict(read_json(work / "training.json")) if is_learned_by(work, facts) else None
    except FormatError:
        return None


def _said(versions: Any) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items()) if versions else "unknown versions"


def finish(folder: Path, rep: HyperRepresentation, history: list[EpochMetrics], card: str) -> None:
    """Write the finished files and the card's text, then let the folder appear."""
    work = partial_beside(folder)
    write_json(work / "config.json", rep.arguments)
    write_tensors(work / "model.safetensors", rep.state_dict())
    table = io.StringIO()
    writer = csv.DictWriter(table, [f.name for f in dataclasses.fields(EpochMetrics)])
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in history)
    write_bytes(work / "metrics.csv", table.getvalue().encode())
    write_bytes(work / CARD, card.encode())
    for checkpoint in work.glob("checkpoint.*"):
        checkpoint.unlink()
    if folder.is_dir():
        folder.rmdir()
    work.replace(folder)
