"""Xet storage for the Hub on loopback: the client's own, in a folder that both sides use.

The client that is given `local://FOLDER` as the address of the storage chunks, deduplicates and keeps files there. What
the Hub must know is which file each SHA-256 is; that is read from the shards the client leaves, as the Hub does.
"""

import struct
from pathlib import Path

_RECORD = 48  # bytes: of the header of a shard, and of everything in it
_VERIFIED, _HASHED = 1 << 31, 1 << 30  # flags of a file: further records follow


class XetStorage:
    """Stored files by the SHA-256 of their content."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.url = folder, f"local://{folder}"

    def hash_of(self, sha256: str) -> str:
        """Return the Xet hash of a file."""
        return self._hashes()[sha256]

    def holds(self, sha256: str) -> bool:
        """Return True if a file was uploaded."""
        return sha256 in self._hashes()

    def bytes(self) -> int:
        """Return the bytes of all stored chunks."""
        return sum(path.stat().st_size for path in self.folder.rglob("xorbs/xorbs/*") if path.suffix != ".tagset")

    def _hashes(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for shard in self.folder.rglob("xorbs/shards/*.mdb"):
            found |= _files_of(shard.read_bytes())
        return found


def _files_of(shard: bytes) -> dict[str, str]:
    """Return SHA-256 -> Xet hash of the files in a shard: a header, then a record, segments and SHA-256 per file."""
    files, at = {}, _RECORD
    while shard[at : at + 32] != b"\xff" * 32:
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        last = at + _RECORD * (segments * (2 if flags & _VERIFIED else 1) + (1 if flags & _HASHED else 0))
        if flags & _HASHED:
            files[_hex(shard[last : last + 32])] = _hex(shard[at : at + 32])
        at = last + _RECORD
    return files


def _hex(digest: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))
