"""Records as plain values in JSON files: a frozen dataclass whose fields may have other keys in files."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_origin

from modelzoo_datasets.errors import FormatError


@dataclass(frozen=True, kw_only=True)
class JsonRecord:
    """Base of records that files keep. Files have the keys of the first release, fields the words of the field."""

    ALIASES: ClassVar[Mapping[str, str]] = {}  # key in files -> name of the field

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read what `to_json` of this or an earlier release returned; a key that is missing has its default.

        Raises:
            FormatError: the values are not a table, lack a key without a default, or have an unknown key.
        """
        if not isinstance(values, Mapping):
            raise FormatError(f"expected a table for {cls.__name__}, got {values!r}")
        tuples = {field.name for field in dataclasses.fields(cls) if get_origin(field.type) is tuple}
        fields = {cls.ALIASES.get(key, key): value for key, value in values.items()}
        try:
            return cls(**{name: tuple(value) if name in tuples else value for name, value in fields.items()})
        except TypeError as error:
            raise FormatError(f"cannot read {cls.__name__}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the keys of files, in the order of the fields."""
        keys = {name: key for key, name in self.ALIASES.items()}
        return {
            keys.get(name, name): list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }
