"""The content of zoo.json as typed records: no other module uses its keys.

`ZooInfo` is the whole file of a zoo folder, and one config of `DatasetInfo`, the file of a dataset folder.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..architectures import Architecture, find_architecture
from ..errors import FormatError
from ..recipes import Member, Recipe
from ..weights import Layout
from .json_files import ZooRecord, check_kind, explain_malformed, read_json
from .lineage import ImportInfo, ParentInfo, RecipeInfo
from .paths import DATASET_FORMAT, OLDER_DATASET_FORMATS, STORAGES, ZOO_FILE, ZOO_FORMAT, models_per_file

KEPT, LEFT_OUT = "kept", "left out"
_REMEDY = "build the dataset again"
_NOT_TRAINING = ("format", "storage", "models_per_file", "lacking", "states_sha256", "weights")


def read_layout(path: Path) -> Layout:
    """Read layout.json of a dataset folder; raises FormatError with its path."""
    values = read_json(path)
    try:
        return Layout.from_json(values)
    except FormatError as error:
        raise FormatError(f"{path} is no layout of weights ({error}); {_REMEDY}") from error


def _read_layout(value: Any, path: Path, key: str) -> Layout:
    check_kind(value, Sequence, path, key)
    try:
        return Layout.from_json(value)
    except FormatError as error:
        raise FormatError(explain_malformed(path, f"{key!r} is no layout of weights ({error})")) from error


@dataclass(frozen=True, kw_only=True)
class ZooInfo(ZooRecord):
    """One zoo: its recipe, and all else that decides its weights and how they are stored."""

    KEYS: ClassVar = {"import_info": "imported", "lost_epochs": "lacking"}
    READERS: ClassVar = {"layout": _read_layout, "variational_layout": _read_layout}

    name: str  # RECIPE/CONFIG
    architecture: str  # the exact variant
    images: str
    recipe: RecipeInfo
    layout: Layout
    images_sha256: str  # empty for images that are not known here
    classes: int
    engine: str
    versions: Mapping[str, str]
    import_info: ImportInfo | None = None
    parent: ParentInfo | None = None  # for sparsified twins
    variational_layout: Layout | None = None  # for sparsified twins: unpruned weights and log sigma²
    storage: str | None = None  # one of STORAGES
    models_per_file: int | None = None  # for a packed zoo: places of the grid that share a file
    lost_epochs: Mapping[str, Sequence[int]] = field(default_factory=dict)  # imported: model_id -> epochs without state
    states_sha256: str | None = None  # in a dataset folder: hash of the hashes of all states
    weights: Literal["inline", "files"] | None = None  # in a dataset folder: inline or files

    @classmethod
    def read(cls, folder: Path) -> "ZooInfo":
        """Read zoo.json of a zoo folder.

        Raises:
            FormatError: the file cannot be read, or is of another format, or is malformed.
        """
        path, hint = folder / ZOO_FILE, "make the zoo again with modelzoo-generate"
        values = read_json(path)
        if not isinstance(values, dict):
            raise FormatError(f"{path} is not what modelzoo-generate writes; {hint}")
        if "configs" in values:
            raise FormatError(f"{folder} is a dataset folder; name the zoo folders that it was built from")
        if (tag := values.get("format")) != ZOO_FORMAT:
            raise FormatError(f"{folder} has zoo format {tag!r}, but this release reads {ZOO_FORMAT!r}; {hint}")
        return cls.from_json(values, path)

    @classmethod
    def from_json(cls, values: Any, path: Path, where: str = "") -> "ZooInfo":
        """See `ZooRecord.from_json`; twins must have a parent and a variational layout."""
        info = super().from_json(values, path, where)
        if problem := info._find_problem(where):
            raise FormatError(explain_malformed(path, problem))
        return info

    def _find_problem(self, where: str) -> str | None:
        if self.storage not in (None, *STORAGES):
            return f"'{where}storage' must be {' or '.join(STORAGES)}, got {self.storage!r}"
        if self.is_packed and self.models_per_file is None:
            return f"it has no '{where}models_per_file'"
        if self.models_per_file is not None and self.models_per_file < 1:
            return f"'{where}models_per_file' must be at least 1, got {self.models_per_file}"
        for key in ("parent", "variational_layout"):
            if self.recipe.parent is not None and getattr(self, key) is None:
                return f"it has no '{where}{key}'"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the content of zoo.json, keys in their order there."""
        values = {"format": ZOO_FORMAT, **super().to_json()}
        values["lacking"] = values["lacking"] or None
        return {key: value for key, value in values.items() if value is not None}

    def with_storage(self, storage: str) -> "ZooInfo":
        """Return the same zoo stored as `states` or `packed`, with the number of models that share a packed file."""
        if storage != "packed":
            return dataclasses.replace(self, storage=storage, models_per_file=None)
        size = self.layout.size + (self.variational_layout.size if self.variational_layout else 0)
        per_file = models_per_file(size, self.recipe.max_epochs)
        return dataclasses.replace(self, storage=storage, models_per_file=per_file)

    @property
    def is_packed(self) -> bool:
        """True if the states of many models are stacked in one file."""
        return self.storage == "packed"

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the weights, however they are stored; names the results of cohorts."""
        values = {key: value for key, value in self.to_json().items() if key not in _NOT_TRAINING}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def find_architecture(self) -> Architecture:
        """Return the architecture of the zoo; of one that nobody registered, its tensors alone."""
        return find_architecture(self.architecture, self.layout)

    def members(self, path: Path) -> dict[str, Member]:
        """Return every model of the recipe by id.

        Args:
            path: the file that this was read from, for messages.

        Raises:
            FormatError: nothing can be trained by this recipe.
        """
        recipe = self.recipe
        try:
            configs = {recipe.config: recipe.to_config(self.lost_epochs)}
            if self.parent is not None and recipe.parent is not None:
                configs[recipe.parent] = self.parent.recipe.to_config({})
            whole = Recipe(
                name=recipe.name,
                images=recipe.images,
                architecture=recipe.architecture,
                seed=recipe.seed,
                configs=configs,
            )
            return {member.model_id: member for member in whole.members(recipe.config)}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(explain_malformed(path, f"'recipe' cannot be trained ({error})")) from error

    def to_parent(self) -> ParentInfo:
        """Return what sparsified twins keep of this zoo, which their models started from."""
        return ParentInfo(name=self.name, recipe=self.recipe, engine=self.engine, versions=self.versions)

    def contradictions(self) -> list[str]:
        """Return a line for each value that contradicts the recipe."""
        recipe, architecture = self.recipe, self.find_architecture()
        checks = (
            ("name", self.name, f"{recipe.name}/{recipe.config}", {self.name}),
            ("images", self.images, recipe.images, {self.images}),
            ("architecture", self.architecture, recipe.architecture, {architecture.name, architecture.family}),
        )
        return [
            f"{key} is {value!r}, the recipe says {expected!r}"
            for key, value, expected, accepted in checks
            if expected not in accepted
        ]


def find_difference(stored: Any, info: ZooInfo) -> tuple[str, Any, Any] | None:
    """Find the first difference between the zoo.json of a folder and a zoo that is to be written there.

    The format comes first, because it decides the rest, and the storage last.

    Args:
        stored: the JSON value that the folder has.
        info: the zoo.

    Returns:
        The name of the value, the stored one and the other one; None where there is no difference.
    """
    values = info.to_json()
    if not isinstance(stored, dict):
        return "content", stored, values
    if difference := _difference(stored.get("format"), values["format"], "format"):
        return difference
    storage = ("storage", "models_per_file", "lacking")
    a, b = ({key: value for key, value in each.items() if key not in storage} for each in (stored, values))
    return (
        _difference(a, b)
        or _difference(stored.get("storage"), values.get("storage"), "storage")
        or _difference({key: value for key, value in stored.items() if key != "lacking"}, values)
    )


def _difference(stored: Any, value: Any, name: str = "content") -> tuple[str, Any, Any] | None:
    """See `find_difference`. The order of the keys of an object counts."""
    if not (isinstance(stored, dict) and isinstance(value, dict)):
        return None if stored == value else (name, stored, value)
    for key in sorted(stored.keys() | value.keys()):
        if difference := _difference(stored.get(key), value.get(key), key):
            return difference
    return None if list(stored) == list(value) else (f"order of {name}", list(stored), list(value))


@dataclass(frozen=True, kw_only=True)
class CardInfo(ZooRecord):
    """The part of a dataset card that cannot be measured."""

    title: str
    license: str | None = None  # None: nobody named one
    text: str = ""
    repo_id: str | None = None
    source_datasets: tuple[str, ...] = ()
    citation: tuple[str, ...] = ()  # entries of BibTeX


@dataclass(frozen=True, kw_only=True)
class DatasetInfo(ZooRecord):
    """A dataset folder: the zoos that it was built from, one per config, and what its card says of them."""

    KEYS: ClassVar = {"card": "publication"}

    repo_id: str | None = None  # ORG/NAME on the Hub
    card: CardInfo | None = None
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
    def from_json(cls, values: Any, path: Path, where: str = "") -> "DatasetInfo":
        """See `ZooRecord.from_json`; the values may be of an older format."""
        if not isinstance(values, dict):
            raise FormatError(f"{path} is not what modelzoo-build writes; {_REMEDY}")
        tag = values.get("format")
        if tag not in (DATASET_FORMAT, *OLDER_DATASET_FORMATS):
            raise FormatError(f"{path.parent} has format {tag!r}, but this release reads {DATASET_FORMAT!r}; {_REMEDY}")
        if tag == OLDER_DATASET_FORMATS[0]:  # it had no choice, and named neither
            values = {"diverged": KEPT, **values}
        if not values.get("configs") or values.get("diverged") not in (KEPT, LEFT_OUT):
            raise FormatError(
                f"{path} is not what modelzoo-build writes: it must have 'configs' and 'diverged'; {_REMEDY}"
            )
        if tag in OLDER_DATASET_FORMATS and isinstance(values["configs"], dict):
            values = {**values, "configs": {name: _upgrade_config(zoo) for name, zoo in values["configs"].items()}}
        return super().from_json(values, path, where)

    def to_json(self) -> dict[str, Any]:
        """Return the content of zoo.json, keys in their order there."""
        return {"format": DATASET_FORMAT, **super().to_json()}


def _upgrade_config(values: Any) -> Any:
    """Add to a config of an older format what it did not note: its weights were in its tables."""
    return {"classes": 0, "weights": "inline", **values} if isinstance(values, dict) else values
