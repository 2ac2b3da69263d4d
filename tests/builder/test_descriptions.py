"""What a dataset carries for people: source of the module, images and splits; deterministic, and never run."""

import dataclasses
import importlib.util
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modelzoo_datasets import load_zoo
from modelzoo_datasets.architectures import (
    Architecture,
    architecture_from_layout,
    architecture_names,
    build_module,
    get_architecture,
    is_own,
)
from modelzoo_datasets.builder.image_files import describe_images, write_image_files
from modelzoo_datasets.builder.module_file import find_module_path, find_plugin, write_module_file
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.hub.manifest import read_manifest
from modelzoo_datasets.images import Split, get_image_dataset, list_split_indices
from modelzoo_datasets.images.image_data import split_train
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.verification.description_checks import check_descriptions
from modelzoo_datasets.weights import Layout
from modelzoo_datasets.zoo import DatasetInfo, ZooInfo


def run(text: str) -> dict[str, Any]:
    """What a person gets who imports the file."""
    scope: dict[str, Any] = {}
    exec(text, scope)
    return scope


def written(architecture: Architecture) -> str:
    text = write_module_file(architecture)
    assert text is not None
    return text


CHAINS = ("cnn-s", "cnn-s-rgb", "cnn-m", "cnn-m-7", "small-cnn", "small-cnn-colour")
BRANCHES = ("res-cnn", "cnn-residual", "cnn-more-layers", "cnn-more-layers-residual")


@pytest.mark.parametrize("name", [*CHAINS, *BRANCHES, "resnet18"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_file_is_the_network_of_a_row(name: str, dropout: float) -> None:
    architecture = get_architecture(name)
    if dropout and not architecture.takes_dropout:
        pytest.skip("it has no dropout")
    scope, layout = run(written(architecture)), architecture.layout.to_json()
    weights = torch.rand(architecture.layout.size, generator=keyed_generator(0, "weights")) / 8
    images = torch.rand(2, *architecture.input_shape, generator=keyed_generator(0, "images"))
    own = build_module(architecture, weights, activation="gelu", dropout=dropout)
    module = scope["fill_module"](scope["build_module"]("gelu", dropout), weights, layout)
    assert module(images).equal(own(images))
    counts = [[layer.p for layer in made.modules() if isinstance(layer, nn.Dropout)] for made in (module, own)]
    assert counts[0] == counts[1]


def test_every_architecture_of_this_package_has_a_file() -> None:
    assert all(write_module_file(get_architecture(name)) for name in architecture_names() if not is_own(name))


@pytest.mark.parametrize("name", ["cnn-s", *BRANCHES])
def test_weights_in_another_order_are_filled_by_name(name: str) -> None:
    architecture = get_architecture(name)
    slots, start = [], 0
    for slot in reversed(architecture.layout.slots):
        slots.append(dataclasses.replace(slot, start=start))
        start += slot.size
    stored, scope = architecture.with_layout(Layout(tuple(slots))), run(written(architecture))
    weights = torch.rand(start, generator=keyed_generator(0, "weights")) / 8
    images = torch.rand(2, *architecture.input_shape, generator=keyed_generator(0, "images"))
    module = scope["fill_module"](scope["build_module"]("tanh"), weights, stored.layout.to_json())
    assert module(images).equal(build_module(stored, weights, activation="tanh")(images))


def test_a_network_without_a_module_has_no_file() -> None:
    assert write_module_file(architecture_from_layout("of-nobody", get_architecture("cnn-s").layout)) is None


def test_a_plugin_is_published_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\n\ndef build(activation, dropout, width=3):\n    return nn.Linear(2, width)\n"
    )
    spec = importlib.util.spec_from_file_location("plugin_of_a_test", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for build in (module.build, partial(module.build, width=4)):
        mine = Architecture("mine", (1, 1, 2), 3, build)
        assert (write_module_file(mine), find_plugin(mine)) == (file.read_text(), file)
    assert find_plugin(get_architecture("cnn-s")) is None


def test_what_was_typed_has_no_source() -> None:
    scope = run("from torch import nn\ndef build(activation, dropout):\n    return nn.Linear(2, 3)\n")
    scope["build"].__module__ = "__main__"
    assert write_module_file(Architecture("typed", (1, 1, 2), 3, scope["build"])) is None


@pytest.mark.parametrize("name", ["../mine", "a/b", ".hidden", "", "a b"])
def test_a_name_is_no_path(name: str) -> None:
    assert find_module_path(name) is None


# Images.


def test_splits_are_those_of_training() -> None:
    labels = torch.arange(50)
    train = Split(labels.to(torch.uint8).view(-1, 1, 1, 1), labels)
    parts = {**split_train(train, 40), "test": Split(train.pixels[:7], labels[:7])}
    indices = list_split_indices((40, 10, 7))
    assert {name: part.labels.tolist() for name, part in parts.items()} == {
        name: index.tolist() for name, index in indices.items()
    }
    assert [*list_split_indices((50, 0, 7))] == ["train", "test"]
    assert list_split_indices((50, 0, 7))["train"].tolist() == split_train(train, 50)["train"].labels.tolist()


def test_a_dataset_says_how_its_images_are_prepared_and_split(tiny_dataset: Path) -> None:
    told, images = json.loads((tiny_dataset / "images.json").read_text()), get_image_dataset("fashion-mnist-5k")
    zoo = DatasetInfo.read(tiny_dataset).configs["seed"]
    assert (told["name"], told["sha256"], told["classes"]) == (images.name, zoo.images_sha256, 10)
    assert (told["mean"], told["std"], told["input_shape"]) == ([0.5], [0.5], [1, 28, 28])
    assert told["class_names"] == list(images.class_names) and len(images.class_names) == 10
    assert told["augmentation"] == {"seed": ["none"], "hyp": ["none"]}
    assert told["splits"]["validation"] == {"images": 800, "official": "train"}
    indices = load_file(tiny_dataset / "splits.safetensors")
    assert {name: (len(index), index.dtype) for name, index in indices.items()} == {
        "train": (4200, torch.int32),
        "validation": (800, torch.int32),
        "test": (1000, torch.int32),
    }
    assert sorted([*indices["train"].tolist(), *indices["validation"].tolist()]) == list(range(5000))


@pytest.fixture
def zoo(tiny_dataset: Path) -> ZooInfo:
    return DatasetInfo.read(tiny_dataset).configs["seed"]


def test_functions_that_prepare_images_are_named(zoo: ZooInfo) -> None:
    assert describe_images([zoo], get_image_dataset("cifar10-28"))["prepare"] == "resize(size=28)"
    assert describe_images([zoo], get_image_dataset("cifar10"))["prepare"] is None


def test_of_images_that_nobody_registered_it_says_what_is_unknown(zoo: ZooInfo) -> None:
    files = write_image_files([dataclasses.replace(zoo, images="of-nobody")])
    told = json.loads(files["images.json"])
    assert [*files] == ["images.json"] and told["name"] == "of-nobody"
    assert {"mean", "std", "splits", "input_shape"} <= {*told["unknown"]}


# What modelzoo-verify says, and what is pushed.


@pytest.fixture
def copied(tiny_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset, tmp_path / "dataset"))


def problems(folder: Path, **changes: Any) -> list[str]:
    zoos = [dataclasses.replace(zoo, **changes) for zoo in DatasetInfo.read(folder).configs.values()]
    check = check_descriptions(folder, zoos)
    assert check.n == 3
    return check.problems


def test_descriptions_of_the_zoo_pass(copied: Path) -> None:
    assert problems(copied) == []
    text = (copied / "code" / "cnn-s.py").read_text()
    (copied / "code" / "cnn-s.py").write_text(text.replace("a copy for people", "words of another release"))
    assert problems(copied) == []


def test_other_descriptions_are_told_in_a_line_each(copied: Path) -> None:
    told = json.loads((copied / "images.json").read_text())
    (copied / "images.json").write_text(json.dumps(told | {"mean": [0.1]}))
    indices = load_file(copied / "splits.safetensors")
    save_file(indices | {"train": indices["train"].flip(0)}, copied / "splits.safetensors")
    file = copied / "code" / "cnn-s.py"
    file.write_text(file.read_text().replace("nn.Conv2d(1, 8", "nn.Conv2d(1, 9"))
    assert [line.partition("; ")[0] for line in problems(copied)] == [
        f"{copied / 'images.json'} is not what the registered images give",
        f"{copied / 'splits.safetensors'} is not what the registered images give",
        f"{file} is not the network of this architecture",
    ]
    for path in (copied / "images.json", copied / "splits.safetensors", file):
        path.unlink()
    names = ("images.json", "splits.safetensors", "code/cnn-s.py")
    missing = [f"{copied / name} is missing or cannot be read" for name in names]
    assert [line.partition("; ")[0] for line in problems(copied)] == missing


def test_a_dataset_that_was_built_where_nobody_registered_the_images_passes(copied: Path) -> None:
    zoos = list(DatasetInfo.read(copied).configs.values())
    (copied / "images.json").write_bytes(write_image_files(zoos, registered=False)["images.json"])
    (copied / "splits.safetensors").unlink()
    assert check_descriptions(copied, zoos).problems == []
    assert [line.partition("; ")[0] for line in problems(copied, images_sha256="0" * 64)] == [
        f"{copied / 'images.json'} is not what the registered images give",
        f"{copied / 'splits.safetensors'} is missing or cannot be read",
    ]


def test_code_of_a_dataset_is_never_run(copied: Path) -> None:
    file = copied / "code" / "cnn-s.py"
    file.write_text(f"open({str(copied / 'ran')!r}, 'w')\n" + file.read_text())
    assert len(problems(copied)) == 1
    load_zoo(copied, "seed").model(0)
    assert not (copied / "ran").exists()


def test_all_of_it_is_pushed_and_must_be_there(copied: Path) -> None:
    paths = {file.path for file in read_manifest(copied, "me/tiny").files}
    assert {"code/cnn-s.py", "images.json", "splits.safetensors"} <= paths
    (copied / "images.json").unlink()
    with pytest.raises(FormatError, match="is incomplete: it has no images.json; build it again with modelzoo-build$"):
        read_manifest(copied, "me/tiny")
