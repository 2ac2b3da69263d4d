"""The package as it is installed: every module imports, the wheel holds what it must and nothing else."""

import importlib
import os
import pkgutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from helpers.paths import ROOT
from helpers.processes import run

import hyperrep
import modelzoo_datasets


@pytest.mark.parametrize("package", [modelzoo_datasets, hyperrep], ids=lambda p: p.__name__)
def test_every_module_imports(package: object) -> None:
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]  # type: ignore[attr-defined]
    assert names
    for name in names:
        importlib.import_module(name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the build backend from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    result = run(["python", "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_two_packages_with_recipes_types_and_licences(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"modelzoo_datasets", "hyperrep"}
    for name in (
        "modelzoo_datasets/py.typed",
        "hyperrep/py.typed",
        "modelzoo_datasets/_recipes/generation/fashion-mnist-5k-cnn-s.toml",
        "modelzoo_datasets/_recipes/builders/fashion-mnist-5k-cnn-s.toml",
        "hyperrep/recipes/demo.toml",
        "modelzoo_datasets/images/data/fashion_mnist_5k.npz",
        "modelzoo_datasets/images/data/FASHION_MNIST_LICENSE",
        "modelzoo_datasets/builder/card.md.j2",
        "hyperrep/report/report.html.j2",
        "hyperrep/model/representation.md.j2",
        "hyperrep/release/sample.md.j2",
        "hyperrep/release/samples.md.j2",
        "hyperrep/release/training.md.j2",
        "hyperrep/release/results.md.j2",
        "modelzoo_datasets/engines/native/kernel/model.hpp",
        "modelzoo_datasets/engines/cuda/kernel/epoch.cuh",
    ):
        assert name in names


def test_the_installed_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "fresh"
    venv.create(home, with_pip=False, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    # The environment is fresh but for the dependencies, which are lent from this one: tests have no network.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = home / "bin" / "python"
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", "--no-deps", wheel],
        capture_output=True,
        text=True,
    )
    assert installed.returncode == 0, installed.stderr
    assert not {"generation", "builders", "tests", "benchmarks"} & {path.name for path in site.iterdir()}
    (tmp_path / "elsewhere").mkdir()

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        full = [str(home / "bin" / words[0]), *words[1:]]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may name the sources
        return subprocess.run(full, capture_output=True, text=True, cwd=tmp_path / "elsewhere", env=env, timeout=300)

    where = command("python", "-c", "import modelzoo_datasets; print(modelzoo_datasets.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(site)
    recipe = "fashion-mnist-5k-cnn-s/seed"
    made = command("modelzoo-generate", recipe, "--models", "1-1", "--epochs", "1", "--threads", "1", "--out", "zoo")
    assert made.returncode == 0, made.stderr
    assert "native engine" in made.stderr, "the kernel is not compiled from an installed package"
    built = command("modelzoo-build", "zoo", "--out", "dataset")
    assert built.returncode == 0, built.stderr
    assert "# Fashion-MNIST 5k, small CNN" in (tmp_path / "elsewhere" / "dataset" / "README.md").read_text()
    for name in ("modelzoo-hyperrep", "modelzoo-demo"):
        assert command(name, "--help").returncode == 0
