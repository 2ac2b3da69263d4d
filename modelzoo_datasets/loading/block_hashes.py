"""Hashes of cached numbers: every block of 64 KB has one, which is compared before a number of the block is used.

XXH3 finds what disks and memory do to files by accident, at the speed of memory. It protects from nobody who can write
to the cache; that is what `is_private` is for.
"""

from collections.abc import Iterable

import numpy as np
import xxhash

BLOCK_BYTES = 65_536


def rows_per_block(row_bytes: int) -> int:
    """Return the number of rows of a block: as many as fit, at least one."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def hash_blocks(content: memoryview, block_bytes: int) -> np.ndarray:
    """Return the hash of every block, (blocks,) uint64; the last block may be smaller.

    Args:
        content: The bytes of all blocks.
        block_bytes: The size of a block.
    """
    starts = range(0, len(content), block_bytes)
    return np.array([xxhash.xxh3_64_intdigest(content[i : i + block_bytes]) for i in starts], "<u8")


def find_damage(content: memoryview, block_bytes: int, hashes: np.ndarray, blocks: Iterable[int]) -> int | None:
    """Return the first of some blocks whose hash differs; None if all are intact.

    Args:
        content: The bytes of all blocks.
        block_bytes: The size of a block.
        hashes: The hash of every block, (blocks,) uint64.
        blocks: The numbers of the blocks to check.
    """
    digest = xxhash.xxh3_64_intdigest
    for i in blocks:
        if digest(content[i * block_bytes : (i + 1) * block_bytes]) != hashes[i]:
            return i
    return None
