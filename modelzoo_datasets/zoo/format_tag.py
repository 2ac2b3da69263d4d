"""The format that a folder's JSON file names: enough to tell one kind of folder from another."""

from dataclasses import dataclass
from pathlib import Path

from .atomic_io import read_json

_DATASET = "modelzoo-dataset-"  # every version of the format of a dataset folder begins like this


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
