"""Where the models of a zoo come from, as zoo.json keeps it: another zoo, or an archive of somebody else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architectures import ANY_FORMAT
from .json_checks import check_kinds
from .recipe_info import RecipeInfo

if TYPE_CHECKING:
    from .info import ZooInfo

_PARENT_KINDS = {"name": str, "recipe": dict, "engine": str, "versions": dict}
_IMPORT_KINDS = {"format": str, "source": str}


@dataclass(frozen=True, kw_only=True)
class ImportInfo:
    """The origin of a zoo whose models were trained elsewhere."""

    format: str  # as `modelzoo-import` names it
    source: str  # name of the folder or archive, without its path
    incomparable_metrics: tuple[str, ...] = ()  # splits and metrics that were recorded on other data than here

    @classmethod
    def from_json(cls, values: Any, path: Path) -> "ImportInfo":
        """Check and read what `to_json` wrote; raises FormatError."""
        check_kinds(values, _IMPORT_KINDS, path, "imported.")
        metrics = tuple(values.get("measured_otherwise", ()))
        return cls(format=values["format"], source=values["source"], incomparable_metrics=metrics)

    def to_json(self) -> dict[str, Any]:
        """Return the values that zoo.json keeps."""
        return {
            "format": self.format,
            "source": self.source,
            "measured_otherwise": list(self.incomparable_metrics),
        }

    @property
    def is_any_architecture(self) -> bool:
        """True for a population of any architecture, registered here or not."""
        return self.format == ANY_FORMAT


@dataclass(frozen=True, kw_only=True)
class ParentInfo:
    """The zoo whose last states sparsified twins started from."""

    name: str
    recipe: RecipeInfo
    engine: str
    versions: Mapping[str, str]

    @classmethod
    def from_zoo(cls, info: "ZooInfo") -> "ParentInfo":
        """Return what twins keep of the zoo of their parents."""
        return cls(name=info.name, recipe=info.recipe, engine=info.engine, versions=info.versions)

    @classmethod
    def from_json(cls, values: Any, path: Path) -> "ParentInfo":
        """Check and read what `to_json` wrote; raises FormatError."""
        check_kinds(values, _PARENT_KINDS, path, "parent.")
        recipe = RecipeInfo.from_json(values["recipe"], path, "parent.recipe.")
        return cls(name=values["name"], recipe=recipe, engine=values["engine"], versions=values["versions"])

    def to_json(self) -> dict[str, Any]:
        """Return the values that zoo.json keeps."""
        return {
            "name": self.name,
            "recipe": self.recipe.to_json(),
            "engine": self.engine,
            "versions": dict(self.versions),
        }
