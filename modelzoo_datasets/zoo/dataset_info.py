"""The zoo.json of a dataset folder as typed records."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import FormatError
from .atomic_io import read_json
from .info import ZooInfo
from .paths import DATASET_FORMAT, ZOO_FILE

KEPT, LEFT_OUT = "kept", "left out"
_REMEDY = "build the dataset again"


@dataclass(frozen=True, kw_only=True)
class CardInfo:
    """The part of a dataset card that cannot be measured."""

    title: str
    license: str | None = None  # None: nobody named one
    text: str = ""
    repo_id: str | None = None
    source_datasets: tuple[str, ...] = ()
    citation: tuple[str, ...] = ()  # entries of BibTeX

    def to_json(self) -> dict[str, Any]:
        """Return the values that zoo.json keeps."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CardInfo":
        """Read what `to_json` wrote; keys that this release does not know are dropped."""
        return cls(
            title=values.get("title", ""),
            license=values.get("license"),
            text=values.get("text", ""),
            repo_id=values.get("repo_id"),
            source_datasets=tuple(values.get("source_datasets", ())),
            citation=tuple(values.get("citation", ())),
        )


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A dataset folder: the zoos that it was built from, one per config, and what its card says of them."""

    repo_id: str | None  # ORG/NAME on the Hub
    card: CardInfo | None
    diverged: str  # KEPT or LEFT_OUT: models with weights that are not finite
    configs: Mapping[str, ZooInfo]

    @classmethod
    def read(cls, folder: Path) -> "DatasetInfo":
        """Read zoo.json of a dataset folder.

        Raises:
            FormatError: the file cannot be read, is of another format, or is malformed.
        """
        return cls.from_json(read_json(folder / ZOO_FILE), folder / ZOO_FILE)

    @classmethod
    def from_json(cls, values: Any, path: Path) -> "DatasetInfo":
        """Check and read what `to_json` wrote.

        Args:
            values: the JSON value.
            path: the file that it was read from, for messages.

        Raises:
            FormatError: it is of another format, or a key is missing or has a value of another kind.
        """
        if not isinstance(values, dict):
            raise FormatError(f"{path} is not what modelzoo-build writes; {_REMEDY}")
        if (tag := values.get("format")) != DATASET_FORMAT:
            raise FormatError(f"{path.parent} has format {tag!r}, but this release reads {DATASET_FORMAT!r}; {_REMEDY}")
        configs, diverged, card = values.get("configs"), values.get("diverged"), values.get("publication")
        if not isinstance(configs, dict) or not configs or diverged not in (KEPT, LEFT_OUT):
            raise FormatError(
                f"{path} is not what modelzoo-build writes: it must have 'configs' and 'diverged'; {_REMEDY}"
            )
        return cls(
            repo_id=values.get("repo_id"),
            card=CardInfo.from_json(card) if isinstance(card, dict) else None,
            diverged=diverged,
            configs={name: ZooInfo.from_json(zoo, path) for name, zoo in configs.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of zoo.json, keys in their order there."""
        return {
            "format": DATASET_FORMAT,
            "repo_id": self.repo_id,
            "publication": None if self.card is None else self.card.to_json(),
            "diverged": self.diverged,
            "configs": {name: zoo.to_json() for name, zoo in self.configs.items()},
        }
