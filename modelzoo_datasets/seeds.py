"""Independent random streams, each keyed by a seed and what it is for.

No global generator is ever touched: a new use of randomness cannot move an old one, and a model draws the same numbers
alone, in any cohort and after any resume.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = str | int


def derive_seed(seed: int, *purpose: Key) -> int:
    """A 63-bit integer that depends on the seed and the purpose alone (SHA-256 of both)."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def keyed_generator(seed: int, *purpose: Key) -> torch.Generator:
    """A CPU generator for one purpose, e.g. `generator(model_seed, "order", epoch)`."""
    import torch  # here, so that recipes, and with them every --help, need not wait for it

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
