"""The two ways to store states: a file per state, or packed files of many models."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from torch import Tensor

from ..errors import FormatError
from ..recipes import Member
from .atomic_io import translate_disk_errors
from .info import ZooInfo
from .packed import PackedFile, merge_packs, read_pack_index
from .paths import VARIATIONAL, pack_path, single_pack_path, state_path
from .safetensors_io import TensorSpec, write_tensors


class StateStore:
    """A way to store the states of a zoo. Only finished models count after a kill."""

    def __init__(self, folder: Path, info: ZooInfo) -> None:
        """Name the folder without reading it; the info decides the files."""
        self._folder, self._architecture = folder, info.find_architecture()
        self._variational = info.variational_layout  # sparsified twins: unpruned weights and log sigma²
        self._models_per_file = info.models_per_file or 1

    def write(self, member: Member, epoch: int, weights: Tensor, variational: Tensor | None) -> None:
        """Put one state on disk; until its model is finished it may lie elsewhere than in the end."""
        raise NotImplementedError

    def finish(self, member: Member) -> None:
        """Put the states of a model in place, after the last of them was written."""

    def holds(self, member: Member) -> bool:
        """Return whether all states of a model are there and whole, as far as the sizes of files tell."""
        raise NotImplementedError

    def complete(self, members: Sequence[Member]) -> None:
        """Put the states of these models, which are all finished ones, into their final files."""

    def discard(self) -> None:
        """Remove the states of models that are not finished."""


class FileStore(StateStore):
    """One plain state dict per file, with the names that the module of the model has; each is in place at once."""

    def __init__(self, folder: Path, info: ZooInfo) -> None:
        super().__init__(folder, info)
        self._layout = cache(self._architecture.layout_with)  # by dropout

    def write(self, member: Member, epoch: int, weights: Tensor, variational: Tensor | None) -> None:
        """See `StateStore`."""
        tensors = self._layout(member.training.dropout).unpack(weights)
        write_tensors(state_path(self._folder, member.model_id, epoch), tensors)
        if variational is not None and self._variational is not None:
            tensors = self._variational.unpack(variational)
            write_tensors(state_path(self._folder, member.model_id, epoch, VARIATIONAL), tensors)

    def holds(self, member: Member) -> bool:
        """See `StateStore`."""
        sizes = {"states": self._architecture.layout.size}
        if self._variational is not None:
            sizes[VARIATIONAL] = self._variational.size
        return all(self._is_whole(member, kind, 4 * size) for kind, size in sizes.items())

    def _is_whole(self, member: Member, kind: str, min_size: int) -> bool:
        """Compare file sizes, equal for all states of one model: this finds a truncated file without reading it."""
        paths = [state_path(self._folder, member.model_id, epoch, kind) for epoch in member.epochs]
        try:
            with os.scandir(paths[0].parent) as entries:  # much faster than one `stat` per path
                size_by_name = {entry.name: entry.stat().st_size for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return False
        sizes = {size_by_name.get(path.name, 0) for path in paths}
        return len(sizes) == 1 and min(sizes) > min_size


class PackedStore(StateStore):
    """One file per model while the zoo is incomplete, then one per many models; names are those of the layout.

    Each state is written to disk at once, so memory never holds the states of a whole model.
    """

    def __init__(self, folder: Path, info: ZooInfo) -> None:
        super().__init__(folder, info)
        slots = {slot.name: slot for slot in self._architecture.layout.slots}
        if self._variational is not None:
            slots |= {f"{VARIATIONAL}.{slot.name}": slot for slot in self._variational.slots}
        self._specs = {name: TensorSpec(slot.dtype, slot.shape) for name, slot in slots.items()}
        self._unfinished: dict[str, PackedFile] = {}
        self._indexes: dict[Path, dict[str, tuple[int, int]]] = {}  # read so far

    def write(self, member: Member, epoch: int, weights: Tensor, variational: Tensor | None) -> None:
        """See `StateStore`."""
        if member.model_id not in self._unfinished:
            index = {member.model_id: (0, len(member.epochs))}
            path = single_pack_path(self._folder, member.model_id)
            self._unfinished[member.model_id] = PackedFile(path, self._specs, index)
        file = self._unfinished[member.model_id]
        tensors = self._architecture.layout.unpack(weights)
        if variational is not None and self._variational is not None:
            more = self._variational.unpack(variational)
            tensors |= {f"{VARIATIONAL}.{name}": tensor for name, tensor in more.items()}
        for name, tensor in tensors.items():
            file.write(name, member.epochs.index(epoch), tensor.unsqueeze(0))
        file.suspend()

    def finish(self, member: Member) -> None:
        """See `StateStore`."""
        self._unfinished.pop(member.model_id).commit()
        self._indexes.pop(single_pack_path(self._folder, member.model_id), None)

    def discard(self) -> None:
        """See `StateStore`."""
        for file in self._unfinished.values():
            file.discard()
        self._unfinished.clear()

    def holds(self, member: Member) -> bool:
        """See `StateStore`."""
        source = self._source(member)
        return source is not None and self._indexes[source][member.model_id][1] == len(member.epochs)

    def _source(self, member: Member) -> Path | None:
        """Return the file that holds a model: its own file as long as there is one."""
        for path in (single_pack_path(self._folder, member.model_id), self._target(member)):
            if path not in self._indexes:
                try:
                    self._indexes[path] = read_pack_index(path) if path.is_file() else {}
                except FormatError:  # truncated, so it holds nothing
                    self._indexes[path] = {}
            if member.model_id in self._indexes[path]:
                return path
        return None

    def _target(self, member: Member) -> Path:
        return pack_path(self._folder, member.index, self._models_per_file)

    def complete(self, members: Sequence[Member]) -> None:
        """See `StateStore`."""
        groups: dict[Path, dict[str, Path]] = {}
        for member in members:
            if source := self._source(member):
                groups.setdefault(self._target(member), {})[member.model_id] = source
        for target, sources in groups.items():
            self._merge(target, sources)
        self._indexes.clear()

    def _merge(self, target: Path, sources: Mapping[str, Path]) -> None:
        singles = [source for source in sources.values() if source != target]
        if len(sources) == 1 and singles:  # the file of a single model needs no copy, which could be large
            with translate_disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                singles[0].replace(target)
        elif singles:
            merge_packs(target, self._specs, sources)
            for single in singles:  # now, so that the disk never holds much more than one copy of the zoo
                single.unlink()
