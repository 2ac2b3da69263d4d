"""Many states of one model at once, as fast as the disk gives them, where their files are as writers leave them.

Whatever is otherwise (a file is missing, cut short, has other tensors or numbers) is left to who reads states one by
one, says what is wrong or knows better. E states of a model, P numbers of a state.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..layout import Layout, Slot
from .folder import VARIATIONAL


def match(keys: Sequence[str], layout: Layout) -> dict[str, Slot] | None:
    """The slot of each of the keys of a state; None where there are more or fewer of them.

    Dropout shifts the numbers in the keys of the published CNNs, so tensors are matched by sorted layer number.
    """
    ordered = sorted(keys, key=_natural)
    slots = sorted(layout.slots, key=lambda slot: _natural(slot.name))
    return dict(zip(ordered, slots, strict=True)) if len(ordered) == len(slots) else None


def fill_from_files(folder: Path, names: Sequence[str], layout: Layout, out: Tensor) -> bool:
    """Put states from a file each into (E, P); False, and anything in `out`, where a file is not as expected."""
    try:
        whole = _read_equal(folder, names)
        size = 8 + int.from_bytes(whole[0, :8].tobytes(), "little")
        header = json.loads(whole[0, 8:size].tobytes())
    except (OSError, ValueError):
        return False
    header.pop("__metadata__", None)
    slots = match(list(header), layout)
    if slots is None or size % 4 or (whole[:, :size] != whole[0, :size]).any():
        return False
    if any(not _is(header[key], slot) for key, slot in slots.items()):
        return False
    numbers = whole[:, size:].view("<f4")
    if sum(slot.size for slot in slots.values()) != numbers.shape[1]:
        return False
    filled = out.numpy()
    for key, slot in slots.items():
        begin = header[key]["data_offsets"][0] // 4
        filled[:, slot.start : slot.stop] = numbers[:, begin : begin + slot.size]
    return True


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


def _is(entry: Mapping[str, object], slot: Slot) -> bool:
    """Whether a tensor in a header is float32 in the shape of a slot."""
    return entry["dtype"] == "F32" and entry["shape"] == list(slot.shape) and slot.dtype is torch.float32


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


def _natural(key: str) -> list[tuple[bool, int, str]]:
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in key.split(".")]
