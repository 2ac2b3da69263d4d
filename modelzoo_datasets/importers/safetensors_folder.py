"""Format `safetensors`: a population of any torch module: a state dict per file, and one table that names the files.

Of one architecture, which need not be known here: its layout is that of the tensors. Files have lost the order of the
module, so the layout sorts them: modules by the numbers in their names, of each module weights, then biases, then the
rest; statistics of normalisations and whole numbers are buffers and come last.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError

from .._util import natural_key, one_line
from ..architectures import Architecture, architecture_from_layout, architecture_names, get_architecture
from ..errors import FormatError
from ..images import image_dataset_names
from ..progress import Progress
from ..weights import Layout, Slot
from ..zoo import SafetensorsHeader, read_header_bytes
from .archives import Source, is_litter
from .base import ImportedModel, ImportedState, Overrides
from .naming import check_images, named
from .skip_report import Skipped, SkipReport
from .state_table import read_state_table

_UNKNOWN = "unknown"  # images
_TYPES = {"F32": torch.float32, "I64": torch.int64}
_BUFFERS = ("running_mean", "running_var")
_LARGEST_HEADER = 100_000_000  # bytes

Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class SafetensorsFolder:
    """See `Collection`."""

    def __init__(self, source: Source, claims: Overrides, progress: Progress) -> None:
        """Read the table, and the header of every file.

        Raises:
            FormatError: the table is no such table, files and rows do not go together, or files are of several kinds.
            RecipeError: what was claimed does not exist.
        """
        inside = f"{claims.inside.strip('/')}/" if claims.inside else _only_folder(source)
        self.source, self.refusals, self._from = source.name, SkipReport(), source
        table = read_state_table(source, inside)
        self.models: Sequence[ImportedModel] = [_listed(model) for model in table.models]
        self._files = table.files
        layout = _layout(_common(source, [file for files in table.files for file in files.values()], inside, progress))
        self.architecture = _architecture(claims.architecture, layout)
        images = claims.images or _UNKNOWN
        if self.architecture.tensors is None and images in image_dataset_names():
            check_images(images, self.architecture)
        name = claims.name or f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', source.name).strip('-.') or 'population'}/zoo"
        self.identity = named(name, images, columns=table.columns, measured=table.measured)

    def states(self, chosen: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        """See `Collection`."""
        wanted = [list(self._files[index].values()) for index in chosen]
        for place, contents in self._from.groups(wanted):
            index, states = chosen[place], []
            for epoch, path in self._files[index].items():
                try:
                    states.append(ImportedState(epoch, self._packed(contents[path])))
                except Skipped as reason:
                    self.refusals.add(f"state that {reason}", path)
            yield index, states

    def _packed(self, content: bytes | Skipped) -> torch.Tensor:
        if isinstance(content, Skipped):
            raise content
        try:
            return self.architecture.layout.pack(safetensors.torch.load(content))
        except (SafetensorError, FormatError) as error:
            raise Skipped(f"is damaged: {one_line(error)}") from error


def _only_folder(source: Source) -> str:
    """The folder that all lies in, as archives of a folder have one, ending in /; empty where there is none."""
    common = os.path.commonpath([path.rpartition("/")[0] for path in source.sizes if not is_litter(path)] or [""])
    return f"{common}/" if common else ""


def _listed(model: ImportedModel) -> ImportedModel:
    """With its name among its columns, since ids are ours."""
    return dataclasses.replace(model, more={"origin": model.origin, **model.more})


def _common(source: Source, files: Sequence[str], inside: str, progress: Progress) -> Shapes:
    """The tensors that all files have; raises FormatError for the first that has others."""
    first: tuple[str, Shapes] | None = None
    with progress.start(f"looking into {source.name}", len(files)) as task:
        for path, header in source.looked_into(files, _header):
            name = path.removeprefix(inside)
            shapes = _shapes(header, name, source.name)
            if first is None:
                first = name, shapes
            elif what := _difference(shapes, first[1]):
                raise FormatError(
                    f"{source.name} mixes architectures: {name} {what} {first[0]}; import each architecture from a "
                    "folder and table of its own"
                )
            task.update()
    assert first is not None  # a table has rows
    return first[1]


def _header(file: BinaryIO) -> bytes:
    """Read the header of a safetensors file; raises Skipped where the file cannot be one."""
    try:
        return read_header_bytes(file, _LARGEST_HEADER)
    except ValueError as error:
        raise Skipped(f"is no safetensors file ({error})") from error


def _shapes(header: bytes | Skipped, name: str, source: str) -> Shapes:
    """Names, types and shapes of the tensors of a file; raises FormatError."""
    if isinstance(header, Skipped):
        raise FormatError(f"{name} of {source} {header}; write it again") from header
    try:
        entries = SafetensorsHeader.parse(header).tensors
    except ValueError as error:
        raise FormatError(f"{name} of {source} is no safetensors file ({error}); write it again") from error
    tensors = {key: (entry.dtype, entry.shape) for key, entry in entries.items()}
    if not tensors:
        raise FormatError(f"{name} of {source} holds no tensors; write it again")
    for key, (dtype, _) in tensors.items():
        if dtype not in _TYPES:
            raise FormatError(
                f"{name} of {source}: {key} is {dtype}, states are kept as F32, whole numbers as I64; convert "
                "it, for example with tensor.float()"
            )
    return {key: (_TYPES[dtype], shape) for key, (dtype, shape) in tensors.items()}


def _difference(shapes: Shapes, first: Shapes) -> str | None:
    """In what a file differs from the first one, as the middle of a sentence."""
    for name in sorted(first.keys() | shapes.keys(), key=_natural):
        if name not in shapes:
            return f"has no {name}, unlike"
        if name not in first:
            return f"has {name}, unlike"
        if shapes[name] != first[name]:
            return f"has {name} of {_words(shapes[name])}, not {_words(first[name])} as"
    return None


def _words(kind: tuple[torch.dtype, tuple[int, ...]]) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {kind[1]}"


def _layout(shapes: Shapes) -> Layout:
    """See the head of this file."""
    slots: list[Slot] = []
    names = sorted(shapes, key=lambda name: (_is_buffer(name, shapes), _natural(name)))
    for name in names:
        dtype, shape = shapes[name]
        slots.append(Slot(name, shape, slots[-1].stop if slots else 0, _is_buffer(name, shapes), dtype))
    return Layout(tuple(slots))


def _is_buffer(name: str, shapes: Shapes) -> bool:
    return name.rpartition(".")[2] in _BUFFERS or not shapes[name][0].is_floating_point


def _natural(name: str) -> tuple[Any, ...]:
    """Modules with numbers as numbers; of each its weights first, then its biases."""
    module, _, last = name.rpartition(".")
    kind = next((place for place, word in enumerate(("weight", "bias")) if last.startswith(word)), 2)
    return natural_key(module), kind, natural_key(last)


def _architecture(claimed: str | None, layout: Layout) -> Architecture:
    """The registered architecture that the user names, or the tensors under a name of their own."""
    if claimed is None:
        digest = hashlib.sha256(json.dumps(layout.to_json()).encode()).hexdigest()
        return architecture_from_layout(f"tensors-{digest[:8]}", layout)
    if claimed not in architecture_names():
        return architecture_from_layout(claimed, layout)
    known = get_architecture(claimed)
    ours, theirs = ({(s.name, s.shape) for s in one.slots} for one in (known.layout, layout))
    if differing := sorted(theirs ^ ours):
        has, lacks = ("the files have", "it has") if differing[0] in theirs else ("it has", "the files have")
        what = f"{has} {differing[0][0]} of shape {differing[0][1]}, {lacks} none"
        raise FormatError(f"the files are not of architecture {claimed}: {what}; leave out --architecture")
    return known
