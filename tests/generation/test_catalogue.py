"""The catalogue: what the recipes say is what was published, what it says of a zoo is what generating it gives."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import run
from helpers.steps import StepProgress

from modelzoo_datasets import read_recipe
from modelzoo_datasets.cli.zoo_tables import print_catalogue
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.errors import RecipeError
from modelzoo_datasets.generation import generate_zoo
from modelzoo_datasets.generation.catalogue import (
    CatalogueEntry,
    CostKey,
    list_shipped_zoos,
    list_zoos,
    measure_costs,
)
from modelzoo_datasets.recipes import recipe_names

ACTIVATIONS = ["tanh", "relu", "sigmoid", "gelu"]
INITS = ["uniform", "normal", "kaiming_uniform", "kaiming_normal"]
BOTH = ["adam", "sgd"]
CNN = {"epochs": [50], "batch_size": [10], "schedule": ["constant"], "augmentation": ["none"]}

# 2209.14764 and the code published with it: the fixed values of the Seed zoos of CNNs.
SEED = {
    "mnist-cnn-s": ("tanh", "uniform", 3e-4, 0.0),
    "fashion-mnist-cnn-s": ("tanh", "uniform", 3e-4, 0.0),
    "svhn-cnn-s": ("tanh", "uniform", 3e-3, 0.0),
    "usps-cnn-s": ("tanh", "uniform", 3e-4, 1e-3),
    "cifar10-cnn-s": ("gelu", "kaiming_uniform", 1e-4, 1e-2),
    "cifar10-cnn-m": ("gelu", "kaiming_uniform", 1e-4, 1e-2),
    "stl10-cnn-s": ("tanh", "kaiming_uniform", 1e-4, 1e-3),
    "stl10-cnn-m": ("tanh", "kaiming_uniform", 1e-4, 1e-3),
}
# The grids of their Hyp zoos: optimizers, learning rates, weight decays, dropouts, models.
HYP = {
    "mnist-cnn-s": (BOTH, [1e-3, 1e-4], [1e-3, 1e-4], [0.0, 0.5], 2560),
    "fashion-mnist-cnn-s": (BOTH, [1e-3, 1e-4], [1e-3, 1e-4], [0.0, 0.5], 2560),
    "svhn-cnn-s": (["sgd"], [1e-2, 1e-3, 1e-4], [0.0, 1e-3, 1e-1], [0.0, 0.3, 0.5], 4320),
    "usps-cnn-s": (BOTH, [1e-3, 1e-4], [1e-2, 1e-3], [0.0, 0.5], 2560),
    "cifar10-cnn-s": (BOTH, [1e-3], [1e-2, 1e-3], [0.0, 0.5], 1280),
    "cifar10-cnn-m": (BOTH, [1e-3], [1e-2, 1e-3], [0.0, 0.5], 1280),
    "stl10-cnn-s": (BOTH, [1e-3, 1e-4], [1e-2, 1e-3], [0.0, 0.5], 2560),
    "stl10-cnn-m": (BOTH, [1e-3, 1e-4], [1e-2, 1e-3], [0.0, 0.5], 2560),
}
# The ResNet-18 zoos: highest learning rate, batch size, epochs, classes, augmentation.
RESNET = {
    "cifar10-resnet18": (0.05, 256, 50, 10, "crop-flip"),
    "cifar100-resnet18": (0.1, 128, 60, 100, "crop-flip"),
    "tiny-imagenet-resnet18": (0.1, 128, 60, 200, "flip-rotate"),
}
# What one model of each has to learn.
PARAMETERS = {
    **dict.fromkeys(["mnist-cnn-s", "fashion-mnist-cnn-s", "svhn-cnn-s", "usps-cnn-s"], 2_464),
    **dict.fromkeys(["cifar10-cnn-s", "stl10-cnn-s"], 2_864),
    **dict.fromkeys(["cifar10-cnn-m", "stl10-cnn-m"], 10_853),
    "cifar10-resnet18": 11_173_962,
    "cifar100-resnet18": 11_220_132,
    "tiny-imagenet-resnet18": 11_271_432,
}


@pytest.fixture(scope="module")
def zoos() -> dict[str, CatalogueEntry]:
    """All zoos by name."""
    return {zoo.name: zoo for zoo in list_shipped_zoos()}


def values(zoo: CatalogueEntry) -> dict[str, list[Any]]:
    """Every value that a field of the training of its models has, in order of appearance."""
    trainings = [vars(member.training) for member in zoo.members]
    return {name: list(dict.fromkeys(training[name] for training in trainings)) for name in trainings[0]}


def check(zoo: CatalogueEntry, expected: Mapping[str, list[Any]]) -> None:
    found = values(zoo)
    assert {name: found[name] for name in expected} == expected
    cells = {tuple(vars(member.training).values()) for member in zoo.members}
    assert len(cells) == math.prod(map(len, found.values())), "not every combination is there"


@pytest.mark.parametrize("name", SEED)
def test_a_seed_zoo_is_the_published_one(name: str, zoos: dict[str, CatalogueEntry]) -> None:
    activation, init, lr, decay = SEED[name]
    zoo = zoos[f"{name}/seed"]
    assert [member.seed for member in zoo.members] == list(range(1, 1001))
    fixed = {
        "activation": activation,
        "init": init,
        "optimizer": "adam",
        "lr": lr,
        "weight_decay": decay,
        "dropout": 0.0,
    }
    check(zoo, {**CNN, **{key: [value] for key, value in fixed.items()}})


@pytest.mark.parametrize("name", HYP)
@pytest.mark.parametrize("config", ["hyp-10-rand", "hyp-10-fix"])
def test_a_grid_is_the_published_one(name: str, config: str, zoos: dict[str, CatalogueEntry]) -> None:
    optimizers, lrs, decays, dropouts, models = HYP[name]
    zoo = zoos[f"{name}/{config}"]
    assert len(zoo.members) == models
    grid = {"activation": ACTIVATIONS, "init": INITS, "optimizer": optimizers, "momentum": [0.9]}
    check(zoo, {**CNN, **grid, "lr": lrs, "weight_decay": decays, "dropout": dropouts})
    cells: dict[Any, list[int]] = {}
    for member in zoo.members:
        cells.setdefault(member.training, []).append(member.seed)
    drawn = [tuple(seeds) for seeds in cells.values()]
    assert all(len(set(seeds)) == 10 for seeds in drawn)
    if config == "hyp-10-fix":
        assert set(drawn) == {tuple(range(1, 11))}
    else:
        assert len(set(drawn)) == len(drawn) and max(map(max, drawn)) < 1_000_000


@pytest.mark.parametrize("name", RESNET)
def test_a_zoo_of_resnets_is_the_published_one(name: str, zoos: dict[str, CatalogueEntry]) -> None:
    lr, batch_size, epochs, classes, augmentation = RESNET[name]
    zoo = zoos[f"{name}/seed"]
    assert [member.seed for member in zoo.members] == list(range(1, 1001))
    assert zoo.images.classes == zoo.architecture.classes == classes
    fixed = {"activation": "relu", "init": "kaiming_uniform", "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
    varied = {"lr": lr, "batch_size": batch_size, "epochs": epochs, "augmentation": augmentation}
    check(zoo, {key: [value] for key, value in {**fixed, **varied, "schedule": "onecycle", "dropout": 0.0}.items()})


def test_all_in_all_they_are_the_published_numbers(zoos: dict[str, CatalogueEntry]) -> None:
    published = [zoo for zoo in zoos.values() if zoo.recipe.source is not None]
    assert {zoo.recipe.name for zoo in published} == {*SEED, *RESNET} == {*PARAMETERS}
    trained, twins = ([zoo for zoo in published if zoo.is_twins is kind] for kind in (False, True))
    assert len(trained) == 27
    assert len({zoo.images.name.partition("-")[0] for zoo in trained}) == 8, "CIFAR-10 is there in three forms"
    assert sum(len(zoo.members) for zoo in trained) == 50_360
    assert sum(zoo.states_as_published for zoo in trained) == 2_585_360
    assert sum(zoo.states_as_published for zoo in published) == 3_844_360
    assert sum(zoo.states for zoo in trained) == 2_585_360 + 3_000, "epoch 0 of the ResNets is kept"
    parents = {f"{zoo.recipe.name}/{zoo.recipe.config(zoo.config).parent}": zoo for zoo in twins}
    assert set(parents) == {zoo.name for zoo in trained}, "every zoo has one of twins"
    for name, zoo in parents.items():
        assert zoo.config == f"{zoos[name].config}-sparse"
        assert [m.parent_id for m in zoo.members] == [m.model_id for m in zoos[name].members]
        assert {member.training.epochs for member in zoo.members} == {25}
    assert {zoo.recipe.name: zoo.parameters for zoo in published} == PARAMETERS


def test_zoos_of_our_own_are_not_among_the_published(zoos: dict[str, CatalogueEntry]) -> None:
    assert {zoo.recipe.name for zoo in zoos.values()} == set(recipe_names("generation"))
    assert zoos["fashion-mnist-5k-cnn-s/seed"].recipe.source is None


TINY = """\
images = "fashion-mnist-5k"
architecture = "cnn-s"

[configs.seed]
epochs = 1
batch_size = 1000
seeds = "1-2"
activation = "tanh"
init = "kaiming_uniform"
optimizer = "adam"
lr = 1e-2
dropout = [0.0, 0.1] # layers have other names with dropout

[configs.seed-sparse]
parent = "seed"
epochs = 2
"""


def test_files_and_bytes_are_those_of_the_generated_zoo(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    recipe = read_recipe(str(tmp_path / "tiny.toml"))
    for zoo in list_zoos(recipe):
        out = tmp_path / zoo.config
        generate_zoo(recipe, out, config=zoo.config, engine=engine, images_root=tmp_path)
        files = [*(out / "states").rglob("*.safetensors"), *(out / "variational").rglob("*.safetensors")]
        assert len(files) == zoo.files == (24 if zoo.is_twins else 8)
        assert sum(path.stat().st_size for path in files) == zoo.bytes
        facts = json.loads((out / "zoo.json").read_text())
        assert (facts["name"], facts["architecture"]) == (zoo.name, zoo.architecture.name)


def test_images_are_counted_as_the_engine_sees_them() -> None:
    zoo = list_zoos(read_recipe("fashion-mnist-5k-cnn-s"), "hyp")[0]
    train, validation, test = zoo.images.sizes
    epochs = [member.training.epochs for member in zoo.members]
    assert zoo.images_trained == sum(epochs) * train
    assert zoo.images_evaluated == sum(train + (e + 1) * (validation + test) for e in epochs)


def test_one_config_of_a_recipe_can_be_asked_for() -> None:
    recipe = read_recipe("mnist-cnn-s")
    assert [zoo.config for zoo in list_zoos(recipe)] == list(recipe.configs)
    assert [zoo.config for zoo in list_zoos(recipe, "seed-sparse")] == ["seed-sparse"]
    with pytest.raises(RecipeError, match="^recipe mnist-cnn-s: unknown config 'sed'; did you mean 'seed'\\?$"):
        list_zoos(recipe, "sed")


def test_costs_grow_with_the_work(engine: Engine) -> None:
    told: list[tuple[str, int, int | None]] = []
    zoos = list_zoos(read_recipe("fashion-mnist-5k-cnn-s"))
    rates = measure_costs(zoos, engine, seconds=1, progress=StepProgress(lambda *step: told.append(step)))
    assert set(rates) == {CostKey.from_zoo(zoo) for zoo in zoos} and len(rates) == 1
    seed, hyp = zoos
    rate = rates[CostKey.from_zoo(seed)]
    assert rate.train > 0 and rate.evaluate > 0
    assert rate.core_seconds(seed) == pytest.approx(
        rate.train * seed.images_trained + rate.evaluate * seed.images_evaluated
    )
    assert rate.core_seconds(seed) > rate.core_seconds(hyp) > 0
    assert told == [("measuring the cost", 0, 1), ("measuring the cost", 1, 1)]


def test_zoos_whose_steps_differ_are_measured_apart(zoos: dict[str, CatalogueEntry]) -> None:
    kinds = {CostKey.from_zoo(zoo) for zoo in zoos.values() if zoo.recipe.source is not None}
    # The small CNN for one and for three channels, the medium one, ResNet-18 for 10, 100 and 200 classes; their twins.
    assert len(kinds) == 2 * 6
    assert {kind.batch_size for kind in kinds} == {10, 128, 256}


def test_the_list_has_every_zoo_and_the_totals(zoos: dict[str, CatalogueEntry]) -> None:
    result = run(["modelzoo-generate", "--list"])
    assert (result.returncode, result.stderr) == (0, "")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert {line[0] for line in lines if "/" in line[0]} == set(zoos)
    assert "…" not in result.stdout, "something was cut"
    rows = {line[0]: line[1:] for line in lines}
    assert rows["svhn-cnn-s/hyp-10-fix"][:4] == ["4,320", "220,320", "2,464", "220,320"]
    assert rows["27 zoos of 2209.14764"][:2] == ["50,360", "2,588,360"]
    assert "2,585,360 states, 3,844,360 with twins." in result.stdout
    assert "core-h" not in result.stdout


def test_an_estimate_says_hours_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_catalogue("fashion-mnist-5k-cnn-s", "hyp", estimate=True, engine="torch", quiet=True)
    told = capsys.readouterr().out
    (row,) = [line for line in told.splitlines() if "fashion-mnist-5k-cnn-s/hyp" in line]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells[1:5] == ["64", "256", "2,464", "256"]
    assert "core-h: measured on one core of this machine with the torch engine" in told
    assert "As the paper counts them" not in told, "this is no zoo of a paper"
