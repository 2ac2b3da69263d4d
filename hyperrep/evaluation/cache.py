"""The cache of evaluation: aligned training states, and what networks answer to images, which every call needs.

Cached files lie beside decoded weights, in the folder that MODELZOO_CACHE names and within MODELZOO_CACHE_BYTES. The
key is a hash of everything that decides the result: weights, alignment, network, images, engine and its environment
(GPU, kernel), vector instructions of this machine, and library versions. A cached result equals a new measurement to
the bit. Its bytes have a hash, and a damaged file is measured again with a line.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from modelzoo_datasets._util import versions
from modelzoo_datasets.errors import DiskFullError
from modelzoo_datasets.loading import (
    DamagedEntryError,
    cache_folder,
    is_cache_used,
    make_room,
    read_cached_tensor,
    remove_damaged,
    write_cached_tensor,
)


def read_or_measure(what: str, key: Mapping[str, str], measure: Callable[[], Tensor]) -> Tensor:
    """Return the cached result of a key, or measure and cache it.

    Args:
        what: kind of the measurement.
        key: everything that decides the result; empty for a result that is not cached.
        measure: makes the result; without room in the cache it is called each time.

    Raises:
        ArgumentError: MODELZOO_CACHE_BYTES is not a number of bytes.
    """
    if not key or not is_cache_used():
        return measure()
    environment = {**versions(), "instructions": torch.backends.cpu.get_cpu_capability()}
    text = json.dumps({"what": what, "format": "tensor and hash", **key, **environment}, sort_keys=True)
    path = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
    try:
        cached = read_cached_tensor(path)
        os.utime(path)  # the least recently used file is removed first
        return cached
    except DamagedEntryError as error:
        remove_damaged(path, error)
    except OSError:
        pass
    result = measure()
    with contextlib.suppress(OSError, DiskFullError):
        if make_room(result.nbytes):
            write_cached_tensor(path, result)
    return result
