"""The examples in docstrings run, and every name that the two packages export has one.

Beside the names of their own module and all that the packages export, examples may use:

    dataset     Path of a tiny dataset folder with the configs `seed` and `hyp`
    zoo_folder  Path of the zoo folder of its config `seed`
    recipe      Path of the recipe file of both configs
    out         Path of an empty folder
"""

import doctest
import importlib
import inspect
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.paths import ROOT

import hyperrep
import modelzoo_datasets
import modelzoo_datasets.architectures.registry as architectures
import modelzoo_datasets.images.registry as images_registry

PACKAGES = (modelzoo_datasets, hyperrep)
EXPORTS = [f"{package.__name__}.{name}" for package in PACKAGES for name in package.__all__]
ROOMS = [ROOT / package.__name__ for package in PACKAGES]
WITH_EXAMPLES = [path for room in ROOMS for path in sorted(room.rglob("*.py")) if ">>> " in path.read_text()]
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in WITH_EXAMPLES]
NAMES = {name: getattr(package, name) for package in PACKAGES for name in package.__all__ if name[0] != "_"}
MAY_LACK = {"__version__"}


@pytest.fixture(scope="module")
def folders(
    tiny_dataset: Path, tiny_zoo: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Copies of the folders that examples read, so that none changes what other tests share."""
    root = tmp_path_factory.mktemp("examples")
    shutil.copytree(tiny_dataset, root / "dataset")
    shutil.copytree(tiny_zoo, root / "seed")
    shutil.copy(tiny_recipe, root / "tiny.toml")
    return {"dataset": root / "dataset", "zoo_folder": root / "seed", "recipe": root / "tiny.toml"}


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that an example registers are unknown to other tests."""
    monkeypatch.setattr(architectures, "_ARCHITECTURES", dict(architectures._ARCHITECTURES))
    monkeypatch.setattr(images_registry, "_DATASETS", dict(images_registry._DATASETS))


def examples(module: ModuleType) -> list[doctest.DocTest]:
    """The docstrings of a module that have examples, with all that is defined in it."""
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", [name for name in EXPORTS if name.rpartition(".")[2] not in MAY_LACK])
def test_every_exported_name_has_an_example(name: str) -> None:
    package, _, attribute = name.rpartition(".")
    value: Any = getattr(importlib.import_module(package), attribute)
    assert ">>> " in (inspect.getdoc(value) or ""), f"{name} has no Example in its docstring"


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tests = examples(importlib.import_module(name))
    assert tests, "an example is in no docstring"
    report: list[str] = []
    for number, test in enumerate(tests):
        out = tmp_path / str(number)
        out.mkdir()
        test.globs = {**NAMES, **test.globs, **folders, "out": out}
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)
