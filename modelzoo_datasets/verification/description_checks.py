"""Check of the files that a dataset has for people: how its images are prepared and split, and its module's source."""

import ast
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..builder import find_module_path, find_plugin, write_image_files, write_module_file
from ..errors import FormatError
from ..zoo import ZooInfo, read_plain_file
from .base import Check
from .dataset_target import REMEDY

_KNOWN_WITHOUT_IMAGES = ("name", "sha256", "augmentation")  # keys of images.json
_MAX_BYTES = 10_000_000


def check_descriptions(path: Path, zoos: Sequence[ZooInfo]) -> Check:
    """Check that the files about images and the source of the module are those of the zoos; nothing of it is run.

    Args:
        path: The dataset folder.
        zoos: The zoos of the dataset.
    """
    problems: list[str] = []
    notes: list[str] = []
    expected, unregistered = write_image_files(zoos), write_image_files(zoos, registered=False)
    if all(_read(path / name) == content for name, content in unregistered.items()):
        expected = unregistered  # nobody had registered the images where the dataset was built
    for name, content in expected.items():
        if (line := _compare_images(path / name, content, whole=len(expected) > 1)) is not None:
            problems.append(f"{path / name} {line}; {REMEDY}")
    module = find_module_path(zoos[0].architecture)
    if module is not None:
        line, is_problem = _compare_source(path / module, zoos[0])
        if line is not None:
            (problems if is_problem else notes).append(f"{path / module} {line}{f'; {REMEDY}' if is_problem else ''}")
    return Check("descriptions", len(expected) + 1, problems, notes)


def _compare_images(path: Path, content: bytes, *, whole: bool) -> str | None:
    """Say how a file about images differs; without registered images only what zoo.json knows is compared."""
    stored = _read(path)
    if stored is None:
        return "is missing or cannot be read"
    if stored == content:
        return None
    if whole:
        return "is not what the registered images give"
    values: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(stored)
    recomputed = json.loads(content)
    same = isinstance(values, dict) and all(values.get(key) == recomputed[key] for key in _KNOWN_WITHOUT_IMAGES)
    return None if same else "is not what zoo.json gives"


def _compare_source(path: Path, zoo: ZooInfo) -> tuple[str | None, bool]:
    """Say how a source file differs from that of the architecture, and whether that is a problem."""
    architecture = zoo.find_architecture()
    expected, stored = write_module_file(architecture), _read(path)
    if expected is None:
        return (None, False) if stored is None else ("is not compared: its architecture is not known here", False)
    is_own = find_plugin(architecture) is not None  # who built the dataset may have had another plugin, or none
    if stored is None:
        return "is missing or cannot be read", not is_own
    if is_own:
        return (None if stored == expected.encode() else "is not the plugin that registers it here"), False
    return (None if _parse(stored) == _parse(expected.encode()) else "is not the network of this architecture"), True


def _parse(source: bytes) -> str | None:
    """Return the syntax of a source file without the text that describes it, None if it has none."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    tree.body = tree.body[1:]
    return ast.dump(tree)


def _read(path: Path) -> bytes | None:
    try:
        return read_plain_file(path, _MAX_BYTES)
    except (FormatError, OSError):
        return None
