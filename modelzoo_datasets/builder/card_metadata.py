"""Builder recipes: the parts of a dataset card that cannot be measured, such as title, license and citation."""

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import RecipeError, unknown
from ..hub import is_repo_id
from ..recipes import check_keys, check_type, find_recipe, read_recipe, recipe_names
from ..zoo import CardInfo, ZooFolder, ZooInfo

_TEXTS = ("title", "license", "text", "repo_id")
_LISTS = ("source_datasets", "citation")
_DEFAULT_LICENSE = "cc-by-4.0"  # for zoos that were trained with this package
_PROTOCOL = "schuerholt2022modelzoos"  # the paper whose protocol trains the zoos of this package
_IMPORT_CITATIONS = {"model-zoos": (_PROTOCOL,), "small-cnn-zoo": ("unterthiner2020predicting",)}  # by import format


@dataclass(frozen=True, kw_only=True)
class CardMetadata(CardInfo):
    """Title, license, text, repo, image datasets and citation of one dataset repo."""

    license: str | None = _DEFAULT_LICENSE  # license identifier of the Hub; None if nobody named a license

    @classmethod
    def from_zoos(cls, zoos: Sequence[ZooFolder], builder: str | None = None) -> "CardMetadata":
        """Choose the metadata of a dataset of some zoos.

        Args:
            zoos: The zoos of the dataset.
            builder: Name or path of a builder recipe. By default, zoos of a shipped recipe take the shipped builder
                recipe of the same name, and others have plain defaults. The default names a repo only if all zoos are
                complete, because the repo of a shipped recipe is that of the complete zoos.

        Raises:
            RecipeError: The builder recipe does not exist or is invalid.
        """
        if builder is not None:
            return cls.from_toml(find_recipe("builders", builder))
        info = zoos[0].info
        name = info.recipe.name
        if _is_shipped(info):
            shipped = cls.from_toml(find_recipe("builders", name))
            complete = all(len(zoo.models) == zoo.info.recipe.num_models for zoo in zoos)
            return shipped if complete else replace(shipped, repo_id=None)
        if info.import_info is not None:
            citations = _IMPORT_CITATIONS.get(info.import_info.format, ())
            return cls(title=name, license=None, citation=_find_bibtex(citations))
        return cls(title=name, citation=_find_bibtex((_PROTOCOL,)))

    @classmethod
    def from_toml(cls, path: Path) -> "CardMetadata":
        """Read a builder recipe.

        Raises:
            RecipeError: The file is not valid TOML, or a key or value is invalid.
        """
        try:
            values = tomllib.loads(path.read_text())
            check_keys("a builder recipe", values, (*_TEXTS, *_LISTS))
            return cls(**_validate(values))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecipeError) as error:
            raise RecipeError(f"builder recipe {path.name}: {error}") from error


def _is_shipped(info: ZooInfo) -> bool:
    """Tell whether a zoo is of a shipped recipe, rather than of a user's recipe with the same name."""
    name = info.recipe.name
    if name not in recipe_names("builders"):
        return False
    shipped = read_recipe(name)
    return (shipped.images, shipped.architecture) == (info.recipe.images, info.recipe.architecture)


def _validate(values: dict[str, Any]) -> dict[str, Any]:
    if "title" not in values:
        raise RecipeError('the key "title" is missing; add a title, e.g. title = "MNIST, small CNN"')
    for name in _TEXTS:
        if name in values:
            check_type(name, values[name], str)
    for name in _LISTS:
        if not isinstance(values.get(name, []), list) or not all(isinstance(v, str) for v in values.get(name, [])):
            raise RecipeError(f"{name} must be a list of strings, got {values[name]!r}")
    for key, repo_ids in (("repo_id", [values.get("repo_id")]), ("source_datasets", values.get("source_datasets", []))):
        for repo_id in repo_ids:
            if repo_id is not None and not is_repo_id(repo_id):
                raise RecipeError(f"{key}: expected ORG/NAME, e.g. modelzoos/mnist-cnn-s, got {repo_id!r}")
    return {
        "license": None,
        **values,
        "source_datasets": tuple(values.get("source_datasets", ())),
        "citation": _find_bibtex(values.get("citation", ())),
    }


def _find_bibtex(citations: Iterable[str]) -> tuple[str, ...]:
    """Return entries of BibTeX as they are, and keys of builders/citations.bib as the entries that they stand for."""
    entries = _read_citations()
    result = []
    for citation in citations:
        if not citation.lstrip().startswith("@") and citation not in entries:
            raise RecipeError(unknown("citation", citation, entries))
        result.append(entries.get(citation, citation.strip()))
    return tuple(result)


def _read_citations() -> dict[str, str]:
    text = find_recipe("builders", recipe_names("builders")[0]).with_name("citations.bib").read_text()
    entries = [part.strip() for part in re.split(r"^(?=@)", text, flags=re.M) if part.startswith("@")]
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}
