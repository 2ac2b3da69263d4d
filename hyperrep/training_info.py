"""The content of training.json: recipe and dataset of a hyper-representation, as a typed record."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from modelzoo_datasets._util import versions
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import read_json

from .json_record import JsonRecord
from .recipe import HyperRecipe

HYPERREP_FORMAT, TRAINING_FILE = "modelzoo-hyperrep-1", "training.json"


@dataclass(frozen=True, kw_only=True)
class DatasetOrigin(JsonRecord):
    """Public name of a dataset; None for everything that is unknown."""

    dataset: str | None = None  # repo of the Hub
    revision: str | None = None  # commit of the repo
    license: str | None = None
    images: str | None = None  # name of the image dataset


@dataclass(frozen=True, kw_only=True)
class TrainingInfo:
    """Everything that determines a trained hyper-representation, and the versions that trained it."""

    recipe: HyperRecipe  # its evaluation plays no part
    states_sha256: str  # hash of the hashes of all states of the config
    origin: DatasetOrigin | None = None  # earlier releases did not note it
    versions: Mapping[str, str] | None = None  # this package and torch
    first_versions: Mapping[str, str] | None = None  # versions of the stopped run, if others resumed it

    @classmethod
    def create(cls, recipe: HyperRecipe, states_sha256: str, origin: DatasetOrigin | None = None) -> Self:
        """Describe a training by the installed versions."""
        return cls(recipe=recipe, states_sha256=states_sha256, origin=origin, versions=versions())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read training.json of a folder.

        Raises:
            FormatError: the folder has no such file, or it is of another format.
        """
        path = folder / TRAINING_FILE
        if not path.is_file():
            raise FormatError(f"{folder} is not a hyper-representation: it has no {TRAINING_FILE}")
        try:
            return cls.from_json(read_json(path))
        except FormatError as error:
            raise FormatError(f"cannot read {path}: {error}") from error

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read what `to_json` of any release returned; raises FormatError."""
        if not isinstance(values, Mapping) or values.get("format") != HYPERREP_FORMAT:
            raise FormatError(f"expected format {HYPERREP_FORMAT!r}; train it again with this release")
        if not isinstance(values.get("states_sha256"), str):
            raise FormatError(f"'states_sha256' must be text, got {values.get('states_sha256')!r}")
        origin = values.get("learned_from")
        return cls(
            recipe=HyperRecipe.from_json(values.get("recipe")),
            states_sha256=values["states_sha256"],
            origin=None if origin is None else DatasetOrigin.from_json(origin),
            versions=values.get("versions"),
            first_versions=values.get("begun_with"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of training.json, keys in their order there."""
        resumed = {} if self.first_versions is None else {"begun_with": dict(self.first_versions)}
        return {
            "format": HYPERREP_FORMAT,
            "recipe": self.recipe.to_json(),
            "states_sha256": self.states_sha256,
            "learned_from": None if self.origin is None else self.origin.to_json(),
            "versions": None if self.versions is None else dict(self.versions),
            **resumed,
        }

    def is_same_training(self, other: "TrainingInfo") -> bool:
        """Compare recipe and training states; versions and public name of the dataset do not count."""
        recipes = self.recipe.to_json(), other.recipe.to_json()
        return recipes[0] == recipes[1] and self.states_sha256 == other.states_sha256
