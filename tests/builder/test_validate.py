"""Zoos that cannot become a dataset: the error says what to do, and no files are left."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import random_zoos

from modelzoo_datasets import build_dataset
from modelzoo_datasets.builder import schema
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.hub import manifest
from modelzoo_datasets.verification import verify_folder
from modelzoo_datasets.zoo import read_json, write_json


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Six models of random states."""
    random_zoos.write_zoo(tmp_path / "zoo", random_zoos.recipe(models=6, epochs=1), "states")
    return tmp_path / "zoo"


def change(folder: Path, **values: object) -> None:
    write_json(folder / "zoo.json", read_json(folder / "zoo.json") | values)


def rename(folder: Path, config: str) -> None:
    change(folder, recipe=read_json(folder / "zoo.json")["recipe"] | {"config": config})


def refused(*zoos: Path) -> str:
    """The message; nothing is left of the dataset."""
    out = zoos[0].parent / "out"
    with pytest.raises(FormatError) as caught:
        build_dataset(zoos, out)
    assert not list(out.parent.glob("*out*")) + list(out.parent.glob(".*"))
    return str(caught.value)


@pytest.mark.parametrize("name", ["a:b", "data", "a/b", "why?", "<all>", "a|b", "*", ".hidden", "a\\b"])
def test_a_name_that_the_hub_refuses(zoo: Path, name: str) -> None:
    rename(zoo, name)
    assert refused(zoo) == (
        f"{zoo}: the Hub does not accept {name!r} as the name of a config: it must not contain any of "
        "< > : / \\ | ? *, begin with a dot or be 'data'; rename the config in its recipe"
    )


def test_a_config_called_like_the_index_of_another(zoo: Path) -> None:
    other = Path(shutil.copytree(zoo, zoo.parent / "other"))
    rename(other, "seed_index")
    assert refused(zoo, other) == "'seed_index' is also the name of the index of config 'seed'; build them separately"


def test_zoos_of_one_architecture_by_name_alone(zoo: Path) -> None:
    other = Path(shutil.copytree(zoo, zoo.parent / "other"))
    rename(other, "hyp")
    layout = read_json(other / "zoo.json")["layout"]
    change(other, layout=[{**layout[0], "name": "conv.weight"}, *layout[1:]])
    assert refused(zoo, other) == (
        f"all zoos of a dataset must have the same layout: the tensors of {other} differ from those of {zoo}; "
        "build them separately"
    )


def test_states_of_another_layout_than_the_zoo_says(zoo: Path) -> None:
    layout = read_json(zoo / "zoo.json")["layout"]
    change(zoo, layout=[{**layout[0], "shape": [8, 1, 25, 1]}, *layout[1:]])
    path = zoo / "states" / "seed-00001" / "epoch-000.safetensors"
    assert refused(zoo) == (
        f"{path} is no state of {zoo}: module_list.0.weight: expected shape (8, 1, 25, 1), got (8, 1, 5, 5)"
    )


def test_a_zoo_that_is_not_complete(zoo: Path) -> None:
    (zoo / "states.parquet").unlink()
    assert refused(zoo) == f"{zoo} is not complete; run its modelzoo-generate command again"


def _missing(path: Path) -> str:
    path.unlink()
    return "[Errno 2] No such file or directory"


def _truncated(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:100])  # which is the beginning of its header
    return "Error while deserializing: "  # in the words of a release of safetensors


@pytest.mark.parametrize("spoil", [_missing, _truncated])
def test_a_state_that_cannot_be_read(zoo: Path, spoil: Callable[[Path], str]) -> None:
    path = zoo / "states" / "seed-00004" / "epoch-001.safetensors"
    why = spoil(path)
    told = refused(zoo)
    assert told.startswith(f"cannot read state file {path}: {why}")
    assert told.endswith("; run modelzoo-generate again to restore it")


def test_a_zoo_of_an_older_format(zoo: Path) -> None:
    change(zoo, format="modelzoo-zoo-1")
    assert refused(zoo) == (
        f"{zoo} has zoo format 'modelzoo-zoo-1', but this release reads 'modelzoo-zoo-2'; "
        "make the zoo again with modelzoo-generate"
    )


def test_a_dataset_in_the_place_of_a_zoo(zoo: Path) -> None:
    dataset = zoo.parent / "dataset"
    build_dataset([zoo], dataset)
    assert refused(dataset) == f"{dataset} is a dataset folder; name the zoo folders that it was built from"


def test_a_dataset_of_an_older_format_is_neither_overwritten_nor_verified(zoo: Path, tmp_path: Path) -> None:
    build_dataset([zoo], tmp_path / "out")
    change(tmp_path / "out", format="modelzoo-dataset-2")
    with pytest.raises(FolderInUseError) as building:
        build_dataset([zoo], tmp_path / "out")
    assert str(building.value) == (
        f"output folder {tmp_path / 'out'} contains a dataset of format 'modelzoo-dataset-2', but this release writes "
        "'modelzoo-dataset-4'; pass a different --out or delete it"
    )
    with pytest.raises(FormatError) as verifying:
        verify_folder(tmp_path / "out", images_root=tmp_path)
    assert str(verifying.value) == (
        f"{tmp_path / 'out'} has dataset format 'modelzoo-dataset-2', which load_zoo reads, but which has no checksums "
        "to verify; build it again from its zoo folders with modelzoo-build"
    )


def test_more_files_than_the_hub_takes(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MAX_INLINE_PARAMETERS", 1000)
    monkeypatch.setattr(manifest, "_MAX_FILES", 5)
    out = zoo.parent / "out"
    assert refused(zoo) == f"{out}: 6 files exceed the Hub's limit of 5 a repo; build several datasets"
    monkeypatch.setattr(manifest, "_MAX_FILES", 6)
    monkeypatch.setattr(manifest, "_MAX_FILES_PER_FOLDER", 1)
    told = f"{out}/weights/seed/train: 5 files exceed the Hub's limit of 1 a folder; build several datasets"
    assert refused(zoo) == told
