"""The commands as users meet them: help, version, and failures as one line with exit status 2."""

import importlib.util
import shutil
import tomllib
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.processes import hashes, run

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
COMMANDS = sorted(SCRIPTS)
SUBCOMMANDS = [
    *([name] for name in COMMANDS),
    *(["modelzoo-hyperrep", sub] for sub in ("train", "embed", "probe", "sample", "evaluate")),
]


@pytest.mark.parametrize("words", SUBCOMMANDS, ids=" ".join)
def test_help_shows_an_example(words: list[str]) -> None:
    result = run([*words, "--help"])
    assert result.returncode == 0
    assert "Example: " + " ".join(words) in " ".join(result.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_version_is_printed(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run([name, "--version"]).stdout == f"{name} {version}\n"


def _fails(words: list[str | Path], message: str) -> None:
    """One line on stderr, word by word, exit status 2, nothing on stdout."""
    result = run(words)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"{words[0]}: {message}\n")


def test_an_unknown_recipe_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    _fails(
        ["modelzoo-generate", "fashion-mnist-5k-cnn/seed", "--out", tmp_path / "zoo"],
        "unknown recipe 'fashion-mnist-5k-cnn'; did you mean 'fashion-mnist-5k-cnn-s'?",
    )
    assert not (tmp_path / "zoo").exists()


def test_an_unknown_key_in_a_recipe_is_answered_with_the_nearest_one(tmp_path: Path, tiny_recipe: Path) -> None:
    (tmp_path / "bad.toml").write_text(tiny_recipe.read_text().replace("batch_size", "batchsize"))
    _fails(
        ["modelzoo-generate", tmp_path / "bad.toml", "--out", tmp_path / "zoo"],
        "recipe bad.toml: [configs.seed] has no key 'batchsize'; did you mean 'batch_size'?",
    )


def test_the_folder_of_another_recipe_is_left_alone(tmp_path: Path, tiny_zoo: Path, tiny_recipe: Path) -> None:
    before = hashes(tiny_zoo)
    result = run(["modelzoo-generate", f"{tiny_recipe}/hyp", "--out", tiny_zoo, "--engine", "torch"])
    assert result.returncode == 2
    assert result.stderr == (
        f"modelzoo-generate: {tiny_zoo} holds another zoo: its name is 'tiny/seed', not 'tiny/hyp'; "
        "choose another --out\n"
    )
    assert hashes(tiny_zoo) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, tiny_recipe: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not overwrite")
    _fails(
        ["modelzoo-generate", f"{tiny_recipe}/seed", "--out", tmp_path],
        f"{tmp_path} is not empty and no zoo; choose another --out",
    )


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path, tiny_recipe: Path) -> None:
    (tmp_path / "zoo").write_text("a file")
    _fails(
        ["modelzoo-generate", f"{tiny_recipe}/seed", "--out", tmp_path / "zoo"],
        f"{tmp_path / 'zoo'} is not empty and no zoo; choose another --out",
    )


def test_a_truncated_state_file_is_named(tmp_path: Path, tiny_zoo: Path) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(tiny_zoo, zoo)
    state = zoo / "states" / "seed-00001" / "epoch-001.safetensors"
    state.write_bytes(state.read_bytes()[:-7])
    result = run(["modelzoo-build", zoo, "--out", tmp_path / "dataset"])
    assert result.returncode == 2
    *notes, line = result.stderr.splitlines()
    assert line.startswith(f"modelzoo-build: cannot read state file {state}: ")
    assert all(note.startswith("pyarrow ") for note in notes), "an old one, which cuts pages by size"
    assert not (tmp_path / "dataset").exists()


NO_INTEGER = (  # typer has its own words since it reads options with pydantic
    "Input should be a valid integer, unable to parse string as an integer"
    if importlib.util.find_spec("typer._coercion")
    else "'x' is not a valid integer"
)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("modelzoo-build nowhere", "Missing option '--out'; see modelzoo-build --help"),
        ("modelzoo-import nowhere", "Missing option '--out'; see modelzoo-import --help"),
        ("modelzoo-verify", "Missing argument 'DIR'; see modelzoo-verify --help"),
        ("modelzoo-generate --nope", "No such option: --nope; see modelzoo-generate --help"),
        ("modelzoo-hyperrep", "Missing command; see modelzoo-hyperrep --help"),
        ("modelzoo-hyperrep nope", "No such command 'nope'; see modelzoo-hyperrep --help"),
        ("modelzoo-hyperrep embed nowhere", "Missing option '--hyperrep'; see modelzoo-hyperrep embed --help"),
        (
            "modelzoo-generate mnist-cnn-s/seed --epochs x",
            f"Invalid value for '--epochs': {NO_INTEGER}; see modelzoo-generate --help",
        ),
    ],
)
def test_wrong_words_are_one_line_that_names_the_help(words: str, told: str) -> None:
    _fails([*words.split()], told)


ZOO_SOURCES = "modelzoo-generate or modelzoo-import"
FOLDER_SOURCES = "modelzoo-generate, modelzoo-import or modelzoo-build"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "modelzoo-build nowhere --out out",
            f"nowhere is not a zoo folder: it does not exist; pass a folder from {ZOO_SOURCES}",
        ),
        ("modelzoo-build file --out out", f"file is not a zoo folder: it is a file; pass a folder from {ZOO_SOURCES}"),
        (
            "modelzoo-build empty --out out",
            f"empty is not a zoo folder: it has no zoo.json; pass a folder from {ZOO_SOURCES}",
        ),
        (
            "modelzoo-import nowhere --out out --format model-zoos",
            "there is no folder or archive nowhere; pass a folder, zip or tar archive of a published zoo",
        ),
        (
            "modelzoo-import empty --out out --format safetensors",
            "empty must have one table of its states, a .csv or .parquet with a column 'file' beside them, but has "
            "none; write one",
        ),
        (
            "modelzoo-import empty --out out --format small-cnn-zoo",
            "empty is not a zoo of format small-cnn-zoo: weights.npy is missing; is --format right?",
        ),
        (
            "modelzoo-verify nowhere",
            f"nowhere is not a zoo folder or dataset folder: it does not exist; pass a folder from {FOLDER_SOURCES}",
        ),
        (
            "modelzoo-push nowhere zoos/one",
            "nowhere is not a dataset folder: it does not exist; build one with modelzoo-build",
        ),
        (
            "modelzoo-hyperrep train nowhere --out out",
            "nowhere is not a dataset folder or ORG/NAME on the Hub; build one with modelzoo-build",
        ),
        (
            "modelzoo-hyperrep sample --hyperrep nowhere --out out",
            "nowhere is not a folder of a hyper-representation or ORG/NAME on the Hub; "
            "make one with modelzoo-hyperrep train",
        ),
        (
            "modelzoo-generate nowhere.py --out out --plugin nowhere.py",
            "there is no plugin file HERE/nowhere.py; pass the Python file that registers your architectures or images",
        ),
        (
            "modelzoo-demo --out out --hyper-recipe nowhere.toml",
            "there is no recipe file nowhere.toml; pass a TOML file or one of demo, fashion-mnist",
        ),
    ],
)
def test_a_path_without_what_is_expected_is_one_line_with_a_remedy(words: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    result = run(words.split(), cwd=tmp_path)
    line = f"{words.split()[0]}: {told.replace('HERE', str(tmp_path))}\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "expected a recipe and a folder: modelzoo-generate RECIPE[/CONFIG] --out DIR, or --list"),
        (["RECIPE/seed"], "expected a recipe and a folder: modelzoo-generate RECIPE[/CONFIG] --out DIR, or --list"),
        (["RECIPE/sed", "--out", "zoo"], "recipe tiny: unknown config 'sed'; did you mean 'seed'?"),
        (["RECIPE", "--out", "zoo", "--storage", "tar"], "--storage must be states or packed, got 'tar'"),
        (["RECIPE", "--out", "zoo", "--layout", "tar"], "--storage must be states or packed, got 'tar'"),
        (
            ["RECIPE", "--out", "zoo", "--storage", "states", "--layout", "packed"],
            "--storage states and --layout packed contradict each other: --layout is the former name of --storage; "
            "pass only --storage",
        ),
        (["RECIPE", "--out", "zoo", "--models", "5-30"], "models 5-30: the grid has models 1-20"),
        (["RECIPE", "--out", "zoo", "--epochs", "-1"], "epochs must be positive, got -1"),
        (["RECIPE", "--out", "zoo", "--cohort", "3"], "--cohort must look like 3/40, got '3'"),
        (
            ["RECIPE", "--out", "zoo", "--cohort", "1/4", "--ray", "local"],
            "--cohort and --ray are alternative ways to distribute the work; pass only one of them",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(
    words: list[str], told: str, tiny_recipe: Path, tmp_path: Path
) -> None:
    out = {"zoo": str(tmp_path / "zoo")}
    words = [out.get(word, word.replace("RECIPE", str(tiny_recipe))) for word in words]
    _fails(["modelzoo-generate", *words], told)
    assert not list(tmp_path.iterdir())


def test_many_files_are_told_of_with_the_remedy(tmp_path: Path) -> None:
    told = "modelzoo-generate: svhn-cnn-s/hyp-10-fix will be 220,320 files; --storage packed writes one per 100 models"
    refused = "modelzoo-generate: --cohort must look like 3/40, got '?'"
    for config, more, lines in (
        ("hyp-10-fix", [], [told, refused]),
        ("hyp-10-fix", ["--storage", "packed"], [refused]),
        ("hyp-10-fix", ["--layout", "packed"], [refused]),
        ("hyp-10-fix", ["--layout", "packed", "--storage", "packed"], [refused]),
        ("hyp-10-fix", ["--models", "1-1000"], [refused]),
        ("seed", [], [refused]),
    ):
        result = run(["modelzoo-generate", f"svhn-cnn-s/{config}", "--out", tmp_path / "zoo", "--cohort", "?", *more])
        assert result.stderr.splitlines() == lines


@pytest.mark.parametrize("name", COMMANDS)
def test_help_does_not_wait_for_torch(name: str) -> None:
    module = SCRIPTS[name].partition(":")[0]
    heavy = "{'torch', 'pandas', 'datasets', 'ray', 'matplotlib'} & set(sys.modules)"
    result = run(["python", "-c", f"import sys, {module}; print({heavy})"])
    assert (result.stdout, result.stderr) == ("set()\n", "")


def test_an_engine_that_is_not_there_is_an_error(tmp_path: Path, tiny_recipe: Path) -> None:
    _fails(
        ["modelzoo-generate", tiny_recipe, "--out", tmp_path / "zoo", "--engine", "jax"],
        "unknown engine 'jax'; this release has auto, torch, native, cuda",
    )


def test_missing_images_are_one_line_with_the_remedy(tmp_path: Path, tiny_recipe: Path) -> None:
    recipe = tmp_path / "mnist.toml"
    recipe.write_text(tiny_recipe.read_text().replace("fashion-mnist-5k", "mnist"))
    root = tmp_path / "images"
    root.write_text("not a folder, so nothing can be downloaded into it")
    result = run(["modelzoo-generate", recipe, "--out", tmp_path / "zoo", "--images-root", root])
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"put its idx files there and pass --images-root {root}" in result.stderr
