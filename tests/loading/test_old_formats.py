"""Datasets in older formats, one of each in tests/fixtures/old-formats: they are read as before, and verified."""

import shutil
from pathlib import Path

import pytest
import torch
from datasets import load_dataset

from modelzoo_datasets import load_zoo, stream_zoo, verify_folder
from modelzoo_datasets.errors import FormatError

OLD = Path(__file__).parents[1] / "fixtures" / "old-formats"
NUMBERS = (1, 2, 3)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_older_dataset_is_loaded(number: int) -> None:
    zoo = load_zoo(OLD / f"dataset-{number}", cache=False)
    assert (len(zoo), zoo.table["model_id"].nunique(), {*zoo.table["epoch"]}) == (14, 7, {0, 1})
    assert torch.equal(zoo.weights, load_zoo(OLD / "dataset-3", cache=False).weights)
    batches = [batch.weights for batch in stream_zoo(OLD / f"dataset-{number}", batch_size=5)]
    assert torch.equal(torch.cat(batches), zoo.weights)
    assert zoo.model(0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("number", NUMBERS)
def test_loading_an_older_dataset_says_what_it_cannot_notice(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(OLD / f"dataset-{number}", tmp_path / "dataset"))
    load_zoo(folder, cache=False)
    load_zoo(folder, cache=False)
    assert caplog.messages == [
        f"{folder} has the older format 'modelzoo-dataset-{number}', which does not list its files: an exchanged "
        "Parquet file would not be noticed; build it again with modelzoo-build"
    ]


def test_verifying_the_last_older_format_notices_an_exchanged_file(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(OLD / "dataset-3", tmp_path / "dataset"))
    first, second = (next((folder / "seed").glob(f"{split}-*.parquet")) for split in ("train", "validation"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    load_zoo(folder, cache=False)
    failed = {check.name: check.problems for check in verify_folder(folder, states=0) if not check.has_passed}
    assert len(failed["checksums"]) == 2 and "seed: recipe" in failed


@pytest.mark.parametrize("number", NUMBERS)
def test_filters_select_the_same_rows_of_an_older_dataset(number: int) -> None:
    zoo = load_zoo(OLD / f"dataset-{number}", filters=[("epoch", ">", 0), ("test_acc", ">=", 0.0)], cache=False)
    assert len(zoo) == 7 and {*zoo.table["epoch"]} == {1}


@pytest.mark.parametrize("number", NUMBERS)
def test_an_older_dataset_is_loaded_without_this_package(number: int, tmp_path: Path) -> None:
    rows = load_dataset(str(OLD / f"dataset-{number}"), "seed", split="train", cache_dir=str(tmp_path))
    zoo = load_zoo(OLD / f"dataset-{number}", split="train", cache=False)
    assert torch.equal(torch.tensor(rows["weights"][:]), zoo.weights)


@pytest.mark.parametrize("number", [1, 2])
def test_a_format_without_checksums_is_not_verified(number: int) -> None:
    folder = OLD / f"dataset-{number}"
    with pytest.raises(FormatError) as caught:
        verify_folder(folder)
    assert str(caught.value) == (
        f"{folder} has dataset format 'modelzoo-dataset-{number}', which load_zoo reads, but which has no checksums to "
        "verify; build it again from its zoo folders with modelzoo-build"
    )


def test_the_last_older_format_is_verified_with_a_note() -> None:
    checks = verify_folder(OLD / "dataset-3", states=3)
    assert [check.name for check in checks if not check.has_passed] == []
    assert checks[0].notes == [
        "modelzoo-dataset-3 is older than modelzoo-dataset-4; build it again from its zoo folders with modelzoo-build"
    ]


def test_a_wrong_weight_of_an_older_dataset_is_found(tmp_path: Path) -> None:
    shutil.copytree(OLD / "dataset-3", tmp_path / "dataset")
    (tmp_path / "dataset" / "layout.json").write_text("[]")
    assert not all(check.has_passed for check in verify_folder(tmp_path / "dataset", states=0))
