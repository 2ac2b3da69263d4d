"""Integrity of a dataset folder: every written state is read back, and every file has a checksum.

Each state in a file must have the hash that was recorded when it was trained. The checksums are in the format of
`sha256sum -c`.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from .._util import file_sha256
from ..errors import FormatError
from ..zoo import ByteRange, ZooFolder, flush_to_disk, hash_weights, read_state, write_bytes

CHECKSUMS_FILE = "checksums.sha256"
_UNLISTED = ("README.md", CHECKSUMS_FILE)  # users may edit the text of a card, also on the Hub
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
SubmitCheck = Callable[[Callable[[], None]], None]  # takes a check to run


@contextmanager
def run_checks() -> Iterator[SubmitCheck]:
    """Give a function that runs one check at a time in a thread, while the caller writes the next file.

    The function waits for the previous check, then starts the next one. A check that fails raises its error from the
    next call, or at the end of the `with` block.
    """
    future: Future[None] | None = None

    def submit(check: Callable[[], None]) -> None:
        nonlocal future
        if future is not None:
            future.result()
        future = pool.submit(check)

    with ThreadPoolExecutor(1) as pool:
        yield submit
        if future is not None:
            future.result()


def check_table(path: Path, rows: pd.DataFrame, zoo: ZooFolder) -> None:
    """Check that a Parquet file contains the weights of some rows.

    Args:
        path: The file, which is flushed to disk first.
        rows: The rows of the file in their order.
        zoo: The zoo that they come from.

    Raises:
        FormatError: A state differs from the trained one.
    """
    flush_to_disk(path)
    _check_hashes(path, rows, _hash_table(path), zoo)


def check_trajectory(path: Path, rows: pd.DataFrame, byte_ranges: Sequence[ByteRange], zoo: ZooFolder) -> None:
    """Check that a file of weights contains the states of some rows.

    Args:
        path: The file.
        rows: The rows of one model.
        byte_ranges: The place of each row's state in the file.
        zoo: The zoo that they come from.

    Raises:
        FormatError: A state differs from the trained one.
    """
    states = (read_state(path, byte_range.offset, byte_range.nbytes) for byte_range in byte_ranges)
    _check_hashes(path, rows, map(hash_weights, states), zoo)


def _hash_table(path: Path) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            (column,) = file.read_row_group(group, ["weights"], use_threads=False).columns
            for chunk in column.chunks:
                for state in chunk.flatten().to_numpy().reshape(len(chunk), -1):
                    yield hashlib.sha256(state).hexdigest()


def _check_hashes(path: Path, rows: pd.DataFrame, hashes: Iterator[str], zoo: ZooFolder) -> None:
    """Raise FormatError for the first wrong state, and tell whether the zoo or the written file is damaged."""
    columns = (rows[name].tolist() for name in ("model_id", "epoch", "sha256"))
    for model_id, epoch, recorded, sha256 in zip(*columns, hashes, strict=True):
        if sha256 == recorded:
            continue
        if hash_weights(zoo.weights(model_id, epoch)) != recorded:
            raise FormatError(
                f"state {model_id} epoch {epoch} of {zoo.path} differs from the state that was trained; "
                f"delete {zoo.states_path(model_id)} and run {zoo.maker} again"
            )
        raise FormatError(
            f"state {model_id} epoch {epoch} in {path.name} differs from what was written, which points to faulty "
            "memory or a faulty disk; run the same command again"
        )


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of every file of a dataset folder but its card and hidden files."""
    lines = [f"{file_sha256(folder / path)}  {path}\n" for path in list_data_files(folder)]
    write_bytes(folder / CHECKSUMS_FILE, "".join(lines).encode())


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the listed SHA-256 of each file of a dataset folder by path.

    Raises:
        FormatError: The list is missing or malformed.
    """
    path = folder / CHECKSUMS_FILE
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot read {path}: {error}") from error
    checksums = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise FormatError(f"{path}: expected lines of a SHA-256, two spaces and a path, got {line[:80]!r}")
        checksums[match[2]] = match[1]
    return checksums


def list_data_files(folder: Path) -> Iterator[str]:
    """Yield the paths of the files that the list of checksums covers, in its order."""
    for path in sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        if path.as_posix() not in _UNLISTED and not any(part.startswith(".") for part in path.parts):
            yield path.as_posix()
