"""Many states of one model at once, as fast as the disk gives them, where their files are as writers leave them.

Whatever is otherwise (a file is missing, cut short, has other tensors or numbers) is left to who reads states one by
one, says what is wrong or knows better. E states of a model, P numbers of a state.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .._util import natural_key
from ..weights import Layout, Slot
from .paths import VARIATIONAL


def match(keys: Sequence[str], layout: Layout) -> dict[str, Slot] | None:
    """The slot of each of the keys of a state; None where there are more or fewer of them.

    Dropout shifts the numbers in the keys of the published CNNs, so tensors are matched by sorted layer number.
    """
    ordered = sorted(keys, key=natural_key)
    slots = sorted(layout.slots, key=lambda slot: natural_key(slot.name))
    return dict(zip(ordered, slots, strict=True)) if len(ordered) == len(slots) else None


def fill_from_files(folder: Path, names: Sequence[str], layout: Layout, out: Tensor) -> bool:
    """Put states from a file each into (E, P); False, and anything in `out`, where a file is not as expected."""
    try:
        whole = _read_equal(folder, names)
        size = 8 + int.from_bytes(whole[0, :8].tobytes(), "little")
        if whole.shape[1] != size + 4 * layout.size or (whole[:, :size] != whole[0, :size]).any():
            return False
        header = json.loads(whole[0, 8:size].tobytes())
        begins = _begins({key: entry for key, entry in header.items() if key != "__metadata__"}, layout)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    filled, numbers = out.numpy(), whole[:, size:].view("<f4")
    for slot, begin in begins.items():
        filled[:, slot.start : slot.stop] = numbers[:, begin : begin + slot.size]
    return True


def _begins(header: Mapping[str, Mapping[str, Any]], layout: Layout) -> dict[Slot, int]:
    """Where each slot begins among the numbers of a file with this header; ValueError where they are no such state."""
    slots = match(list(header), layout)
    if slots is None or any(not _is(header[key], slot, layout.size) for key, slot in slots.items()):
        raise ValueError("a header of something else")
    return {slot: header[key]["data_offsets"][0] // 4 for key, slot in slots.items()}


def _read_equal(folder: Path, names: Sequence[str]) -> np.ndarray:
    """The content of files of equal length (E, bytes); ValueError where they are not."""
    whole, more = np.empty((len(names), (folder / names[0]).stat().st_size), np.uint8), bytearray(1)
    place = os.open(folder, os.O_RDONLY)
    try:
        for row, name in zip(whole, names, strict=True):
            file = os.open(name, os.O_RDONLY, dir_fd=place)  # a third of the time is spent on paths otherwise
            try:
                if os.readv(file, [row.data, more]) != len(row):
                    raise ValueError(name)
            finally:
                os.close(file)
    finally:
        os.close(place)
    return whole


def _is(entry: Mapping[str, Any], slot: Slot, numbers: int) -> bool:
    """Whether a tensor in a header is float32 in the shape of a slot, and lies among so many numbers."""
    begin, end = entry["data_offsets"]
    placed = begin >= 0 and begin % 4 == 0 and end - begin == 4 * slot.size and end <= 4 * numbers
    kinds = (entry["dtype"], slot.dtype)
    return bool(placed and kinds == ("F32", torch.float32) and entry["shape"] == list(slot.shape))


def fill_from_pack(path: Path, first: int, layout: Layout, out: Tensor) -> bool:
    """Put rows from `first` of a packed file into (E, P); False, and anything in `out`, where it is not as expected."""
    try:
        with safe_open(path, "pt") as file:
            slots = match([key for key in sorted(file.keys()) if not key.startswith(f"{VARIATIONAL}.")], layout)
            for key, slot in (slots or {}).items():
                rows = file.get_slice(key)[first : first + len(out)]
                if rows.shape != (len(out), *slot.shape) or rows.dtype is not torch.float32:
                    return False
                out[:, slot.start : slot.stop] = rows.reshape(len(out), -1)
    except (OSError, SafetensorError):
        return False
    return slots is not None
