"""Independent random streams, each keyed by a seed and its purpose.

Global generators are never used. A new use of randomness therefore cannot change an old one, and a model draws the same
numbers alone, in any cohort and after any resume.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from .errors import ArgumentError

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


def choose_generator(generator: torch.Generator | None, seed: int | None, *purpose: Key) -> torch.Generator:
    """Return the generator that a caller passes, or the keyed one of the seed that it passes; of seed 0 by default.

    Args:
        generator: A generator, or None.
        seed: A seed, or None.
        *purpose: The purpose of the randomness, as for `keyed_generator`.

    Raises:
        ArgumentError: Both are given.
    """
    if generator is not None and seed is not None:
        raise ArgumentError(f"pass generator or seed, not both; got a generator and seed {seed}")
    return keyed_generator(seed or 0, *purpose) if generator is None else generator
