"""Records as plain values in JSON files: frozen dataclasses that may hold each other, with other keys in files."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from modelzoo_datasets.errors import FormatError


@dataclass(frozen=True, kw_only=True)
class JsonRecord:
    """Base of records that files keep. Files have the keys of the first release, fields the words of the field."""

    ALIASES: ClassVar[Mapping[str, str]] = {}  # key in files -> name of the field
    IGNORES_UNKNOWN: ClassVar[bool] = False  # other keys, of other releases, are left out; otherwise they are errors

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read the result of `to_json` of this or an earlier release; a missing key has its default.

        Raises:
            FormatError: the values are not a table, lack a key without a default, or have an unknown key.
        """
        if not isinstance(values, Mapping):
            raise FormatError(f"expected a table for {cls.__name__}, got {values!r}")
        kinds = get_type_hints(cls)
        fields = {cls.ALIASES.get(key, key): value for key, value in values.items()}
        if cls.IGNORES_UNKNOWN:
            fields = {field.name: fields[field.name] for field in dataclasses.fields(cls) if field.name in fields}
        try:
            return cls(**{name: _read_value(kinds.get(name), value) for name, value in fields.items()})
        except (TypeError, AttributeError) as error:
            raise FormatError(f"cannot read {cls.__name__}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the keys of files, in the order of the fields."""
        names = [field.name for field in dataclasses.fields(self)]
        return {key: _write_value(getattr(self, name)) for key, name in zip(self.list_keys(), names, strict=True)}

    @classmethod
    def list_keys(cls) -> list[str]:
        """Return the keys of all fields in files, in the order of the fields."""
        keys = {name: key for key, name in cls.ALIASES.items()}
        return [keys.get(field.name, field.name) for field in dataclasses.fields(cls)]


def replace_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with None for NaN and infinity, which JSON does not have."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}


def describe_record(record: JsonRecord) -> str:
    """Return the keys and values of a record as text, e.g. "width 16, noise 0.1 / 0.2"."""
    return ", ".join(f"{key} {_format_value(value)}" for key, value in record.to_json().items())


def _format_value(value: Any) -> str:
    return " / ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _read_value(kind: Any, value: Any) -> Any:
    """Return a JSON value as a field of this type: with records in it, and tuples for lists where it says so."""
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, JsonRecord):
        return kind.from_json(value)
    if origin is UnionType:  # a type or None
        return None if value is None else _read_value(args[0], value)
    if origin is Mapping:
        return {key: _read_value(args[1], part) for key, part in value.items()}
    if origin is Sequence:
        return [_read_value(args[0], part) for part in value]
    return tuple(value) if origin is tuple else value


def _write_value(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _write_value(part) for key, part in value.items()}
    return [_write_value(part) for part in value] if isinstance(value, list | tuple) else value
