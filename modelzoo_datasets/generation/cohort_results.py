"""Results of cohorts as files in a local folder or at an fsspec URL.

A result is one safetensors file per model, `<model_id>.safetensors`, with all states of the model in the order of their
epochs: `weights` (K, P), `recall` (K, C), every metric (K,) and, for twins, `variational` (K, Q). If these would not
fit into memory, the first states are written before it as `<model_id>.part-000.safetensors` and so on. The result
itself is written last and atomically, so that the leftovers of a killed task are never mistaken for a result. Every
file names the digest of the zoo, so that results of another recipe, engine or version are never collected.

    K states, P weights, C classes, Q numbers of a variational state
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import fsspec
import safetensors.torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from torch import Tensor

from ..errors import ArgumentError, FormatError
from ..recipes import Member
from ..zoo import SafetensorsHeader, write_bytes

_HEADER_BYTES = 65_536  # more than any header of a result
_FILE_NAME = re.compile(r"\.*(.+?)\.(?:part-\d+\.)?safetensors.*")  # any file of a result, unfinished ones included


class Results:
    """The results of the cohorts of one zoo."""

    def __init__(self, url: str, digest: str) -> None:
        """Name the place without reading it.

        Args:
            url: Local folder or fsspec URL.
            digest: `ZooInfo.digest` of the zoo.

        Raises:
            ArgumentError: fsspec does not know this kind of URL.
        """
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ArgumentError(f"results cannot be at {url}: {error}") from error
        self._local = isinstance(self._files, LocalFileSystem)
        self.url = str(self._root) if self._local else url  # valid in any working directory
        self._digest = digest

    def select_finished(self, members: Iterable[Member]) -> list[Member]:
        """Return the models that have a complete result.

        Raises:
            FormatError: A result belongs to another zoo.
        """
        sizes = self._sizes()
        candidates = [member for member in members if _name(member) in sizes]
        return [member for member in candidates if self._is_complete(_name(member), sizes[_name(member)])]

    def _sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file, by name."""
        self._files.invalidate_cache(self._root)  # other processes write here
        try:
            entries = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        return {str(info["name"]).rpartition("/")[2]: int(info["size"] or 0) for info in entries}

    def _is_complete(self, name: str, size: int) -> bool:
        try:
            header = self._header(name)
        except (OSError, ValueError):  # truncated, or removed by another process
            return False
        self._check(name, header.metadata)
        return size == header.file_size

    def _header(self, name: str) -> SafetensorsHeader:
        return SafetensorsHeader.parse(self._files.cat_file(f"{self._root}/{name}", start=0, end=_HEADER_BYTES))

    def _check(self, name: str, metadata: Mapping[str, str]) -> None:
        if metadata.get("facts") != self._digest:
            raise FormatError(
                f"cohort result {self.url}/{name} belongs to another recipe, engine or version than this zoo; remove "
                "it, or pass another --results"
            )

    def put(self, member: Member, states: Mapping[str, Tensor], part: int, *, last: bool) -> None:
        """Write a file with the next states of a model, atomically.

        Args:
            member: The model.
            states: Column of the result -> values of these states.
            part: Number of files that were written before for this model.
            last: Whether these are its last states, which makes the file its result.
        """
        content = safetensors.torch.save(dict(states), metadata={"facts": self._digest, "parts": str(part)})
        name = _name(member) if last else _part_name(member, part)
        if not self._local:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(f"{self._root}/{name}", content)
            return
        write_bytes(Path(self._root) / name, content)

    def read(self, member: Member) -> Iterator[dict[str, Tensor]]:
        """Yield the states of a model, one file after the other.

        Raises:
            FormatError: A file is missing or damaged, or belongs to another zoo.
        """
        epochs = 0
        for name in self._names(member):
            tensors = self._load(name)
            epochs += len(tensors["weights"])
            if name == _name(member) and epochs != member.training.epochs + 1:
                raise self._damage_error(name, f"{epochs} states, expected {member.training.epochs + 1}")
            yield tensors

    def _names(self, member: Member) -> list[str]:
        """Return the names of the files of a result, in the order of their states."""
        try:
            parts = int(self._header(_name(member)).metadata["parts"])
        except FileNotFoundError:
            raise FormatError(
                f"there is no result of {member.model_id} at {self.url}, although a node wrote it: pass a folder that "
                "all nodes share as --results, or an fsspec URL"
            ) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._damage_error(_name(member), error) from error
        return [*(_part_name(member, part) for part in range(parts)), _name(member)]

    def _load(self, name: str) -> dict[str, Tensor]:
        try:
            content = self._files.cat_file(f"{self._root}/{name}")
            tensors = safetensors.torch.load(content)
        except (OSError, SafetensorError) as error:
            raise self._damage_error(name, error) from error
        self._check(name, SafetensorsHeader.parse(content).metadata)
        return tensors

    def _damage_error(self, name: str, reason: object) -> FormatError:
        return FormatError(f"cannot read cohort result {self.url}/{name}: {reason}; remove it")

    def remove(self, members: Iterable[Member]) -> None:
        """Remove the results of models."""
        for member in members:
            for name in self._names(member):
                self._remove(name)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def sweep(self, members: Iterable[Member]) -> None:
        """Remove every file of models, unfinished ones included, and then a local folder that is empty."""
        ids = {member.model_id for member in members}
        for name in self._sizes():
            if (match := _FILE_NAME.fullmatch(name)) and match[1] in ids:
                self._remove(name)
        if self._local:
            with suppress(OSError):  # it does not exist or is not empty
                Path(self._root).rmdir()


def _name(member: Member) -> str:
    return f"{member.model_id}.safetensors"


def _part_name(member: Member, part: int) -> str:
    return f"{member.model_id}.part-{part:03d}.safetensors"
