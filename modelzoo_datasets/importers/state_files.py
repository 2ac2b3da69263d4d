"""Weights of networks of one known architecture, in anybody's files: safetensors, or `.pt` of `torch.save`.

An import skips and counts what it cannot read. Here one such file is an error, because a population without its
failures is another population.

n models, P weights of a model.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .._util import natural_key, one_line
from ..architectures import Architecture
from ..errors import FormatError
from ..weights import Layout
from ..zoo import check_memory, check_plain_file, memory_limit, read_plain_file, size_on_disk
from .archives import FolderSource, is_litter
from .base import Skipped
from .checkpoints import load_tensors, unwrap_state_dict

_SAFETENSORS, _TORCH = ".safetensors", (".pt", ".pth")
_COPIES = 4  # a file is in memory so often while it is read: itself, decoded, checked, packed
_log = logging.getLogger(__name__)


def read_state_files(path: Path, architecture: Architecture) -> Tensor:
    """Read the weights of all models in a folder or in one file.

    Args:
        path: A folder, whose files `*.safetensors`, `*.pt` and `*.pth` are read in the natural order of their paths,
            or one such file. See `pack_states` for what a file may hold. Links that lead out of the folder are not
            followed, which a line says.
        architecture: The architecture of the models.

    Returns:
        The weights (n, P).

    Raises:
        FormatError: There is no such file, or one does not hold models of this architecture.
    """
    contents = _FolderReader(path) if path.is_dir() else _FileReader(path)
    states, problems = [], []
    for name in contents.names:
        try:
            states.append(_unpack(contents.read(name), name, architecture.layout))
        except (Skipped, FormatError, SafetensorError) as error:
            problems.append(f"{name} {one_line(error)}")
    if problems:
        raise FormatError(
            f"{len(problems)} of {len(contents.names)} files of {path} hold no models of {architecture.name}, which "
            f"has {architecture.layout.size:,} weights: {problems[0]}"
        )
    return torch.cat(states)


def pack_states(value: Any, layout: Layout) -> Tensor:
    """Return the weights (n, P) of models in one value.

    Args:
        value: A tensor (n, P), alone or as the only one in a dict; the state dict of one model; or a state dict of
            stacked tensors (n, ...). Tensors are matched by name, or in the order of the numbers in their names, which
            dropout shifts and wrappers of modules prefix.
        layout: The layout of the architecture.

    Raises:
        FormatError: It holds none of these.
    """
    only = next(iter(value.values())) if isinstance(value, Mapping) and len(value) == 1 else value
    if isinstance(only, Tensor) and len(layout.slots) > 1:
        if only.ndim != 2 or only.shape[1] != layout.size:
            raise FormatError(f"is a tensor of shape {tuple(only.shape)}, expected (n, {layout.size})")
        return only.detach().float()
    try:
        state = _rename_tensors(unwrap_state_dict(value), layout)
    except Skipped as error:
        raise FormatError(str(error)) from error
    count = _count_stacked(state, layout)
    if count == 0:
        return torch.empty(0, layout.size)
    rows = [state] if count is None else [{name: tensor[i] for name, tensor in state.items()} for i in range(count)]
    return torch.stack([layout.pack(row) for row in rows])


class _FolderReader:
    """The state files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._source = FolderSource(folder)
        for line in self._source.skipped.lines():
            _log.warning("%s: %s", folder, line)
        suffixes = (_SAFETENSORS, *_TORCH)
        names = [name for name in self._source.sizes if name.endswith(suffixes) and not is_litter(name)]
        self.names = sorted(names, key=natural_key)
        if not names:
            raise FormatError(f"{folder} holds no files {', '.join('*' + suffix for suffix in suffixes)}")

    def read(self, name: str) -> bytes:
        return self._source.read(name)


class _FileReader:
    """One state file."""

    def __init__(self, path: Path) -> None:
        check_plain_file(path)
        self._path, self.names = path, [path.name]

    def read(self, name: str) -> bytes:
        status = self._path.stat()
        check_memory(_COPIES * status.st_size, size_on_disk(status), name)
        return read_plain_file(self._path)


def _unpack(content: bytes, name: str, layout: Layout) -> Tensor:
    """Return the models (n, P) in one file."""
    if name.endswith(_SAFETENSORS):
        return pack_states(safetensors.torch.load(content), layout)
    if name.endswith(_TORCH):
        return pack_states(load_tensors(content, memory_limit(len(content))), layout)
    raise FormatError(f"is no file {_SAFETENSORS}, {' or '.join(_TORCH)}")


def _rename_tensors(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return the tensors under the names of a layout; raises FormatError where there are more or fewer."""
    if state.keys() == {slot.name for slot in layout.slots}:
        return dict(state)
    slots = layout.match_keys(state)
    if slots is None:
        raise FormatError(f"has {len(state)} tensors, expected {len(layout.slots)}")
    return {slots[name].name: tensor for name, tensor in state.items()}


def _count_stacked(state: Mapping[str, Tensor], layout: Layout) -> int | None:
    """Return n if all tensors are stacked (n, ...); None for a state dict of one model, or of another network."""
    counts = {
        tensor.shape[0] if tensor.ndim and tuple(tensor.shape[1:]) == slot.shape else None
        for slot in layout.slots
        for tensor in (state[slot.name],)
    }
    return counts.pop() if len(counts) == 1 else None
