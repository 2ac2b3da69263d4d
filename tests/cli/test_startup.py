"""What entry points import: help, versions and errors that need no tensor do not wait for torch."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT
from helpers.processes import run

from modelzoo_datasets.architectures import architecture_names
from modelzoo_datasets.cli.generate_command import BUILTIN_NAMES
from modelzoo_datasets.images import image_dataset_names

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
HEAVY = ("torch", "torchvision", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "datasets", "ray")
CLIENTS = ("huggingface_hub", "fsspec", "httpx")  # errors about sources may ask the Hub's client whether they are repos
REPORT = f"print(*sorted(set({HEAVY + CLIENTS}) & set(sys.modules)), file=sys.stderr)"
ERRORS = [
    ["modelzoo-generate", "no-such-recipe", "--out", "zoo"],
    ["modelzoo-generate", "mnist-cnn-s/no-such-config", "--out", "zoo"],
    ["modelzoo-generate", "mnist-cnn-s/seed", "--out", "zoo", "--engine", "jax"],
    ["modelzoo-generate", "mnist-cnn-s/seed", "--out", "zoo", "--storage", "states", "--layout", "packed"],
    ["modelzoo-generate", "mnist-cnn-s/seed", "--out", "zoo", "--cohort", "1/2", "--ray", "local"],
    ["modelzoo-generate", "mnist-cnn-s/seed", "--out", "zoo", "--no-such-option"],
    ["modelzoo-import", "nowhere", "--format", "model-zoos", "--out", "zoo"],
    ["modelzoo-import", ".", "--format", "no-such-format", "--out", "zoo"],
    ["modelzoo-build", "nowhere", "--out", "dataset"],
    ["modelzoo-verify", "nowhere"],
    ["modelzoo-hyperrep", "train", "nowhere", "--out", "rep"],
    ["modelzoo-hyperrep", "train", "nowhere", "--out", "rep", "--recipe", "no-such-recipe"],
    ["modelzoo-hyperrep", "train", "nowhere", "--out", "rep", "--precision", "int8"],
    ["modelzoo-hyperrep", "embed", "nowhere", "--hyperrep", "rep", "--out", "z.parquet"],
    ["modelzoo-hyperrep", "probe", "nowhere", "--hyperrep", "rep"],
    ["modelzoo-hyperrep", "sample", "--hyperrep", "nowhere", "--out", "samples"],
    ["modelzoo-hyperrep", "evaluate", "nowhere", "--hyperrep", "rep", "--out", "evaluation"],
    ["modelzoo-judge", "nowhere", "--against", "zoos/tiny"],
    ["modelzoo-judge", ".", "--against", "zoos/tiny", "--protocol", "nowhere.toml"],
    ["modelzoo-demo", "--recipe", "no-such-recipe", "--out", "demo"],
    ["modelzoo-push", "nowhere", "zoos/tiny"],
    ["modelzoo-push", ".", "zoos/tiny"],
    ["modelzoo-push", "nowhere", "tiny"],
]


def imported_by(words: list[str], **options: Any) -> tuple[int, list[str]]:
    """Exit status of a command, and the heavy packages that its process has imported when it ends."""
    module, _, function = SCRIPTS[words[0]].partition(":")
    start = f"import sys; sys.argv = {words!r}\nfrom {module} import {function}\n"
    code = f"{start}try:\n    {function}()\nfinally:\n    {REPORT}"
    result = run(["python", "-c", code], **options)
    return result.returncode, result.stderr.splitlines()[-1].split()


def heavy_imports(words: list[str], **options: Any) -> tuple[int, list[str]]:
    """Exit status of a command, and what it has imported besides the Hub's client."""
    status, packages = imported_by(words, **options)
    return status, [name for name in packages if name not in CLIENTS]


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(name: str, option: str) -> None:
    assert imported_by([name, option]) == (0, [])


@pytest.mark.parametrize("words", ERRORS, ids=" ".join)
def test_errors_that_need_no_tensor_import_nothing_heavy(words: list[str]) -> None:
    assert heavy_imports(words) == (2, [])


def test_a_push_without_a_token_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text('{"format": "modelzoo-dataset-4"}')
    words = ["modelzoo-push", str(tmp_path), "zoos/tiny"]
    assert heavy_imports(words, env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": ""}) == (2, [])


@pytest.mark.parametrize(("old", "new"), [("cnn-s", "cnn-z"), ("fashion-mnist-5k", "fashion-mnist-5")])
def test_unknown_names_in_a_recipe_import_nothing_heavy(old: str, new: str, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.toml"
    recipe.write_text(tiny_recipe.read_text().replace(old, new))
    assert heavy_imports(["modelzoo-generate", str(recipe), "--out", str(tmp_path / "zoo")]) == (2, [])


def test_the_names_that_are_known_without_torch_are_all_that_are_built_in() -> None:
    names = {kind: sorted(text.split()) for kind, text in BUILTIN_NAMES.items()}
    variants = {name for name in architecture_names() if re.fullmatch(r"cnn-[sm](-rgb)?-\d+", name)}  # of other tests
    assert names == {"images": image_dataset_names(), "architecture": sorted({*architecture_names()} - variants)}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import modelzoo_datasets, hyperrep", set()),
        ("from hyperrep import read_hyper_recipe", set()),
        ("from modelzoo_datasets import read_recipe", set()),
        ("from modelzoo_datasets import load_zoo", {"torch", "numpy", "pandas", "pyarrow"}),
    ],
)
def test_front_doors_import_what_they_need(statement: str, allowed: set[str]) -> None:
    result = run(["python", "-c", f"import sys\n{statement}\n{REPORT}"])
    assert result.returncode == 0
    assert {*result.stderr.split()} - {*CLIENTS} <= allowed
