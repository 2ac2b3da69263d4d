"""Check that JSON values have the keys and kinds that this package writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FormatError

_WORDS = {str: "a text", dict: "an object", list: "a list", int: "a whole number"}


def check_kinds(values: Any, kinds: Mapping[str, type], path: Path, where: str = "") -> None:
    """Raise FormatError unless a JSON value is an object with these keys and kinds of values.

    Args:
        values: the JSON value.
        kinds: key -> the type of its value.
        path: the file that the value was read from, for messages.
        where: the key of the value in that file with a dot behind it; empty for the whole file.
    """
    if not isinstance(values, dict):
        raise FormatError(explain_malformed(path, f"'{where.rstrip('.')}' must be an object, got {values!r}"))
    for key, kind in kinds.items():
        if key not in values:
            raise FormatError(explain_malformed(path, f"it has no '{where}{key}'"))
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise FormatError(explain_malformed(path, f"'{where}{key}' must be {_WORDS[kind]}, got {values[key]!r}"))


def explain_malformed(path: Path, problem: str) -> str:
    """Return the message for a zoo.json that this package did not write as it is."""
    return f"{path} is not what modelzoo-generate and modelzoo-build write: {problem}; make its folder again"
