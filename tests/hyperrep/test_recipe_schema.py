"""JSON Schemas of recipes and protocols: the files for editors are current, and they accept what is shipped."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from helpers.paths import ROOT

from hyperrep.recipe_toml import make_protocol_schema, make_recipe_schema

RECIPES = ROOT / "hyperrep" / "recipes"
SCHEMAS = {"recipe.schema.json": make_recipe_schema, "protocol.schema.json": make_protocol_schema}
SHIPPED = sorted(path for path in RECIPES.rglob("*.toml"))


def validator_for(path: Path) -> Any:
    """The schema of a recipe or of a protocol."""
    return jsonschema.Draft202012Validator(
        (make_protocol_schema if "protocols" in path.parts else make_recipe_schema)()
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_for_editors_is_the_schema(name: str) -> None:
    schema = SCHEMAS[name]()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert (RECIPES / name).read_text() == json.dumps(schema, indent=2) + "\n", (
        f"write it again: python -c 'import json; from hyperrep.recipe_toml import *; "
        f"print(json.dumps({SCHEMAS[name].__name__}(), indent=2))' > hyperrep/recipes/{name}"
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_valid(path: Path) -> None:
    validator_for(path).validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("data", {"epochs": [1, 2, 3]}),
        ("data", {"signs": "yes"}),
        ("model", {"width": 0}),
        ("model", {"bottleneck": "token"}),
        ("model", {"unit": 0.1}),
        ("learning", {"lr": 0}),
        ("learning", {"mixup": 1.5}),
        ("learning", {"permute": "all"}),
        ("evaluation", {"top_fraction": 0}),
        ("evaluation", {"samplers": ["kde", "kde"]}),
        ("evaluation", {"finetune_epochs": [0]}),
    ],
)
def test_mistakes_are_found(section: str, change: dict[str, Any]) -> None:
    path = RECIPES / "demo.toml"
    values = tomllib.loads(path.read_text())
    validator_for(path).validate(values)
    with pytest.raises(jsonschema.ValidationError):
        validator_for(path).validate({**values, section: {**values[section], **change}})
