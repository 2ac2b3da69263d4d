"""A recipe is chosen by what a dataset is, and training, probes and evaluation run without naming one."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hyperrep import choose_recipe, read_hyper_recipe
from hyperrep.data import read_stored_recipe
from hyperrep.recipe import HyperRecipe
from modelzoo_datasets.errors import FormatError


def describe(folder: Path, dataset: Path, **changes: Any) -> Path:
    """A folder with the zoo.json of a dataset whose config `seed` has other values; "axes" are merged."""
    values = json.loads((dataset / "zoo.json").read_text())
    seed = values["configs"]["seed"]
    seed["recipe"]["axes"] |= changes.pop("axes", {})
    seed |= changes
    values["configs"] = {"seed": seed}
    folder.mkdir()
    (folder / "zoo.json").write_text(json.dumps(values))
    return folder


def test_a_shipped_recipe_is_chosen_for_the_dataset_that_it_was_made_for(tiny_dataset: Path, tmp_path: Path) -> None:
    demo = describe(tmp_path / "demo", tiny_dataset, axes={"epochs": [10]})
    study = describe(tmp_path / "study", tiny_dataset, images="fashion-mnist", axes={"epochs": [50]})
    for folder, name in ((demo, "demo"), (study, "fashion-mnist")):
        choice = choose_recipe(folder)
        assert choice.recipe == read_hyper_recipe(name)
        assert choice.reason == f"it is for cnn-s on {name.replace('demo', 'fashion-mnist-5k')}"


def test_a_recipe_is_adapted_and_says_to_what(tiny_dataset: Path, tmp_path: Path) -> None:
    strange = {"images": "my-images", "axes": {"activation": ["relu"]}}
    choice = choose_recipe(describe(tmp_path / "strange", tiny_dataset, **strange))
    assert choice.recipe.name == "fashion-mnist (adapted)"
    assert choice.reason == (
        "no shipped recipe is for cnn-s on my-images; adapted to this dataset: epochs 1 to 2 (shipped: 1 to 25), "
        "batch_size 28, no functional loss, because 'my-images' is not registered here"
    )
    assert not choice.recipe.learning.needs_images
    small = choose_recipe(describe(tmp_path / "small", tiny_dataset, axes={"activation": ["relu"], "epochs": [4]}))
    assert (small.recipe.data.epochs, small.recipe.data.signs) == ((3, 4), False)
    assert "signs are not aligned, because the activation is not tanh" in small.reason


def test_a_config_whose_models_were_trained_alike_comes_first(tiny_dataset: Path, tmp_path: Path) -> None:
    values = json.loads((tiny_dataset / "zoo.json").read_text())
    seed = values["configs"].pop("seed")
    values["configs"]["plain"] = seed | {"recipe": seed["recipe"] | {"config": "plain"}}
    (tmp_path / "zoo.json").write_text(json.dumps(values))
    choice = choose_recipe(tmp_path)
    assert [*values["configs"]] == ["hyp", "plain"] and choice.recipe.data.config == "plain"
    assert "config plain" in choice.reason


def test_twins_alone_have_no_recipe(tiny_dataset: Path, tmp_path: Path) -> None:
    values = json.loads((tiny_dataset / "zoo.json").read_text())
    seed = values["configs"]["seed"]
    parent = {"name": "tiny/seed", "recipe": seed["recipe"], "engine": "torch", "versions": {}}
    twins = seed | {
        "recipe": seed["recipe"] | {"parent": "seed"},
        "parent": parent,
        "variational_layout": seed["layout"],
    }
    (tmp_path / "zoo.json").write_text(json.dumps(values | {"configs": {"seed": twins}}))
    with pytest.raises(FormatError, match="holds sparsified twins alone, for which no recipe is shipped"):
        choose_recipe(tmp_path)


def test_a_folder_stores_its_recipe_and_its_protocol(trained: Path, tiny_hyper: HyperRecipe) -> None:
    assert read_stored_recipe(trained) == tiny_hyper


def test_a_folder_of_an_earlier_release_has_the_protocol_of_its_shipped_recipe(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "hyperrep"))
    values = json.loads((folder / "training.json").read_text())
    del values["evaluation"]
    demo = read_hyper_recipe("demo")
    for recipe, protocol in (
        (demo, demo.evaluation),
        (dataclasses.replace(demo, name="mine"), type(demo.evaluation)()),
        (dataclasses.replace(demo, data=dataclasses.replace(demo.data, epochs=(1, 2))), type(demo.evaluation)()),
    ):
        (folder / "training.json").write_text(json.dumps(values | {"recipe": recipe.to_json()}))
        assert read_stored_recipe(folder).evaluation == protocol
