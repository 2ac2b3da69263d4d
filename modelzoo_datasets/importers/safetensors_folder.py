"""Format `safetensors`: a population of any torch module, with a state dict per file and one table of the files.

All files are of one architecture, which need not be registered: its layout is that of the tensors. Files do not record
the order of the module, so the layout sorts tensors: modules by the numbers in their names; within a module weights,
then biases, then the rest. Running statistics and whole numbers are buffers and come last.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from .._util import natural_key, one_line
from ..architectures import Architecture, architecture_from_layout, architecture_names, get_architecture
from ..errors import FormatError
from ..images import image_dataset_names
from ..progress import Progress
from ..weights import Layout, Slot
from ..zoo import MAX_HEADER_BYTES, SafetensorsHeader, check_memory, read_header_bytes
from .archives import Source, is_litter
from .base import Identity, ImportedModel, ImportedState, ModelSource, Overrides, Skipped, SkipReport
from .compression import DAMAGED
from .identity import check_images, parse_zoo_name
from .state_table import read_state_table

_UNKNOWN = "unknown"  # images
_TYPES = {"F32": torch.float32, "I64": torch.int64}
_BUFFERS = ("running_mean", "running_var")

Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class SafetensorsFolder(ModelSource):
    """A population of safetensors files; see `ModelSource`."""

    def __init__(self, source: Source, overrides: Overrides, progress: Progress) -> None:
        """Read the table, and the header of every file.

        Raises:
            FormatError: The table is malformed, files and rows do not match, or files have different tensors.
            RecipeError: The architecture or the images of `overrides` do not exist.
        """
        inside = f"{overrides.inside.strip('/')}/" if overrides.inside else _only_folder(source)
        self.source, self.skipped, self._from = source.name, SkipReport(), source
        table = read_state_table(source, inside)
        self.models = [_add_name(model) for model in table.models]
        self._files = table.files
        layout = _make_layout(
            _read_common_shapes(source, [file for files in table.files for file in files.values()], inside, progress)
        )
        self.architecture = _resolve_architecture(overrides.architecture, layout)
        images = overrides.images or _UNKNOWN
        if self.architecture.has_module and images in image_dataset_names():
            check_images(images, self.architecture)
        name = overrides.name or f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', source.name).strip('-.') or 'population'}/zoo"
        recipe, config = parse_zoo_name(name)
        self.identity = Identity(
            recipe=recipe, config=config, images=images, columns=table.columns, measured=table.measured
        )

    def read_states(self, models: Sequence[int]) -> Iterator[tuple[int, list[ImportedState]]]:
        for index in models:
            states = []
            for epoch, path in self._files[index].items():
                try:
                    states.append(ImportedState(epoch, self._read_weights(path)))
                except Skipped as reason:
                    self.skipped.add(f"state that {reason}", path)
            yield index, states

    def _read_weights(self, path: str) -> torch.Tensor:
        content = self._from.read(path)
        try:
            return self.architecture.layout.pack(safetensors.torch.load(content))
        except (SafetensorError, FormatError) as error:
            raise Skipped(f"is damaged: {one_line(error)}") from error


def _only_folder(source: Source) -> str:
    """Return the one folder that holds everything, with a / at its end, as in an archive of a folder; else nothing."""
    common = os.path.commonpath([path.rpartition("/")[0] for path in source.sizes if not is_litter(path)] or [""])
    return f"{common}/" if common else ""


def _add_name(model: ImportedModel) -> ImportedModel:
    """Return the model with its name as a column, because model ids are made by this package."""
    return dataclasses.replace(model, more={"origin": model.origin, **model.more})


def _read_common_shapes(source: Source, files: Sequence[str], inside: str, progress: Progress) -> Shapes:
    """Return the tensors that all files have; raises FormatError for the first file with others."""
    first: tuple[str, Shapes] | None = None
    with progress.start(f"looking into {source.name}", len(files)) as task:
        for path in files:
            name = path.removeprefix(inside)
            shapes = _read_shapes(source, path, f"{name} of {source.name}")
            if first is None:
                first = name, shapes
            elif what := _describe_difference(shapes, first[1]):
                raise FormatError(
                    f"{source.name} mixes architectures: {name} {what} {first[0]}; import each architecture from a "
                    "folder and table of its own"
                )
            task.update()
    assert first is not None  # a table has rows
    return first[1]


def _read_shapes(source: Source, path: str, where: str) -> Shapes:
    """Return dtype and shape of the tensors of a file; raises FormatError, with the name of the file in messages."""
    try:
        with source.stream(path) as file:
            header = SafetensorsHeader.parse(read_header_bytes(file, MAX_HEADER_BYTES))
    except ValueError as error:
        raise FormatError(f"{where} is not a safetensors file ({error}); write it again") from error
    except DAMAGED as error:
        raise FormatError(f"{where} cannot be read: {error}; write it again") from error
    check_memory(header.file_size, source.nbytes, where)
    if not (entries := header.tensors):
        raise FormatError(f"{where} holds no tensors; write it again")
    for key, entry in entries.items():
        if entry.dtype not in _TYPES:
            raise FormatError(
                f"{where}: {key} is {entry.dtype}, but states must be F32 and whole numbers I64; convert it, for "
                "example with tensor.float()"
            )
        if entry.stop - entry.start != _TYPES[entry.dtype].itemsize * math.prod(entry.shape):
            raise FormatError(
                f"{where}: {key} of shape {entry.shape} has {entry.stop - entry.start:,} bytes; write it again"
            )
    return {key: (_TYPES[entry.dtype], entry.shape) for key, entry in entries.items()}


def _describe_difference(shapes: Shapes, first: Shapes) -> str | None:
    """Return the middle of a sentence: how a file differs from the first one; None if it does not."""
    for name in sorted(first.keys() | shapes.keys(), key=_sort_key):
        if name not in shapes:
            return f"has no {name}, unlike"
        if name not in first:
            return f"has {name}, unlike"
        if shapes[name] != first[name]:
            return f"has {name} of {_describe_kind(shapes[name])}, not {_describe_kind(first[name])} as"
    return None


def _describe_kind(kind: tuple[torch.dtype, tuple[int, ...]]) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {kind[1]}"


def _make_layout(shapes: Shapes) -> Layout:
    """Return the layout of the tensors; the head of this file explains its order."""
    slots: list[Slot] = []
    names = sorted(shapes, key=lambda name: (_is_buffer(name, shapes), _sort_key(name)))
    for name in names:
        dtype, shape = shapes[name]
        slots.append(Slot(name, shape, slots[-1].stop if slots else 0, _is_buffer(name, shapes), dtype))
    return Layout(tuple(slots))


def _is_buffer(name: str, shapes: Shapes) -> bool:
    return name.rpartition(".")[2] in _BUFFERS or not shapes[name][0].is_floating_point


def _sort_key(name: str) -> tuple[Any, ...]:
    """Return a sort key: modules by natural order; within a module weights first, then biases."""
    module, _, last = name.rpartition(".")
    kind = next((place for place, word in enumerate(("weight", "bias")) if last.startswith(word)), 2)
    return natural_key(module), kind, natural_key(last)


def _resolve_architecture(name: str | None, layout: Layout) -> Architecture:
    """Return the registered architecture of this name, or one that is only known by its tensors."""
    if name is None:
        digest = hashlib.sha256(json.dumps(layout.to_json()).encode()).hexdigest()
        return architecture_from_layout(f"tensors-{digest[:8]}", layout)
    if name not in architecture_names():
        return architecture_from_layout(name, layout)
    architecture = get_architecture(name)
    expected, actual = ({(s.name, s.shape) for s in one.slots} for one in (architecture.layout, layout))
    if differing := sorted(actual ^ expected):
        has, lacks = ("the files have", "it has") if differing[0] in actual else ("it has", "the files have")
        what = f"{has} {differing[0][0]} of shape {differing[0][1]}, {lacks} none"
        raise FormatError(f"the files are not of architecture {name}: {what}; omit --architecture")
    return architecture
