"""Write a zoo folder model by model, so that a kill at any moment loses at most the models in training."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..architectures import get_architecture
from ..errors import FolderInUseError
from ..layout import Layout
from ..recipes import Member
from .files import read_json, read_table, write_json, write_table, write_tensors
from .folder import MODELS_FILE, PROGRESS, STATES_FILE, ZOO_FILE, ZOO_FORMAT, state_path
from .reader import weights_sha256


class ZooWriter:
    """Opens a folder for one zoo, says which models it already holds, adds others, and completes the tables."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Create the folder, or go on with one of the very same facts.

        Raises:
            FolderInUseError: the folder holds something else, or a zoo of another recipe, images or library version.
        """
        self.folder = folder
        self._facts = {"format": ZOO_FORMAT, **facts}
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            write_json(folder / ZOO_FILE, self._facts)
        elif not (folder / ZOO_FILE).is_file():
            raise FolderInUseError(f"{folder} is not empty and no zoo; choose another --out")
        self._refuse_another_zoo()

    def _refuse_another_zoo(self) -> None:
        found = read_json(self.folder / ZOO_FILE)
        if difference := _difference(found, self._facts):
            what, theirs, ours = difference
            raise FolderInUseError(
                f"{self.folder} holds another zoo: its {what} is {_short(theirs)}, not {_short(ours)}; "
                "choose another --out"
            )

    def finished(self, members: Sequence[Member]) -> set[str]:
        """Ids of the members whose states are all there."""
        rows = self._rows()
        return {m.model_id for m in members if self._is_finished(m, rows.get(m.model_id, []))}

    def _is_finished(self, member: Member, rows: list[dict[str, Any]]) -> bool:
        epochs = range(member.training.epochs + 1)
        files = [state_path(self.folder, member.model_id, epoch) for epoch in epochs]
        if len(rows) != len(epochs) or not all(file.is_file() for file in files):
            return False
        # States of one model are files of one size: a truncated one shows without being read.
        smallest = 4 * get_architecture(self._facts["architecture"]).layout.size
        sizes = {file.stat().st_size for file in files}
        return len(sizes) == 1 and min(sizes) > smallest

    def add(self, member: Member, weights: Tensor, metrics: Mapping[str, Tensor]) -> None:
        """Write the trajectory of one model: weights (E + 1, P), metrics (E + 1,) each; its record comes last."""
        architecture = get_architecture(self._facts["architecture"])
        training = member.training
        layout = Layout.of(architecture.module(training.activation, training.dropout))
        rows = []
        for epoch, vector in enumerate(weights):
            path = state_path(self.folder, member.model_id, epoch)
            write_tensors(path, layout.unpack(vector))
            values = {name: column[epoch].item() for name, column in metrics.items()}
            rows.append(
                {"model_id": member.model_id, "epoch": epoch}
                | values
                | {"ggap": values["train_acc"] - values["test_acc"]}
                | {"finite": bool(torch.isfinite(vector).all()), "sha256": weights_sha256(vector)}
            )
        write_json(self.folder / PROGRESS / f"{member.model_id}.json", rows)

    def complete(self, members: Sequence[Member]) -> None:
        """Write both tables for all finished models of the grid, then drop the records they replace."""
        rows = self._rows()
        present = [m for m in members if m.model_id in rows]
        states = pd.DataFrame([row for m in present for row in rows[m.model_id]])
        write_table(self.folder / MODELS_FILE, pd.DataFrame([_model_row(m) for m in present]))
        write_table(self.folder / STATES_FILE, states)
        progress = self.folder / PROGRESS
        if progress.is_dir():
            for record in progress.iterdir():
                record.unlink()
            progress.rmdir()

    def _rows(self) -> dict[str, list[dict[str, Any]]]:
        """State rows by model id: from the table of a finished run, then from the records of a running one."""
        rows: dict[str, list[dict[str, Any]]] = {}
        if (self.folder / STATES_FILE).is_file():
            for row in read_table(self.folder / STATES_FILE).to_dict("records"):
                rows.setdefault(str(row["model_id"]), []).append({str(k): v for k, v in row.items()})
        for record in sorted((self.folder / PROGRESS).glob("*.json")):
            rows[record.stem] = read_json(record)
        return rows


def _model_row(member: Member) -> dict[str, Any]:
    row = {"model_id": member.model_id, "index": member.index, "seed": member.seed}
    return row | {"split": member.split} | dataclasses.asdict(member.training)


def _difference(found: Any, wanted: Any, what: str = "content") -> tuple[str, Any, Any] | None:
    """The first fact in which two JSON values differ, by name, with both values; the order of an object counts."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return None if found == wanted else (what, found, wanted)
    for key in sorted(found.keys() | wanted.keys()):
        if difference := _difference(found.get(key), wanted.get(key), key):
            return difference
    return None if list(found) == list(wanted) else (f"order of {what}", list(found), list(wanted))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
