"""Limits of what a file of somebody else may take, checked before memory is allocated for it.

Reading a source of S bytes takes at most `memory_limit(S)` bytes beyond those of the process itself. docs/formats.md
says what that means for each kind of file. This module imports neither torch nor pyarrow.
"""

from ..errors import FormatError

BASE_BYTES = 1_000_000_000  # any source may take as much
BYTES_PER_BYTE = 100  # and as much more for each of its bytes: the sparsest published weights compress to a fortieth
MAX_JSON_BYTES = 100_000_000  # zoo.json of 50,360 imported models has 6 MB
MAX_HEADER_BYTES = 100_000_000  # the library's own limit for a safetensors file
MAX_COLUMNS = 10_000  # for one table
MAX_CELL_BYTES = 10_000_000  # for one text in a table


def memory_limit(nbytes: int) -> int:
    """Return the bytes of memory that reading a source of so many bytes may take.

    Example:
        >>> from modelzoo_datasets.zoo import memory_limit
        >>> f"{memory_limit(20_000_000):,}"
        '3,000,000,000'
    """
    return BASE_BYTES + BYTES_PER_BYTE * nbytes


def check_memory(needed: int, nbytes: int, name: str) -> None:
    """Check that a source does not take more memory than its size allows.

    Args:
        needed: The bytes of memory that it would take.
        nbytes: Its size in bytes.
        name: Its name, for the message.

    Raises:
        FormatError: It would take more than `memory_limit`.
    """
    if needed > (limit := memory_limit(nbytes)):
        raise FormatError(
            f"{name} of {nbytes:,} bytes would take {needed:,} bytes of memory, more than the limit of {limit:,}; "
            "do not trust it, or get it again"
        )
