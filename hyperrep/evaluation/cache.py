"""The cache of sampling: measurements of the training states that every call needs, aligned weights and errors.

Cached files lie beside decoded weights, in the folder that MODELZOO_CACHE names and within MODELZOO_CACHE_BYTES. The
key is a hash of everything that decides the result: states, images, hyper-representation, engine, vector instructions
of this machine, and library versions. A cached result equals a new measurement to the bit.

S training states, B test images, P weights.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from modelzoo_datasets._util import versions
from modelzoo_datasets.errors import DiskFullError, FormatError
from modelzoo_datasets.loading import cache_folder, make_room, max_cache_bytes
from modelzoo_datasets.zoo import read_tensors, write_tensors

from .baselines import SamplingContext
from .metrics import Evaluator


@dataclass(frozen=True, kw_only=True)
class CachedSamplingContext(SamplingContext):
    """A context that aligns its states once, for all processes."""

    hyperrep_sha256: str  # hash of its model.safetensors

    @cached_property
    def key(self) -> dict[str, str]:
        """The parts of the key that decide the alignment."""
        weights = np.ascontiguousarray(self.states.weights.numpy())
        return {"hyperrep": self.hyperrep_sha256, "states": hashlib.sha256(weights.data).hexdigest()}

    @cached_property
    def train_weights(self) -> Tensor:
        """(S, P) aligned weights of all training states."""
        return read_or_measure({"what": "aligned", **self.key}, lambda: self.rep.align(self.states.weights))


@dataclass(frozen=True, kw_only=True)
class CachedEvaluator(Evaluator):
    """An evaluator that runs the training states on the test images once, for all processes."""

    key: Mapping[str, str]  # identifies the aligned training states

    @cached_property
    def train_errors(self) -> Tensor:
        """(S, B) bool: is this training state wrong on this test image?"""
        engine = self.engine.resolve(self.architecture).name
        key = {"what": "errors", **self.key, "images": self.images.fingerprint, "engine": engine}
        packed = read_or_measure(key, lambda: torch.from_numpy(np.packbits(self._measure_errors().numpy(), axis=1)))
        wrong = np.unpackbits(packed.numpy(), axis=1, count=len(self.images.labels("test")))
        return torch.from_numpy(wrong.astype(bool))

    def _measure_errors(self) -> Tensor:
        return super().train_errors


def read_or_measure(key: Mapping[str, str], measure: Callable[[], Tensor]) -> Tensor:
    """Return the cached result of a key, or measure and cache it; without room it is measured each time.

    Raises:
        FormatError: MODELZOO_CACHE_BYTES is not a number of bytes.
    """
    if not max_cache_bytes():
        return measure()
    environment = versions()
    environment["instructions"] = torch.backends.cpu.get_cpu_capability()
    digest = hashlib.sha256(json.dumps({**key, **environment}, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / f"{digest[:32]}.safetensors"
    with contextlib.suppress(FormatError, LookupError, OSError):
        cached = read_tensors(path)["kept"]
        os.utime(path)  # the least recently used file is removed first
        return cached
    result = measure()
    with contextlib.suppress(OSError, DiskFullError):
        if make_room(result.nbytes):
            # Two processes may measure the same: each writes its own file, and the last one stays.
            own = path.with_name(f"{path.stem}-{uuid.uuid4().hex}")
            write_tensors(own, {"kept": result})
            own.replace(path)
    return result
