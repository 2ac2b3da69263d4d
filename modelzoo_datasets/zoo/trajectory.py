"""Weights too big for a cell of a table: one safetensors file per trajectory, one state one stretch of its bytes.

The tensors of epoch 3 are called `003/<name>` and lie one behind the other in the order of the layout, all as float32.
So the bytes of a state are those of its weight vector, little-endian, and have the SHA-256 that its row records: who
knows where it begins reads or maps it alone, and `safetensors` opens the file like any other.

P numbers of a state, N states.
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
from .atomic_io import NewFile
from .packed import TensorSpec, header_of

_FILES_PER_FOLDER = 1_000  # of at most 10,000 that the Hub takes
_NUMBER = np.dtype("<f4")


@dataclass(frozen=True)
class ByteRange:
    """Where in the file of its trajectory a state lies."""

    key: str  # before the / in the names of its tensors, such as 003
    offset: int  # of its first byte in the file
    nbytes: int


def trajectory_files(config: str, split: str, models: Sequence[str]) -> dict[str, str]:
    """Model id -> its file in a dataset folder, of all models of a split in order; many are in folders of 1,000."""
    folder, many = f"weights/{config}/{split}", len(models) > _FILES_PER_FOLDER
    return {
        model: f"{folder}/{f'{place // _FILES_PER_FOLDER:03d}/' if many else ''}{model}.safetensors"
        for place, model in enumerate(models)
    }


def trajectory_header(layout: Layout, epochs: Sequence[int]) -> tuple[bytes, list[ByteRange]]:
    """The first bytes of the file of a trajectory, and where in it the states lie; the last one ends with the file."""
    keys = [f"{epoch:03d}" for epoch in epochs]
    kinds = {f"{key}/{slot.name}": TensorSpec(torch.float32, slot.shape) for key in keys for slot in layout.slots}
    header, begins = header_of(kinds, {})
    first, nbytes = layout.slots[0].name, _NUMBER.itemsize * layout.size
    return header, [ByteRange(key, begins[f"{key}/{first}"], nbytes) for key in keys]


def write_trajectory(path: Path, layout: Layout, epochs: Sequence[int], states: Iterable[Tensor]) -> list[ByteRange]:
    """Write the states (P,) of these epochs, whole or not at all; returns where each lies. Equal states, equal bytes.

    States are taken one by one: no more than one of them need be in memory.

    Raises:
        FormatError: a state has not P numbers, or there is not one of them for every epoch.
        DiskFullError: the disk is full.
    """
    header, places = trajectory_header(layout, epochs)
    file, written = NewFile(path), 0
    try:
        file.write(header)
        for state in states:
            if state.shape != (layout.size,):
                raise FormatError(f"{path}: expected states of {layout.size} numbers, got shape {tuple(state.shape)}")
            file.write(state.contiguous().numpy().astype(_NUMBER, copy=False).data.cast("B"))
            written += 1
        if written != len(places):
            raise FormatError(f"{path}: expected {len(places)} states, one for each epoch, got {written}")
        file.place()
    except BaseException:
        file.discard()
        raise
    return places


def read_state(path: Path, offset: int, nbytes: int) -> Tensor:
    """The state (P,) in these bytes, mapped: nothing is read before it is used, and what is written to it is not kept.

    Raises:
        FormatError: the file is missing, or too short to hold it.
    """
    try:
        _refuse_short(path, path.stat().st_size, offset, nbytes)
        mapped = np.memmap(path, _NUMBER, "c", offset, (nbytes // _NUMBER.itemsize,))
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror or error}") from error
    return torch.from_numpy(np.asarray(mapped))


def read_states(places: Sequence[tuple[Path, int, int]], out: Tensor) -> None:
    """Read states, given as (file, offset, nbytes), into the rows of `out`, a contiguous float32 tensor (N, P).

    Raises:
        FormatError: a file is missing or too short, or a state has not P numbers.
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
            raise FormatError(f"cannot read {path}: it changes meanwhile")
        rest = rest[count:]


def _refuse_short(path: Path, size: int, offset: int, nbytes: int) -> None:
    if size < offset + nbytes:
        raise FormatError(
            f"{path} is truncated: it has {size:,} bytes, and a state in it ends after {offset + nbytes:,} bytes"
        )
