"""Documents cannot drift: what the README shows is run."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.processes import BIN, run, run_code

from modelzoo_datasets import build_dataset, generate_zoo, read_recipe

INDEXES = ("generation", "builders", "hyperrep/recipes", "benchmarks")
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / folder / "README.md" for folder in INDEXES)}
)
TARGETS = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands() -> list[str]:
    """Every command of the README's console blocks, continuation lines joined, comments dropped."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the Hub and GitHub make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_make_targets_of_the_readme_exist() -> None:
    named = [words[1] for words in map(shlex.split, commands()) if words[0] == "make"]
    assert {"demo", "test"} <= set(named) <= set(TARGETS)


@pytest.fixture(scope="module")
def folder_after_the_demo(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `demo/dataset` in it, of the demo's epochs but with fewer models and larger batches."""
    folder = tmp_path_factory.mktemp("readme")
    zoo, recipe = folder / "demo" / "zoo" / "seed", read_recipe(str(tiny_recipe))
    generate_zoo(recipe, zoo, config="seed", images_root=folder / "images", epochs=10)
    build_dataset([zoo], folder / "demo" / "dataset")
    return folder


def test_commands_and_python_of_the_readme_run(folder_after_the_demo: Path) -> None:
    """All modelzoo-* commands in their order, then every Python block, each in a process of its own."""
    caches = {**os.environ, "HF_HOME": str(folder_after_the_demo / "caches"), "HF_HUB_OFFLINE": "1"}
    for command in commands():
        words = shlex.split(command)
        if words[0].startswith("modelzoo-"):
            result = run(words, cwd=folder_after_the_demo)
            assert result.returncode == 0, f"{command}\n{result.stderr}"
    for block in blocks("python"):
        result = run_code(block, cwd=folder_after_the_demo, env=caches)
        assert result.returncode == 0, f"{block}\n{result.stderr}"


def test_every_command_of_the_readme_is_one_that_is_installed() -> None:
    for command in commands():
        program = shlex.split(command)[0]
        assert (BIN / program).exists() or shutil.which(program), program


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_pictures_files_and_headings_that_a_page_links_to_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1000
