"""Weights that are too large for a cell of a table: one safetensors file per trajectory, one byte range per state.

The tensors of epoch 3 are named `003/<name>` and follow each other in the order of the layout, all as float32. So the
bytes of a state are those of its weight vector, little-endian, and have the SHA-256 that its row records. A reader that
knows the byte range reads or maps one state alone, and `safetensors` opens the file like any other.

P is the number of numbers in a state, N that of states.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import FormatError
from ..weights import Layout
from .atomic_io import AtomicFile
from .safetensors_io import TensorSpec, make_header

_FILES_PER_FOLDER = 1_000  # the Hub takes at most 10,000
_NUMBER = np.dtype("<f4")


@dataclass(frozen=True)
class ByteRange:
    """The bytes of one state in the file of its trajectory."""

    key: str  # prefix of the names of its tensors, such as 003
    offset: int  # first byte in the file
    nbytes: int


def assign_trajectory_files(config: str, split: str, models: Sequence[str]) -> dict[str, str]:
    """Name the file of each model of a split; more than 1,000 files go into numbered folders of 1,000.

    Args:
        config: The config of the dataset.
        split: The split.
        models: The ids of all models of the split, in their order.

    Returns:
        Model id -> path in the dataset folder.
    """
    folder, is_nested = f"weights/{config}/{split}", len(models) > _FILES_PER_FOLDER
    return {
        model: f"{folder}/{f'{place // _FILES_PER_FOLDER:03d}/' if is_nested else ''}{model}.safetensors"
        for place, model in enumerate(models)
    }


def make_trajectory_header(layout: Layout, epochs: Sequence[int]) -> tuple[bytes, list[ByteRange]]:
    """Make the first bytes of the file of a trajectory.

    Args:
        layout: The layout of a state.
        epochs: The epochs of the states, in the order of the file.

    Returns:
        The bytes, and the byte range of each state; the last range ends with the file.
    """
    keys = [f"{epoch:03d}" for epoch in epochs]
    specs = {f"{key}/{slot.name}": TensorSpec(torch.float32, slot.shape) for key in keys for slot in layout.slots}
    header, starts = make_header(specs, {})
    first, nbytes = layout.slots[0].name, _NUMBER.itemsize * layout.size
    return header, [ByteRange(key, starts[f"{key}/{first}"], nbytes) for key in keys]


def write_trajectory(path: Path, layout: Layout, epochs: Sequence[int], states: Iterable[Tensor]) -> list[ByteRange]:
    """Write the states of one model, whole or not at all. Equal states give equal bytes.

    Args:
        path: The file.
        layout: The layout of a state.
        epochs: The epochs of the states.
        states: Weights (P,), consumed one by one: memory need not hold more than one of them.

    Returns:
        The byte range of each state.

    Raises:
        FormatError: A state does not have P numbers, or the numbers of states and epochs differ.
        DiskFullError: The disk is full.
    """
    header, ranges = make_trajectory_header(layout, epochs)
    file, count = AtomicFile(path), 0
    try:
        file.write(header)
        for state in states:
            if state.shape != (layout.size,):
                raise FormatError(f"{path}: expected states of {layout.size} numbers, got shape {tuple(state.shape)}")
            file.write(state.contiguous().numpy().astype(_NUMBER, copy=False).data.cast("B"))
            count += 1
        if count != len(ranges):
            raise FormatError(f"{path}: expected {len(ranges)} states, one for each epoch, got {count}")
        file.commit()
    except BaseException:
        file.discard()
        raise
    return ranges


def read_state(path: Path, offset: int, nbytes: int) -> Tensor:
    """Map the bytes of one state: they are read when they are used, and writing to the tensor does not change the file.

    Args:
        path: The file of the trajectory.
        offset: The first byte of the state.
        nbytes: The size of the state in bytes.

    Returns:
        Weights (P,).

    Raises:
        FormatError: The file is missing or too short.
    """
    try:
        _refuse_short(path, path.stat().st_size, offset, nbytes)
        mapped = np.memmap(path, _NUMBER, "c", offset, (nbytes // _NUMBER.itemsize,))
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror or error}") from error
    return torch.from_numpy(np.asarray(mapped))


def read_states(places: Sequence[tuple[Path, int, int]], out: Tensor) -> None:
    """Read states into the rows of a tensor.

    Args:
        places: The file, the first byte and the size in bytes of each of the N states.
        out: A contiguous float32 tensor (N, P).

    Raises:
        ValueError: `out` is another kind of tensor.
        FormatError: A file is missing or too short, or a state does not have P numbers.
    """
    if len(places) != len(out) or out.dtype is not torch.float32 or not out.is_contiguous():
        raise ValueError(f"expected a contiguous float32 tensor of {len(places)} rows, got {out.dtype} {out.shape}")
    rows = out.numpy().view(_NUMBER)
    for path, stretch in groupby(enumerate(places), key=lambda numbered: numbered[1][0]):
        try:
            with path.open("rb", buffering=0) as file:
                for row, (_, offset, nbytes) in stretch:
                    if nbytes != rows[row].nbytes:
                        raise FormatError(f"{path}: expected states of {rows[row].nbytes} bytes, got {nbytes}")
                    file.seek(offset)
                    _fill(file, memoryview(rows[row]).cast("B"), path, offset)
        except OSError as error:
            raise FormatError(f"cannot read {path}: {error.strerror or error}") from error


def _fill(file: FileIO, row: memoryview, path: Path, offset: int) -> None:
    rest = row
    while rest:
        if not (count := file.readinto(rest)):
            _refuse_short(path, path.stat().st_size, offset, len(row))
            raise FormatError(f"cannot read {path}: another process is changing it")
        rest = rest[count:]


def _refuse_short(path: Path, size: int, offset: int, nbytes: int) -> None:
    if size < offset + nbytes:
        raise FormatError(
            f"{path} is truncated: it has {size:,} bytes, and a state in it ends after {offset + nbytes:,} bytes"
        )
