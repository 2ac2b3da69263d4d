"""The files that a folder publishes; incomplete folders are rejected before any request."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modelzoo_datasets.errors import ArgumentError, FormatError
from modelzoo_datasets.hub import check_destination, read_manifest


def _without_card(folder: Path) -> str:
    (folder / "README.md").unlink()
    return f"{folder} is incomplete: it has no README.md; build it again with modelzoo-build"


def _without_layout(folder: Path) -> str:
    (folder / "layout.json").unlink()
    return f"{folder} is incomplete: it has no layout.json; build it again with modelzoo-build"


def _without_header(folder: Path) -> str:
    (folder / "README.md").write_text("# A card\n")
    header = "no YAML header with `configs` and their `data_files`"
    return f"{folder}/README.md has {header}; build it again with modelzoo-build"


def _without_a_split(folder: Path) -> str:
    (folder / "hyp" / "test-00000-of-00001.parquet").unlink()
    return f"{folder} is incomplete: it has no hyp/test-*.parquet; build it again with modelzoo-build"


def _without_a_shard(folder: Path) -> str:
    (folder / "hyp" / "test-00000-of-00001.parquet").rename(folder / "hyp" / "test-00000-of-00002.parquet")
    missing = "hyp/test-00001-of-00002.parquet"
    return f"{folder} is incomplete: it has no {missing}; build it again with modelzoo-build"


def _with_shards_of_two_builds(folder: Path) -> str:
    shutil.copy(folder / "hyp" / "test-00000-of-00001.parquet", folder / "hyp" / "test-00001-of-00002.parquet")
    extra = "hyp/test-00001-of-00002.parquet"
    return f"{folder} has shards of two builds, such as {extra}; build it again with modelzoo-build"


def _of_an_older_format(folder: Path) -> str:
    facts = json.loads((folder / "zoo.json").read_text())
    (folder / "zoo.json").write_text(json.dumps(facts | {"format": "modelzoo-dataset-1"}))
    return (
        f"{folder} has format 'modelzoo-dataset-1', but modelzoo-push expects 'modelzoo-dataset-4'; "
        "build it from its zoo folders with modelzoo-build"
    )


def _no_dataset(folder: Path) -> str:
    (folder / "zoo.json").unlink()
    return f"{folder} is not a dataset folder: it has no zoo.json; build one with modelzoo-build"


def _with_a_config_the_hub_refuses(folder: Path) -> str:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("config_name: hyp\n", "config_name: hyp?\n"))
    return (
        f"{folder}: the Hub does not accept 'hyp?' as the name of a config: it must not contain any of "
        "< > : / \\ | ? *, begin with a dot or be 'data'; rename the config in its recipe"
    )


def _with_a_config_the_card_does_not_name(folder: Path) -> str:
    facts = json.loads((folder / "zoo.json").read_text())
    facts["configs"]["more"] = facts["configs"]["hyp"]
    (folder / "zoo.json").write_text(json.dumps(facts))
    return f"{folder} is incomplete: its README.md has no config 'more'; build it again with modelzoo-build"


def _with_a_loading_script(folder: Path) -> str:
    (folder / "tiny.py").touch()
    return f"{folder}: `datasets` does not load a repo that contains tiny.py; delete this file"


def _with_too_many_files(folder: Path) -> str:
    (folder / "weights").mkdir()
    for number in range(10_001):
        (folder / "weights" / f"{number}").touch()
    return (
        f"{folder}/weights: 10,001 files exceed the Hub's limit of 10,000 a folder; publish it as several datasets, "
        "or build it with larger shards"
    )


@pytest.mark.parametrize(
    "spoil",
    [
        _without_card,
        _without_layout,
        _without_header,
        _without_a_split,
        _without_a_shard,
        _with_shards_of_two_builds,
        _of_an_older_format,
        _no_dataset,
        _with_a_config_the_hub_refuses,
        _with_a_config_the_card_does_not_name,
        _with_a_loading_script,
        _with_too_many_files,
    ],
)
def test_a_folder_that_cannot_be_published_is_refused(spoil: Callable[[Path], str], dataset: Path) -> None:
    told = spoil(dataset)
    with pytest.raises(FormatError) as caught:
        read_manifest(dataset, "zoos/tiny")
    assert str(caught.value) == told


def test_hidden_files_are_not_published(dataset: Path) -> None:
    (dataset / ".env").write_text("HF_TOKEN=hf_writer")
    (dataset / ".cache").mkdir()
    (dataset / ".cache" / "draft.md").touch()
    assert not [file.path for file in read_manifest(dataset, "zoos/tiny").files if file.path.startswith(".")]


@pytest.mark.parametrize(
    ("repo_id", "revision", "create_pr", "told"),
    [
        ("tiny", None, False, "'tiny' is not a valid repo id; expected ORG/NAME, e.g. modelzoos/mnist-cnn-s"),
        ("a/b/c", None, False, "'a/b/c' is not a valid repo id; expected ORG/NAME, e.g. modelzoos/mnist-cnn-s"),
        ("a/b c", None, False, "'a/b c' is not a valid repo id; expected ORG/NAME, e.g. modelzoos/mnist-cnn-s"),
        ("a/b", "0" * 40, False, f"cannot push to a commit; --revision must be a branch, got '{'0' * 40}'"),
        (
            "a/b",
            "draft",
            True,
            "--create-pr opens a pull request against main and takes no other --revision; to update an open pull "
            "request, pass --revision refs/pr/N alone",
        ),
    ],
)
def test_what_cannot_be_pushed_to_is_refused(repo_id: str, revision: str | None, create_pr: bool, told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        check_destination(repo_id, revision, create_pr)
    assert str(caught.value) == told
