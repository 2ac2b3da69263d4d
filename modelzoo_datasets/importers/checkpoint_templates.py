"""Read many checkpoints that differ in their numbers alone without unpickling each.

What `torch.save` writes of states of one network is the same byte for byte but for the numbers, their checksums and an
id. One file is read by the restricted unpickler; of every other that is equal to it outside of those places the numbers
are taken from the same places, after their checksums were compared. All others go through the unpickler themselves.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .checkpoints import read_checkpoint
from .skip_report import Skipped

_NUMBERS = re.compile(r".+/data/\d+")
_ID = re.compile(r".+/\.data/serialization_id")
_EXACT = 2**24  # below, every integer is a float32
_ATTEMPTS = 10  # files that may turn out to be no template
_DESCRIBED = 0x08  # bit of a zip member whose checksum stands behind its content too
Span = tuple[int, int]  # first byte, byte behind the last


class CheckpointReader:
    """Reads checkpoints, those that look alike quickly."""

    def __init__(self) -> None:
        self._template: _Template | None = None
        self._attempts = 0

    def read(self, content: bytes) -> dict[str, Tensor]:
        """As `read_checkpoint`, with its errors."""
        if self._template is not None and (known := self._template.state(content)) is not None:
            return known
        state = read_checkpoint(content)
        if self._template is None and self._attempts < _ATTEMPTS:
            self._attempts += 1
            self._template = _learn(content, state)
        return state


@dataclass(frozen=True)
class _Template:
    size: int  # bytes
    fixed: tuple[tuple[Span, bytes], ...]  # what must be the same
    sums: tuple[tuple[Span, int], ...]  # content -> where its checksum stands in the list of members
    tensors: Mapping[str, tuple[int, tuple[int, ...]]]  # name -> offset, shape; float32

    def state(self, content: bytes) -> dict[str, Tensor] | None:
        """The state in a file that looks like the template; None for any other."""
        if len(content) != self.size or any(content[a:b] != same for (a, b), same in self.fixed):
            return None
        for (a, b), place in self.sums:
            if zlib.crc32(content[a:b]) != int.from_bytes(content[place : place + 4], "little"):
                return None  # the unpickler says what is wrong
        numbers = bytearray(content)
        return {
            name: torch.frombuffer(numbers, dtype=torch.float32, count=_count(shape), offset=offset).reshape(shape)
            for name, (offset, shape) in self.tensors.items()
        }


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _learn(content: bytes, state: Mapping[str, Tensor]) -> _Template | None:
    """The template of a file that was read; None where its numbers are not float32 in places of their own."""
    if not all(tensor.dtype is torch.float32 and tensor.numel() for tensor in state.values()):
        return None
    try:
        members = list(_members(content))
    except (zipfile.BadZipFile, ValueError):
        return None
    numbered = [member for member in members if _NUMBERS.fullmatch(member.name)]
    places = _places(content, numbered, state)
    if places is None or any(member.compressed for member in members):
        return None
    changing = [member for member in members if member in numbered or _ID.fullmatch(member.name)]
    spans = sorted(span for member in changing for span in (member.span, *member.sums))
    return _Template(
        size=len(content),
        fixed=tuple((span, content[slice(*span)]) for span in _between(spans, len(content))),
        sums=tuple((member.span, member.sums[-1][0]) for member in changing),
        tensors=places,
    )


def _between(spans: list[Span], end: int) -> Iterator[Span]:
    begin = 0
    for first, behind in spans:
        yield begin, first
        begin = behind
    yield begin, end


@dataclass(frozen=True)
class _Member:
    name: str
    span: Span  # of its content
    sums: tuple[Span, ...]  # where its checksum stands, the one in the list of members last
    compressed: bool


def _members(content: bytes) -> Iterator[_Member]:
    """The members of a zip and where their parts stand; raises BadZipFile or ValueError for what is none."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = archive.start_dir
        for info in archive.infolist():
            names, extra, comment = (int.from_bytes(content[entry + i : entry + i + 2], "little") for i in (28, 30, 32))
            header = info.header_offset
            skipped = sum(int.from_bytes(content[header + i : header + i + 2], "little") for i in (26, 28))
            first = header + 30 + skipped
            sums = [(header + 14, header + 18)]
            if info.flag_bits & _DESCRIBED:
                behind = first + info.file_size + 4 * (content[first + info.file_size :][:4] == b"PK\x07\x08")
                sums.append((behind, behind + 4))
            sums.append((entry + 16, entry + 20))
            span = (first, first + info.file_size)
            yield _Member(info.filename, span, tuple(sums), info.compress_type != zipfile.ZIP_STORED)
            entry += 46 + names + extra + comment


def _places(
    content: bytes, numbered: list[_Member], state: Mapping[str, Tensor]
) -> dict[str, tuple[int, tuple[int, ...]]] | None:
    """Where the numbers of every tensor stand: found by reading the same file with its numbers counted through."""
    counts = {member.name: (member.span[1] - member.span[0]) // 4 for member in numbered}
    if sum(counts.values()) >= _EXACT or sum(counts.values()) != sum(tensor.numel() for tensor in state.values()):
        return None
    counted, offsets, begin = io.BytesIO(), dict[int, int](), 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(counted, "w") as copy:
        spans = {member.name: member.span for member in numbered}
        for info in archive.infolist():
            if info.filename in counts:
                numbers = torch.arange(begin, begin + counts[info.filename], dtype=torch.float32)
                copy.writestr(info.filename, numbers.numpy().tobytes())
                offsets[begin] = spans[info.filename][0]
                begin += counts[info.filename]
            else:
                copy.writestr(info.filename, archive.read(info))
    try:
        found = read_checkpoint(counted.getvalue())
    except Skipped:
        return None
    places = {}
    for name, tensor in found.items():
        first = int(tensor.flatten()[0])
        expected = torch.arange(first, first + tensor.numel(), dtype=torch.float32)
        if first not in offsets or not torch.equal(tensor.flatten(), expected):
            return None
        places[name] = (offsets[first], tuple(tensor.shape))
    return places if places.keys() == state.keys() else None
