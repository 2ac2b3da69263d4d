"""What `builders/` says of a dataset: the words of its card that cannot be measured."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported, but not declared so

from ..errors import RecipeError, unknown
from ..recipes import check_keys, check_type, find_recipe, read_recipe, recipe_names
from ..zoo import CardInfo, ZooFolder, ZooInfo

_TEXTS = ("title", "license", "text", "repo_id")
_LISTS = ("source_datasets", "citation")
_DEFAULT_LICENSE = "cc-by-4.0"  # of zoos that were trained here
_PROTOCOL = "schuerholt2022modelzoos"  # the paper by whose protocol zoos are trained here
_CITED = {"model-zoos": (_PROTOCOL,), "small-cnn-zoo": ("unterthiner2020predicting",)}  # by the format of originals


@dataclass(frozen=True, kw_only=True)
class CardMetadata(CardInfo):
    """One dataset repo: what it is called, whose it is, what it was made from."""

    license: str | None = _DEFAULT_LICENSE  # an identifier of the Hub; None where nobody said

    @classmethod
    def of(cls, zoos: Sequence[ZooFolder], builder: str | None = None) -> "CardMetadata":
        """What a builder recipe says of the zoos of one dataset; without one, plain defaults.

        Args:
            builder: name or path of a builder recipe; by default the shipped one of the generation recipe's name. Its
                repo is that of whole zoos: of others nothing says that they are, or will be, in it.

        Raises:
            RecipeError: no such builder recipe, broken TOML, an unknown key, or a value that is none.
        """
        if builder is not None:
            return cls.read(find_recipe("builders", builder))
        zoo = zoos[0].info
        name = zoo.recipe.name
        if _is_shipped(zoo):
            shipped = cls.read(find_recipe("builders", name))
            whole = all(len(folder.models) == folder.info.recipe.num_models for folder in zoos)
            return shipped if whole else replace(shipped, repo_id=None)
        if zoo.imported is not None:
            cited = _CITED.get(zoo.imported.format, ())
            return cls(title=name, license=None, citation=_entries(cited))
        return cls(title=name, citation=_entries((_PROTOCOL,)))

    @classmethod
    def read(cls, path: Path) -> "CardMetadata":
        """Read a builder recipe; raises RecipeError."""
        try:
            values = tomllib.loads(path.read_text())
            check_keys("a builder recipe", values, (*_TEXTS, *_LISTS))
            return cls(**_checked(values))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecipeError) as error:
            raise RecipeError(f"builder recipe {path.name}: {error}") from error


def _is_shipped(zoo: ZooInfo) -> bool:
    """Whether a zoo is of a shipped recipe, and not of somebody's own one of the same name."""
    name = zoo.recipe.name
    if name not in recipe_names("builders"):
        return False
    shipped = read_recipe(name)
    return (shipped.images, shipped.architecture) == (zoo.recipe.images, zoo.recipe.architecture)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if "title" not in values:
        raise RecipeError('there is no title; say for example title = "MNIST, small CNN"')
    for name in _TEXTS:
        if name in values:
            check_type(name, values[name], str)
    for name in _LISTS:
        if not isinstance(values.get(name, []), list) or not all(isinstance(v, str) for v in values.get(name, [])):
            raise RecipeError(f"{name} must be a list of texts, got {values[name]!r}")
    for repo_id in [values[name] for name in ("repo_id",) if name in values] + values.get("source_datasets", []):
        _check_repo_id(repo_id)
    return {
        "license": None,
        **values,
        "source_datasets": tuple(values.get("source_datasets", ())),
        "citation": _entries(values.get("citation", ())),
    }


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
        named = "/" in repo_id
    except HFValidationError:
        named = False
    if not named:
        raise RecipeError(f"a repo of the Hub is named like modelzoos/mnist-cnn-s, got {repo_id!r}")


def _entries(citation: Any) -> tuple[str, ...]:
    """Entries of BibTeX: as they are, or by their keys in builders/citations.bib."""
    known = _known_entries()
    for entry in citation:
        if not entry.lstrip().startswith("@") and entry not in known:
            raise RecipeError(unknown("citation", entry, known))
    return tuple(known.get(entry, entry.strip()) for entry in citation)


def _known_entries() -> dict[str, str]:
    text = find_recipe("builders", recipe_names("builders")[0]).with_name("citations.bib").read_text()
    entries = [part.strip() for part in re.split(r"^(?=@)", text, flags=re.M) if part.startswith("@")]
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}
