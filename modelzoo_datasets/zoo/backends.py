"""How the states of one model become files: a file per state, or stacked with others in packed files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..architectures import Architecture
from ..errors import FormatError
from ..recipes import Member
from ..weights import Layout
from .atomic_io import disk_full_told, write_tensors
from .packed import PackedFile, TensorSpec, merge_packs, pack_rows
from .paths import VARIATIONAL, pack_path, single_pack_path, state_path


class Store(Protocol):
    """Where states go."""

    def write(self, member: Member, epoch: int, weights: Tensor, variational: Tensor | None) -> None:
        """Put one state on disk, perhaps under a name of its own until its model is finished."""
        ...

    def finish(self, member: Member) -> None:
        """All states of a model were written: put in place what is not yet."""
        ...

    def holds(self, member: Member) -> bool:
        """Whether all states of a model are there and whole, as far as sizes tell."""
        ...

    def complete(self, members: Sequence[Member]) -> None:
        """Give these models, all that the folder holds, their final files."""
        ...

    def discard(self) -> None:
        """Give up what is not finished."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """What a store must know of its zoo."""

    architecture: Architecture
    variational: Layout | None = None  # of what is kept beside the states of twins
    per_file: int = 1  # models of the grid in a packed file


class StateFiles:
    """One plain state dict per file, under the names of the model's own module."""

    def __init__(self, folder: Path, facts: StoreFacts) -> None:
        self._folder, self._facts = folder, facts
        self._layouts: dict[float, Layout] = {}

    def write(self, member: Member, epoch: int, weights: Tensor, variational: Tensor | None) -> None:
        """See `Store`."""
        layout = self._layout(member.training.dropout)
        write_tensors(state_path(self._folder, member.model_id, epoch), layout.unpack(weights))
        if variational is not None and self._facts.variational is not None:
            tensors = self._facts.variational.unpack(variational)
            write_tensors(state_path(self._folder, member.model_id, epoch, VARIATIONAL), tensors)

    def _layout(self, dropout: float) -> Layout:
        if dropout not in self._layouts:
            self._layouts[dropout] = self._facts.architecture.layout_with(dropout)
        return self._layouts[dropout]

    def finish(self, member: Member) -> None:
        """See `Store`."""

    def holds(self, member: Member) -> bool:
        """See `Store`."""
        sizes = {"states": self._facts.architecture.layout.size}
        if self._facts.variational is not None:
            sizes[VARIATIONAL] = self._facts.variational.size
        return all(self._whole(member, kind, 4 * size) for kind, size in sizes.items())

    def _whole(self, member: Member, kind: str, smallest: int) -> bool:
        """States of one model are files of one size: a truncated one shows without being read."""
        paths = [state_path(self._folder, member.model_id, epoch, kind) for epoch in member.epochs]
        try:
            with os.scandir(paths[0].parent) as entries:  # far quicker than to ask for every path
                found = {entry.name: entry.stat().st_size for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return False
        sizes = {found.get(path.name, 0) for path in paths}
        return len(sizes) == 1 and min(sizes) > smallest

    def complete(self, members: Sequence[Member]) -> None:
        """See `Store`."""

    def discard(self) -> None:
        """See `Store`."""


class PackedFiles:
    """All states of a model in one file, and in the end those of many models of the grid, under canonical names.

    States go to disk as they come: nothing is kept in memory until a model is finished.
    """

    def __init__(self, folder: Path, facts: StoreFacts) -> None:
        self._folder, self._facts = folder, facts
        slots = {slot.name: slot for slot in facts.architecture.layout.slots}
        if facts.variational is not None:
            slots |= {f"{VARIATIONAL}.{slot.name}": slot for slot in facts.variational.slots}
        self._kinds = {name: TensorSpec(slot.dtype, slot.shape) for name, slot in slots.items()}
        self._unfinished: dict[str, PackedFile] = {}
        self._rows: dict[Path, dict[str, tuple[int, int]]] = {}  # of files that have been looked into

    def write(self, member: Member, epoch: int, weights: Tensor, variational: Tensor | None) -> None:
        """See `Store`."""
        if member.model_id not in self._unfinished:
            rows = {member.model_id: (0, len(member.epochs))}
            path = single_pack_path(self._folder, member.model_id)
            self._unfinished[member.model_id] = PackedFile(path, self._kinds, rows)
        file = self._unfinished[member.model_id]
        tensors = self._facts.architecture.layout.unpack(weights)
        if variational is not None and self._facts.variational is not None:
            more = self._facts.variational.unpack(variational)
            tensors |= {f"{VARIATIONAL}.{name}": tensor for name, tensor in more.items()}
        for name, tensor in tensors.items():
            file.write(name, member.epochs.index(epoch), tensor.unsqueeze(0))
        file.rest()

    def finish(self, member: Member) -> None:
        """See `Store`."""
        self._unfinished.pop(member.model_id).place()
        self._rows.pop(single_pack_path(self._folder, member.model_id), None)

    def discard(self) -> None:
        """See `Store`."""
        for file in self._unfinished.values():
            file.discard()
        self._unfinished.clear()

    def holds(self, member: Member) -> bool:
        """See `Store`."""
        source = self._source(member)
        return source is not None and self._rows[source][member.model_id][1] == len(member.epochs)

    def _source(self, member: Member) -> Path | None:
        """The file that holds a model: its own while there is one."""
        for path in (single_pack_path(self._folder, member.model_id), self._target(member)):
            if path not in self._rows:
                try:
                    self._rows[path] = pack_rows(path) if path.is_file() else {}
                except FormatError:  # truncated: holds nothing
                    self._rows[path] = {}
            if member.model_id in self._rows[path]:
                return path
        return None

    def _target(self, member: Member) -> Path:
        return pack_path(self._folder, member.index, self._facts.per_file)

    def complete(self, members: Sequence[Member]) -> None:
        """See `Store`."""
        groups: dict[Path, dict[str, Path]] = {}
        for member in members:
            if source := self._source(member):
                groups.setdefault(self._target(member), {})[member.model_id] = source
        for target, sources in groups.items():
            self._merge(target, sources)
        self._rows.clear()

    def _merge(self, target: Path, sources: Mapping[str, Path]) -> None:
        singles = [source for source in sources.values() if source != target]
        if len(sources) == 1 and singles:  # it is the merged file already, and may be a big one
            with disk_full_told(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                singles[0].replace(target)
        elif singles:
            merge_packs(target, self._kinds, sources)
            for single in singles:  # at once, so that the disk never holds much more than the zoo
                single.unlink()
