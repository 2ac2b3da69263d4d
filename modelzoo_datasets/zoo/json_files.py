"""JSON files of folders: reading and writing them, the format that they name, and the records that they keep.

This module imports neither torch nor pyarrow, so that a command can look at a folder at next to no cost.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from .._util import one_line
from ..errors import FormatError
from .atomic_io import write_bytes
from .limits import MAX_JSON_BYTES
from .plain_files import read_plain_file

_DATASET = "modelzoo-dataset-"  # every version of the format of a dataset folder begins like this
_KINDS = {  # type of a field -> type of its JSON value, and its name in messages
    str: (str, "a text"),
    int: (int, "a whole number"),
    Mapping: (dict, "an object"),
    tuple: (list, "a list"),
    Sequence: (list, "a list"),
}


def write_json(path: Path, value: Any) -> None:
    """Write plain values as readable JSON; raises ValueError for infinity and NaN, which JSON does not have."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; raises FormatError with its path."""
    try:
        return json.loads(read_plain_file(path, MAX_JSON_BYTES))
    except FormatError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {path}: {one_line(error)}") from error


@dataclass(frozen=True)
class FormatTag:
    """The value of `format` in a JSON file; None where the file names no format."""

    format: str | None

    @classmethod
    def read(cls, path: Path) -> "FormatTag":
        """Read the tag of a JSON file and nothing else of it.

        Raises:
            FormatError: the file cannot be read or is not JSON.
        """
        values = read_json(path)
        tag = values.get("format") if isinstance(values, dict) else None
        return cls(tag if isinstance(tag, str) else None)

    @property
    def is_dataset(self) -> bool:
        """True for a dataset folder, of this release or of another one."""
        return self.format is not None and self.format.startswith(_DATASET)


@dataclass(frozen=True, kw_only=True)
class ZooRecord:
    """Base of the records that zoo.json keeps: each field is a value there, in the same order.

    A field with a default may be missing in the file. A record within a record is an object there.
    """

    KEYS: ClassVar[Mapping[str, str]] = {}  # field -> its key in the file, where they differ
    READERS: ClassVar[Mapping[str, Callable[[Any, Path, str], Any]]] = {}  # field -> function that reads its value

    @classmethod
    def from_json(cls, values: Any, path: Path, where: str = "") -> Self:
        """Check and read what `to_json` wrote.

        Args:
            values: the JSON value.
            path: the file that it was read from, for messages.
            where: the key of the value in that file with a dot behind it; empty for the whole file.

        Raises:
            FormatError: a key is missing or has a value of another kind.
        """
        if not isinstance(values, dict):
            raise FormatError(explain_malformed(path, f"'{where.rstrip('.')}' must be an object, got {values!r}"))
        arguments = {}
        for field in dataclasses.fields(cls):
            key, read = cls.KEYS.get(field.name, field.name), cls.READERS.get(field.name)
            if key in values and read is not None:
                arguments[field.name] = read(values[key], path, f"{where}{key}")
            elif key in values:
                arguments[field.name] = _read_value(field.type, values[key], path, f"{where}{key}")
            elif field.default is field.default_factory is dataclasses.MISSING:
                raise FormatError(explain_malformed(path, f"it has no '{where}{key}'"))
        return cls(**arguments)

    def to_json(self) -> dict[str, Any]:
        """Return the values that zoo.json keeps, in their order there."""
        fields = dataclasses.fields(self)
        return {self.KEYS.get(field.name, field.name): _to_plain(getattr(self, field.name)) for field in fields}


def _read_value(kind: Any, value: Any, path: Path, key: str) -> Any:
    """Check a JSON value against the type of its field, and convert it to this type."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):  # X | None
        return None if value is None else _read_value(arguments[0], value, path, key)
    if origin is Literal:
        if value not in arguments:
            raise FormatError(explain_malformed(path, f"'{key}' must be {' or '.join(arguments)}, got {value!r}"))
        return value
    if issubclass(origin, ZooRecord):
        return origin.from_json(value, path, f"{key}.")
    if origin not in _KINDS:  # such a field is stored under other keys
        raise FormatError(explain_malformed(path, f"it must not have '{key}'"))
    check_kind(value, origin, path, key)
    if origin is Mapping:
        return {name: _read_value(arguments[1], part, path, f"{key}.{name}") for name, part in value.items()}
    return tuple(value) if origin is tuple else value


def check_kind(value: Any, kind: type, path: Path, key: str) -> None:
    """Raise FormatError unless a JSON value can be that of a field of this type.

    Args:
        value: the JSON value.
        kind: str, int, Mapping, tuple or Sequence.
        path: the file that the value was read from, for messages.
        key: the key of the value in that file.
    """
    json_kind, words = _KINDS[kind]
    if not isinstance(value, json_kind) or isinstance(value, bool):
        raise FormatError(explain_malformed(path, f"'{key}' must be {words}, got {value!r}"))


def explain_malformed(path: Path, problem: str) -> str:
    """Return the message for a zoo.json that this package did not write as it is."""
    return f"{path} is not what modelzoo-generate and modelzoo-build write: {problem}; make its folder again"


def _to_plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _to_plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
