"""Write a zoo folder state by state, so that a kill at any moment loses at most the models in training."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from ..errors import FolderInUseError
from ..recipes import Member
from .async_writer import WriterPool
from .atomic_io import disk_full_told, read_json, write_json, write_table
from .backends import PackedFiles, StateFiles, Store, StoreFacts
from .info import ZooInfo, find_difference
from .lock import FolderLock
from .paths import MODELS_FILE, PROGRESS, STATES_FILE, ZOO_FILE, check_zoo_folder
from .tables import Row, epochs_known, known_epochs, known_states, state_row, tables, write_record


class ZooWriter:
    """Opens a folder for one zoo, says which models it already holds, adds others, and completes the tables.

    A context manager: within, no other process can write the folder; states are written by threads of their own.
    """

    def __init__(self, folder: Path, info: ZooInfo) -> None:
        """Create the folder, or resume one that holds the very same zoo.

        Raises:
            FolderInUseError: the folder holds something else, a zoo of another recipe, images or library version, or
                another process is writing it.
        """
        self.folder = folder
        self._info = info
        with disk_full_told(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            check_zoo_folder(folder)
            folder.mkdir(exist_ok=True)
        self._lock = FolderLock(folder)
        try:
            self._claim()
            self._store = self._new_store()
        except BaseException:
            self._lock.release()
            raise
        self.pool = WriterPool()
        self._rows: dict[str, list[Row]] = {}

    def _claim(self) -> None:
        zoo_file = self.folder / ZOO_FILE
        check_zoo_folder(self.folder)  # again, now that no other process can write to it
        if not zoo_file.is_file():
            write_json(zoo_file, self._info.to_json())
        if difference := find_difference(read_json(zoo_file), self._info):
            what, theirs, ours = difference
            if what == "storage":
                raise FolderInUseError(
                    f"{self.folder} stores its states as {_short(theirs)}, not {_short(ours)}; "
                    f"choose another --out, or --storage {theirs}"
                )
            raise FolderInUseError(
                f"{self.folder} holds another zoo: its {what} is {_short(theirs)}, not {_short(ours)}; "
                "choose another --out"
            )

    def _new_store(self) -> Store:
        facts = StoreFacts(
            architecture=self._info.find_architecture(),
            variational=self._info.variational_layout,
            per_file=self._info.models_per_file or 1,
        )
        return (PackedFiles if self._info.packed else StateFiles)(self.folder, facts)

    def __enter__(self) -> "ZooWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.pool.close()
            else:
                self.pool.abandon()
        finally:
            self._store.discard()
            self._lock.release()

    def finished(self, members: Sequence[Member]) -> set[str]:
        """Ids of the members whose states are all there; raises FormatError where the table of states is damaged."""
        known = epochs_known(known_states(self.folder))
        return {m.model_id for m in members if _has_rows(m, known) and self._store.holds(m)}

    def add(
        self,
        member: Member,
        epoch: int,
        weights: Tensor,  # (P,)
        metrics: Mapping[str, float],
        recall: Tensor,  # (C,)
        variational: Tensor | None = None,  # (Q,) of twins
    ) -> None:
        """Write the next state of a model, soon; after the last one its record, which makes it finished.

        Tensors must not be changed afterwards. Raises what an earlier write failed of, such as DiskFullError.
        """
        size = weights.nbytes + (0 if variational is None else variational.nbytes)

        def write() -> None:
            rows = self._rows.setdefault(member.model_id, [])
            rows.append(state_row(member.model_id, epoch, weights, metrics, recall))
            self._store.write(member, epoch, weights, variational)
            if epoch == member.epochs[-1]:
                self._store.finish(member)
                write_record(self.folder, member.model_id, self._rows.pop(member.model_id))

        self.pool.submit(member.model_id, size, write)

    def epochs(self) -> dict[str, tuple[int, ...]]:
        """The epochs of the states of every finished model; raises FormatError where the table of states is damaged."""
        return known_epochs(known_states(self.folder))

    def complete(self, members: Sequence[Member], *, lacking: Mapping[str, Sequence[int]] | None = None) -> None:
        """Write both tables for all finished models of the grid, then drop the records they replace.

        Nothing can be added afterwards. Raises what a write failed of, such as DiskFullError.

        Args:
            lacking: of an imported zoo, model_id -> epochs whose states turned out to be lost, for zoo.json.
        """
        self.pool.close()
        progress = self.folder / PROGRESS
        if not progress.is_dir() and all((self.folder / name).is_file() for name in (MODELS_FILE, STATES_FILE)):
            return  # nothing was added: a complete zoo is left as it is, on a full disk too
        values = dataclasses.replace(self._info, lacking=lacking or {}).to_json()
        if read_json(self.folder / ZOO_FILE) != values:
            write_json(self.folder / ZOO_FILE, values)
        states = known_states(self.folder)
        known = epochs_known(states)
        present = [member for member in members if _has_rows(member, known)]
        self._store.complete(present)
        models, states = tables(present, states)
        write_table(self.folder / MODELS_FILE, models)
        write_table(self.folder / STATES_FILE, states)
        if progress.is_dir():
            for record in progress.iterdir():
                record.unlink()
            progress.rmdir()


def _has_rows(member: Member, known: Mapping[str, int]) -> bool:
    return known.get(member.model_id) == len(member.epochs)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
