"""Independent random streams, each keyed by a seed and its purpose.

Global generators are never used. A new use of randomness therefore cannot change an old one, and a model draws the same
numbers alone, in any cohort and after any resume.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = str | int


def derive_seed(seed: int, *purpose: Key) -> int:
    """Return a 63-bit integer that depends only on the seed and the purpose, by SHA-256."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def keyed_generator(seed: int, *purpose: Key) -> torch.Generator:
    """Return a CPU generator for one purpose, e.g. `keyed_generator(model_seed, "order", epoch)`."""
    import torch  # here, so that recipes and every --help need no torch

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
