"""Packed files: the states of many models stacked per tensor, so that a big zoo has few files.

A packed file is a safetensors file that holds every tensor of the layout as (S, ...), where S is the number of states
of all its models. Its metadata maps each model to its rows: {"<model_id>": [first row, number of states]}. The file is
written row by row, so memory holds only the rows that are being written.

E is the number of states that are read, P that of the numbers of one.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import FormatError
from ..weights import Layout
from .atomic_io import AtomicFile
from .paths import VARIATIONAL
from .safetensors_io import TensorSpec, make_header

PackIndex = Mapping[str, tuple[int, int]]  # model_id -> first row, number of states


class PackedFile:
    """A packed file in the making, with room for all its rows; see `AtomicFile` for how it is put in place.

    The library cannot write it: it needs all tensors at once, and it writes metadata in a random order.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], index: PackIndex) -> None:
        """Begin a file of tensors (S, ...); equal content gives equal bytes.

        Args:
            path: the file.
            specs: type and shape of one row of each tensor, by name.
            index: the rows of each model.
        """
        states = sum(count for _, count in index.values())
        self._specs = specs
        # The library's order: types of many bytes first, so that every tensor is aligned.
        ordered = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))
        stacked = {name: TensorSpec(specs[name].dtype, (states, *specs[name].shape)) for name in ordered}
        models = json.dumps({model: list(rows) for model, rows in index.items()})
        header, self._offsets = make_header(stacked, {"models": models})
        self._file = AtomicFile(path)
        self._file.write(header)

    def write(self, name: str, first: int, tensor: Tensor) -> None:
        """Write rows (K, ...) of a tensor, beginning with row `first`; raises FormatError for another type or shape."""
        spec = TensorSpec(tensor.dtype, tuple(tensor.shape[1:]))
        if spec != self._specs[name]:
            raise FormatError(f"{name}: expected rows of {self._specs[name]}, got {spec}")
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        self._file.write(content.data, self._offsets[name] + first * self._specs[name].nbytes)

    def suspend(self) -> None:
        """See `AtomicFile.suspend`."""
        self._file.suspend()

    def commit(self) -> None:
        """See `AtomicFile.commit`."""
        self._file.commit()

    def discard(self) -> None:
        """See `AtomicFile.discard`."""
        self._file.discard()


def read_pack_index(path: Path) -> dict[str, tuple[int, int]]:
    """Read the rows of each model; raises FormatError where the file is missing, truncated or not a packed file."""
    try:
        with safe_open(path, "pt") as file:
            rows = json.loads((file.metadata() or {})["models"])
            return {str(model): (int(first), int(count)) for model, (first, count) in rows.items()}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"cannot read packed states {path}: {error}") from error


def read_pack(path: Path, first: int, count: int) -> dict[str, Tensor]:
    """Read `count` rows of every tensor, beginning with row `first`, and nothing else of the file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name)[first : first + count] for name in sorted(file.keys())}
    except (OSError, SafetensorError) as error:
        raise FormatError(f"cannot read packed states {path}: {error}") from error


def fill_from_pack(path: Path, first: int, layout: Layout, out: Tensor) -> bool:
    """Read states from consecutive rows of a packed file.

    Args:
        path: The packed file.
        first: The first row.
        layout: The layout of a state.
        out: A float32 tensor (E, P), filled row by row.

    Returns:
        False, with any content in `out`, where the file is not as expected.
    """
    try:
        with safe_open(path, "pt") as file:
            slots = layout.match_keys([key for key in sorted(file.keys()) if not key.startswith(f"{VARIATIONAL}.")])
            for key, slot in (slots or {}).items():
                rows = file.get_slice(key)[first : first + len(out)]
                if rows.shape != (len(out), *slot.shape) or rows.dtype is not torch.float32:
                    return False
                out[:, slot.start : slot.stop] = rows.reshape(len(out), -1)
    except (OSError, SafetensorError):
        return False
    return slots is not None


def merge_packs(target: Path, specs: Mapping[str, TensorSpec], sources: Mapping[str, Path]) -> None:
    """Put the states of several models into one file; memory holds at most one tensor of one model.

    Args:
        target: the file, which may be one of the sources.
        specs: type and shape of one row of each tensor, by name.
        sources: model_id -> the file that holds its states; the models keep this order.

    Raises:
        FormatError: a source cannot be read, or its tensors have other types or shapes.
    """
    indexes = {path: read_pack_index(path) for path in dict.fromkeys(sources.values())}
    merged: dict[str, tuple[int, int]] = {}
    total = 0
    for model, path in sources.items():
        merged[model] = (total, indexes[path][model][1])
        total += merged[model][1]
    file = PackedFile(target, specs, merged)
    try:
        with ExitStack() as stack:
            opened = {path: stack.enter_context(safe_open(path, "pt")) for path in indexes}
            for name in specs:
                for model, path in sources.items():
                    first, count = indexes[path][model]
                    file.write(name, merged[model][0], opened[path].get_slice(name)[first : first + count])
        file.commit()
    except SafetensorError as error:
        file.discard()
        raise FormatError(f"cannot read packed states {path}: {error}") from error
    except BaseException:
        file.discard()
        raise
