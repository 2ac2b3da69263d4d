"""One decoded Parquet file of the cache: its table and its memory-mapped weights, checked before they are used.

n rows of P numbers.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from .._util import one_line
from ..zoo import SafetensorsHeader, TensorSpec, make_header
from .block_hashes import find_damage, hash_blocks, rows_per_block


class DamagedEntryError(Exception):
    """An entry of the cache is not what was written; raised before anything of it is used."""

    def __init__(self, reason: str, shard: "CachedShard | None" = None) -> None:
        super().__init__(reason)
        self.shard = shard  # the entry, if all but its weights is intact


@dataclass(frozen=True)
class CachedShard:
    """A decoded Parquet file, memory-mapped; copy rows out of it, because other processes may delete the file."""

    path: Path
    table: pa.Table  # all columns but the weights
    weights: np.ndarray  # (n, P) float32
    hashes: np.ndarray  # (blocks of weights,) uint64

    def check_rows(self, rows: np.ndarray) -> None:
        """Check the blocks of rows, given by ascending indices.

        Raises:
            DamagedEntryError: A block is damaged.
        """
        row_bytes = self.weights.shape[1] * self.weights.itemsize
        step = rows_per_block(row_bytes)
        blocks = np.unique(rows // step).tolist()
        block = find_damage(self.weights.data.cast("B"), step * row_bytes, self.hashes, blocks)
        if block is not None:
            last = min((block + 1) * step, len(self.weights)) - 1
            raise DamagedEntryError(f"the hash of states {block * step} to {last} differs", self)

    def check(self) -> None:
        """Check all rows; raises DamagedEntryError."""
        self.check_rows(np.arange(len(self.weights)))

    @classmethod
    def open(cls, path: Path) -> "CachedShard":
        """Map an entry and check everything but its weights.

        Raises:
            FileNotFoundError: There is no such entry.
            OSError: It cannot be read.
            DamagedEntryError: It is damaged.
        """
        try:
            with path.open("rb") as file:
                content = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            tensors = SafetensorsHeader.parse(memoryview(content)).tensors
            table, weights, hashes = tensors["table"], tensors["weights"], tensors["hashes"]
            stored = np.frombuffer(content[hashes.start : hashes.stop], "<u8")
            head = memoryview(content)[: weights.start]
            if hashes.stop != len(content) or hash_blocks(head, len(head))[0] != stored[0]:
                raise ValueError("its size or the hash of its table differs")
            numbers = np.frombuffer(content[weights.start : weights.stop], "<f4").reshape(weights.shape)
            rows = pa.ipc.open_stream(content[table.start : table.stop]).read_all()
            rows.validate()
            if len(rows) != len(numbers) or len(stored) != 1 + _count_blocks(*numbers.shape):
                raise ValueError("its numbers of rows differ")
        except OSError:
            raise
        except (ValueError, LookupError, TypeError, pa.ArrowException) as error:
            raise DamagedEntryError(one_line(error)) from error
        return cls(path, rows, numbers, stored[1:])


def _count_blocks(num_rows: int, num_parameters: int) -> int:
    return -(-num_rows // rows_per_block(4 * num_parameters))


def encode_head(identity: str, table: pa.Table, num_parameters: int) -> bytes:
    """Return the safetensors file up to the weights; the table and the weights begin at multiples of 64 bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    rows = sink.getvalue().to_pybytes()
    rows += bytes(-len(rows) % 64)  # readers of the stream stop at its end mark
    specs = {
        "table": TensorSpec(torch.uint8, (len(rows),)),
        "weights": TensorSpec(torch.float32, (len(table), num_parameters)),
        "hashes": TensorSpec(torch.uint8, (8 * (1 + _count_blocks(len(table), num_parameters)),)),
    }
    header, _ = make_header(specs, {"decoded from": identity}, alignment=64)
    return header + bytes(rows)
