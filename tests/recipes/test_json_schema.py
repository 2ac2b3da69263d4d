"""The JSON Schema of recipes accepts all that is read, and the file for editors is up to date."""

import copy
import json
import tomllib
from typing import Any

import jsonschema
import pytest
from helpers.paths import ROOT

from modelzoo_datasets.recipes import find_recipe, recipe_names, recipe_schema

VALIDATOR = jsonschema.Draft202012Validator(recipe_schema())
EXAMPLE = ROOT / "generation" / "example" / "stripes.toml"


def test_the_file_for_editors_is_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(recipe_schema())
    text = (ROOT / "generation" / "recipe.schema.json").read_text()
    assert text == json.dumps(recipe_schema(), indent=2) + "\n", (
        "write it again: python -c 'import json; from modelzoo_datasets.recipes import recipe_schema; "
        "print(json.dumps(recipe_schema(), indent=2))' > generation/recipe.schema.json"
    )


@pytest.mark.parametrize("name", recipe_names("generation"))
def test_shipped_recipes_are_valid(name: str) -> None:
    VALIDATOR.validate(tomllib.loads(find_recipe("generation", name).read_text()))


@pytest.mark.parametrize(
    "change",
    [
        {"images": 3},
        {"imagse": "mnist"},
        {"configs": {}},
        {"configs": {"a_index": {}}},
        {"configs": {"a": {"activation": "tahn"}}},
        {"configs": {"a": {"lr": [0.0]}}},
        {"configs": {"a": {"dropout": 1}}},
        {"configs": {"a": {"epochs": [5, 5]}}},
        {"configs": {"a": {"seeds": {"random": 3}}}},
        {"configs": {"a": {"parent": "b"}}},
        {"configs": {"a": {"parent": "b", "epochs": 3, "lr": 0.1}}},
    ],
)
def test_mistakes_are_found(change: dict[str, Any]) -> None:
    values = tomllib.loads(EXAMPLE.read_text())
    VALIDATOR.validate(values)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(copy.deepcopy(values) | change)
