"""Entries of the cache that hold one tensor, such as a measurement of training states, with the hash of its bytes."""

from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from ..errors import FormatError
from ..zoo import read_tensors, write_tensors
from .cached_shard import DamagedEntryError

_TENSOR, _HASH = "kept", "hashes"


def write_cached_tensor(path: Path, tensor: Tensor) -> None:
    """Put an entry in place whole; of two processes that write the same, the last one stays.

    Raises:
        OSError: The file cannot be written.
        DiskFullError: The disk is full.
    """
    write_tensors(path, {_TENSOR: tensor, _HASH: _hash_tensor(tensor)})


def read_cached_tensor(path: Path) -> Tensor:
    """Read an entry.

    Raises:
        FileNotFoundError: There is no such entry.
        DamagedEntryError: It is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        tensors = read_tensors(path)
        tensor, stored = tensors[_TENSOR], tensors[_HASH]
    except (FormatError, LookupError) as error:
        raise DamagedEntryError("it is no file of the cache") from error
    if not torch.equal(stored, _hash_tensor(tensor)):
        raise DamagedEntryError("its hash differs")
    return tensor


def _hash_tensor(tensor: Tensor) -> Tensor:
    """Return the hash of type, shape and numbers, (8,) uint8."""
    digest = xxhash.xxh3_64(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
