"""The names that published zoos have on disk say which of our recipes they are; ResNets come with all their buffers."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from helpers.networks import random_states
from helpers.originals import Style, params_of, trial_name, write_checkpoint

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.images import ImageDataset, Split, load_images
from modelzoo_datasets.images import registry as images_registry
from modelzoo_datasets.images.registry import get_image_dataset, image_dataset_names, register_images
from modelzoo_datasets.importers import import_zoo
from modelzoo_datasets.importers.base import Overrides
from modelzoo_datasets.importers.identity import identify
from modelzoo_datasets.verification import verify_folder
from modelzoo_datasets.zoo import ZooFolder

# Folder (2209.14764's experiment names), architecture of its states -> zoo, images
PUBLISHED = [
    ("tune_zoo_mnist_uniform", "cnn-s", "mnist-cnn-s/seed", "mnist"),
    ("tune_zoo_f_mnist_uniform", "cnn-s", "fashion-mnist-cnn-s/seed", "fashion-mnist"),
    ("tune_zoo_svhn_uniform", "cnn-s", "svhn-cnn-s/seed", "svhn"),
    ("tune_zoo_usps_uniform", "cnn-s", "usps-cnn-s/seed", "usps"),
    ("tune_zoo_cifar10_uniform_small", "cnn-s-rgb", "cifar10-cnn-s/seed", "cifar10-28"),
    ("tune_zoo_cifar10_uniform_large", "cnn-m", "cifar10-cnn-m/seed", "cifar10"),
    ("tune_zoo_stl_small_uniform", "cnn-s-rgb", "stl10-cnn-s/seed", "stl10-28"),
    ("tune_zoo_stl_uniform_large", "cnn-m", "stl10-cnn-m/seed", "stl10"),
    ("tune_zoo_mnist_hyperparameter_10_fixed_seeds", "cnn-s", "mnist-cnn-s/hyp-10-fix", "mnist"),
    ("tune_zoo_f_mnist_hyperparameter_10_random_seeds", "cnn-s", "fashion-mnist-cnn-s/hyp-10-rand", "fashion-mnist"),
    ("tune_zoo_usps_hyperparameter_10_random_seed", "cnn-s", "usps-cnn-s/hyp-10-rand", "usps"),
    ("tune_zoo_svhn_hyperparameter_10_fixed_seeds", "cnn-s", "svhn-cnn-s/hyp-10-fix", "svhn"),
    ("tune_zoo_cifar10_small_hyperparameter_10_fixed_seeds", "cnn-s-rgb", "cifar10-cnn-s/hyp-10-fix", "cifar10-28"),
    ("tune_zoo_cifar10_large_hyperparameter_10_random_seeds", "cnn-m", "cifar10-cnn-m/hyp-10-rand", "cifar10"),
    ("tune_zoo_stl_large_hyperparameter_10_random_seeds", "cnn-m", "stl10-cnn-m/hyp-10-rand", "stl10"),
    ("tune_zoo_cifar10_resnet18_kaiming_uniform", "resnet18", "cifar10-resnet18/seed", "cifar10-40k"),
    ("tune_zoo_cifar100_resnet18_kaiming_uniform", "resnet18-100", "cifar100-resnet18/seed", "cifar100"),
    ("tune_zoo_tiny-imagenet_resnet18_kaiming_uniform", "resnet18-200", "tiny-imagenet-resnet18/seed", "tiny-imagenet"),
]


@pytest.mark.parametrize(("folder", "architecture", "name", "images"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_a_published_folder_is_one_of_our_zoos(folder: str, architecture: str, name: str, images: str) -> None:
    found = identify(folder, get_architecture(architecture), Overrides(), twins=False)
    assert (f"{found.recipe}/{found.config}", found.images) == (name, images)
    assert found.incomparable_metrics == (("validation",) if "resnet" in name else ())


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("FashionMNIST-uniform", "fashion-mnist-cnn-s/seed"),
        ("tune_zoo_fashionmnist_uniform", "fashion-mnist-cnn-s/seed"),
        ("fashion-mnist_lr", "fashion-mnist-cnn-s/zoo"),
        ("tune_mnist_lr", "mnist-cnn-s/zoo"),
    ],
)
def test_a_name_is_read_word_by_word(folder: str, name: str) -> None:
    found = identify(folder, get_architecture("cnn-s"), Overrides(), twins=False)
    assert f"{found.recipe}/{found.config}" == name


@pytest.mark.parametrize("folder", ["tune_zoo_kmnist_uniform", "emnist_standard_lr", "k_mnist", "notMNIST"])
def test_images_whose_name_has_that_of_others_in_it_are_not_taken_for_them(folder: str) -> None:
    with pytest.raises(FormatError) as caught:
        identify(folder, get_architecture("cnn-s"), Overrides(), twins=False)
    fitting = [name for name in image_dataset_names() if images_fit(name)]
    assert str(caught.value) == (
        f"{folder} does not name the images it was trained on; name them with --images: {', '.join(fitting)}"
    )


def images_fit(name: str) -> bool:
    """Whether images are of the size and number of classes that a CNN-S takes."""
    return (get_image_dataset(name).input_shape, get_image_dataset(name).classes) == ((1, 28, 28), 10)


def test_a_word_of_a_config_is_not_part_of_another() -> None:
    found = identify("emnist_standard_lr", get_architecture("cnn-s"), Overrides(images="mnist"), twins=False)
    assert found.config == "zoo"


def test_published_twins_are_twins_of_a_seed_zoo() -> None:
    found = identify("cnn_small_svhn_ard", get_architecture("cnn-s"), Overrides(), twins=True)
    assert (found.recipe, found.config, found.parent_config) == ("svhn-cnn-s", "seed-sparse", "seed")


@pytest.fixture
def noise() -> Iterator[str]:
    """Images of the size of CIFAR-10."""

    def read(root: Path) -> Mapping[str, Split]:
        draws = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (60, 3, 32, 32), generator=draws, dtype=torch.uint8)
        labels = torch.arange(60) % 10
        return {"train": Split(pixels[:30], labels[:30]), "test": Split(pixels[30:], labels[30:])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images_registry, "_DATASETS", dict(images_registry._DATASETS))
        half = (0.5, 0.5, 0.5)
        register_images(ImageDataset("noise", read, (20, 10, 30), half, half, size=(32, 32)))
        yield "noise"


def test_resnets_come_with_their_statistics_and_counters(noise: str, tmp_path: Path, engine: TorchEngine) -> None:
    architecture, images = get_architecture("resnet18"), load_images(noise, tmp_path)
    weights = random_states("resnet18", 1)
    style = Style(model_type="Resnet18", o_dim=10, validation=True)
    trial = tmp_path / "tune_zoo_noise_resnet18_kaiming_uniform" / trial_name(1, 1)
    trial.mkdir(parents=True)
    model = {
        **{"activation": "relu", "init": "kaiming_uniform", "optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4},
        **{"dropout": 0.0, "batch_size": 256, "epochs": 50, "schedule": "onecycle", "seed": 1},
    }
    (trial / "params.json").write_text(json.dumps(params_of(model, style, "zoo")))
    row: dict[str, float] = {"training_iteration": 50}
    for split, prefix in (("validation", "val"), ("test", "test")):
        found = engine.evaluate("resnet18", images, weights, [NetworkSpec("relu")], split)
        row |= {f"{prefix}_loss": found.loss.item(), f"{prefix}_acc": found.accuracy.item()}
    (trial / "result.json").write_text(json.dumps(row) + "\n")
    write_checkpoint(trial, 50, architecture.layout.unpack(weights[0]), style)
    imported = import_zoo(
        trial.parent, tmp_path / "zoo", format="model-zoos", images_root=tmp_path, overrides=Overrides(images=noise)
    )
    assert (imported.name, imported.states, imported.skipped) == ("noise-resnet18/seed", 1, [])
    zoo = ZooFolder.open(tmp_path / "zoo")
    assert torch.equal(zoo.weights("seed-00001", 50), weights[0])
    assert zoo.models[["schedule", "epochs"]].to_dict("records") == [{"schedule": "onecycle", "epochs": 50}]
    checks = verify_folder(tmp_path / "zoo", engine=engine, images_root=tmp_path)
    assert [problem for check in checks for problem in check.problems] == []
