"""The core without any extra: it loads, streams, encodes and samples, and names the extra that anything else needs."""

import json
import os
import shutil
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from helpers.core_paths import CORE, MISSING
from helpers.paths import ROOT, TESTS
from helpers.processes import run
from helpers.tiny_learning import recipe

from hyperrep import train

PROGRAM = TESTS / "helpers" / "core_paths.py"


@pytest.fixture(scope="module")
def representation(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extras") / "hyperrep"
    train(tiny_dataset, recipe(), out)
    return out


def check(result: Any) -> None:
    """Everything of the core ran, and everything else named its extra in one line."""
    found = json.loads(result.stdout)
    assert found["core"] == CORE
    assert {name: text for name, (status, text) in found["commands"].items() if status} == {}
    assert len(found["commands"]) >= 10
    assert found["modules"] == []
    assert found["missing"].keys() == MISSING.keys()
    for name, (package, extra) in MISSING.items():
        line = found["missing"][name]
        assert line.endswith(f" need {package}, which is not installed: pip install 'modelzoo-datasets[{extra}]'"), name
        assert line.count("\n") == 0, line


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "HF_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_the_core_works_and_names_the_extra_of_what_is_not_installed(
    tiny_zoo: Path, tiny_dataset: Path, representation: Path, tmp_path: Path
) -> None:
    words = [sys.executable, PROGRAM, tiny_zoo, tiny_dataset, representation, "--hide"]
    result = run(words, cwd=tmp_path, env=environment(tmp_path))
    assert result.returncode == 0, result.stderr
    check(result)


@pytest.mark.slow
def test_an_environment_with_the_core_alone(
    tiny_zoo: Path, tiny_dataset: Path, representation: Path, tmp_path: Path
) -> None:
    """The wheel and its dependencies as an installer finds them: needs an index of packages and 6 GB of disk."""
    built = run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT)
    assert built.returncode == 0, built.stderr
    home = tmp_path / "core"
    venv.create(home, with_pip=False, symlinks=True)
    python, (wheel,) = home / "bin" / "python", tmp_path.glob("*.whl")
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    install = (
        [uv, "pip", "install", "-q", "--python", python]
        if uv
        else [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "-q",
        ]
    )
    installed = run([*install, wheel], timeout=580)
    assert installed.returncode == 0, installed.stderr
    env = {name: value for name, value in environment(tmp_path).items() if name != "PYTHONPATH"}
    result = run([python, PROGRAM, tiny_zoo, tiny_dataset, representation], cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    check(result)
