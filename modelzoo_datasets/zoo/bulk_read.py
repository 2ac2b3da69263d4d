"""Read many states of one model at the speed of the disk, from files that look exactly as this package writes them.

In any other case (a file is missing or truncated, or has other tensors) nothing is read here: the caller then reads
states one by one, which is slower and reports the problem. E is the number of states, P that of the numbers of one.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .._util import natural_key
from ..weights import Layout, Slot
from .paths import VARIATIONAL
from .safetensors_header import SafetensorsHeader, TensorEntry, header_size


def match_slots(keys: Sequence[str], layout: Layout) -> dict[str, Slot] | None:
    """Return the slot of each key of a state dict; None where the numbers of keys and slots differ.

    Dropout shifts the layer numbers in the keys of the published CNNs, so keys match slots in the order of the numbers.
    """
    ordered = sorted(keys, key=natural_key)
    slots = sorted(layout.slots, key=lambda slot: natural_key(slot.name))
    return dict(zip(ordered, slots, strict=True)) if len(ordered) == len(slots) else None


def fill_from_files(folder: Path, names: Sequence[str], layout: Layout, out: Tensor) -> bool:
    """Read states from one file each.

    Args:
        folder: The folder of the files.
        names: The names of the E files.
        layout: The layout of a state.
        out: A float32 tensor (E, P), filled row by row.

    Returns:
        False, with any content in `out`, where a file is not as expected.
    """
    try:
        whole = _read_equal(folder, names)
        size = header_size(whole[0, :8].tobytes())
        if whole.shape[1] != size + 4 * layout.size or (whole[:, :size] != whole[0, :size]).any():
            return False
        starts = _slot_starts(SafetensorsHeader.parse(whole[0, :size].tobytes()), layout)
    except (OSError, ValueError):
        return False
    filled, numbers = out.numpy(), whole[:, size:].view("<f4")
    for slot, start in starts.items():
        filled[:, slot.start : slot.stop] = numbers[:, start : start + slot.size]
    return True


def _slot_starts(header: SafetensorsHeader, layout: Layout) -> dict[Slot, int]:
    """Return the index of the first number of each slot in the file; raises ValueError for any other state."""
    slots, tensors = match_slots(list(header.tensors), layout), header.tensors
    if slots is None or any(not _is_slot(tensors[key], slot, header, layout) for key, slot in slots.items()):
        raise ValueError("the tensors are not those of the layout")
    return {slot: (tensors[key].start - header.size) // 4 for key, slot in slots.items()}


def _read_equal(folder: Path, names: Sequence[str]) -> np.ndarray:
    """Read files of equal size into an array (E, bytes); raises ValueError where the sizes differ."""
    whole, extra = np.empty((len(names), (folder / names[0]).stat().st_size), np.uint8), bytearray(1)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for row, name in zip(whole, names, strict=True):
            file = os.open(name, os.O_RDONLY, dir_fd=descriptor)  # full paths would cost a third of the time
            try:
                if os.readv(file, [row.data, extra]) != len(row):
                    raise ValueError(name)
            finally:
                os.close(file)
    finally:
        os.close(descriptor)
    return whole


def _is_slot(entry: TensorEntry, slot: Slot, header: SafetensorsHeader, layout: Layout) -> bool:
    """Return whether a tensor is float32, has the shape of a slot and lies within the numbers of the file."""
    begin, end = entry.start - header.size, entry.stop - header.size
    is_placed = begin >= 0 and begin % 4 == 0 and end - begin == 4 * slot.size and end <= 4 * layout.size
    return is_placed and (entry.dtype, slot.dtype) == ("F32", torch.float32) and entry.shape == slot.shape


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
            slots = match_slots([key for key in sorted(file.keys()) if not key.startswith(f"{VARIATIONAL}.")], layout)
            for key, slot in (slots or {}).items():
                rows = file.get_slice(key)[first : first + len(out)]
                if rows.shape != (len(out), *slot.shape) or rows.dtype is not torch.float32:
                    return False
                out[:, slot.start : slot.stop] = rows.reshape(len(out), -1)
    except (OSError, SafetensorError):
        return False
    return slots is not None
