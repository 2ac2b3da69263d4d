"""What every sampling asks of the same training states, kept: their alignment, and which test images each gets wrong.

Kept beside decoded weights, in the folder that MODELZOO_CACHE names and within MODELZOO_CACHE_BYTES, under the hash of
all that decides it: the states and images themselves, the hyper-representation, the engine, this machine's vector
instructions, and the versions of what computes. Whatever is read is what would be measured again, to the bit.

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
    """A source whose states are aligned once, whoever asks."""

    hyperrep_sha256: str  # of its model.safetensors

    @cached_property
    def key(self) -> dict[str, str]:
        """What decides the alignment."""
        weights = np.ascontiguousarray(self.states.weights.numpy())
        return {"hyperrep": self.hyperrep_sha256, "states": hashlib.sha256(weights.data).hexdigest()}

    @cached_property
    def aligned(self) -> Tensor:
        """All training states (S, P), aligned."""
        return kept({"what": "aligned", **self.key}, lambda: self.rep.align(self.states.weights))


@dataclass(frozen=True, kw_only=True)
class CachedEvaluator(Evaluator):
    """A bench whose training states are run on the test images once, whoever asks."""

    key: Mapping[str, str]  # of the training states

    @cached_property
    def train_errors(self) -> Tensor:
        """Whether each training state is wrong on each test image, (S, B) bool."""
        engine = self.engine.resolve(self.architecture).name
        key = {"what": "errors", **self.key, "images": self.images.fingerprint, "engine": engine}
        packed = kept(key, lambda: torch.from_numpy(np.packbits(self._measured().numpy(), axis=1)))
        wrong = np.unpackbits(packed.numpy(), axis=1, count=len(self.images.labels("test")))
        return torch.from_numpy(wrong.astype(bool))

    def _measured(self) -> Tensor:
        return super().train_errors


def kept(key: Mapping[str, str], measure: Callable[[], Tensor]) -> Tensor:
    """What was measured under a key before, or is now; where it cannot be kept it is measured each time.

    Raises:
        FormatError: MODELZOO_CACHE_BYTES is not a number of bytes.
    """
    if not max_cache_bytes():
        return measure()
    computing = versions()
    computing["instructions"] = torch.backends.cpu.get_cpu_capability()
    digest = hashlib.sha256(json.dumps({**key, **computing}, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / f"{digest[:32]}.safetensors"
    with contextlib.suppress(FormatError, LookupError, OSError):
        found = read_tensors(path)["kept"]
        os.utime(path)  # what was used longest ago goes first
        return found
    measured = measure()
    with contextlib.suppress(OSError, DiskFullError):
        if make_room(measured.nbytes):
            # Two processes may be at it: each writes a file of its own, and the last one stays.
            own = path.with_name(f"{path.stem}-{uuid.uuid4().hex}")
            write_tensors(own, {"kept": measured})
            own.replace(path)
    return measured
