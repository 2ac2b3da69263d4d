"""Recipes: what ships is valid, what is wrong is named, and the grid is the one the file says."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from helpers.paths import ROOT

from modelzoo_datasets import read_recipe
from modelzoo_datasets.architectures import resolve_architecture
from modelzoo_datasets.errors import ModelZooError, RecipeError
from modelzoo_datasets.images import get_image_dataset
from modelzoo_datasets.recipes import Recipe, Training, find_recipe, parse_range, recipe_names
from modelzoo_datasets.zoo import RecipeInfo

GOOD = """\
images = "mnist"
architecture = "cnn-s"
seed = 3

[defaults]
epochs = 2
batch_size = 8
init = "normal"
lr = [1e-3, 1e-2, 1e-1]
weight_decay = 0.0

[configs.a]
optimizer = "sgd"
dropout = 0.1
momentum = 0.5
activation = ["tanh", "gelu"]
seeds = [11, 5]
"""
GOOD_TRAINING = {
    "epochs": 2,
    "batch_size": 8,
    "activation": "tanh",
    "init": "normal",
    "optimizer": "adam",
    "lr": 0.1,
}


def recipe_of(folder: Path, text: str) -> Recipe:
    path = folder / "mine.toml"
    path.write_text(text)
    return read_recipe(str(path))


def many(folder: Path, how_many: int, **changes: str) -> Recipe:
    """A recipe of one config with that many seeds."""
    text = GOOD.replace("[11, 5]", f'"1-{how_many}"').replace("[1e-3, 1e-2, 1e-1]", "0.1")
    text = text.replace('["tanh", "gelu"]', '"tanh"')
    for old, new in changes.items():
        text = text.replace(f"{old} = ", f"{old} = {new} # ")
    return recipe_of(folder, text)


@pytest.mark.parametrize("name", recipe_names("generation"))
def test_every_shipped_recipe_can_be_trained(name: str) -> None:
    recipe = read_recipe(name)
    images = get_image_dataset(recipe.images)
    architecture = resolve_architecture(recipe.architecture, images.input_shape, images.classes)
    assert recipe.configs
    for config in recipe.configs:
        members = recipe.members(config)
        assert [m.index for m in members] == list(range(1, len(members) + 1))
        assert len({m.model_id for m in members}) == len(members) > 0
        assert len({(m.seed, m.training) for m in members}) == len(members)
        for dropout in {m.training.dropout for m in members}:
            architecture.check_dropout(dropout)


def test_the_shipped_recipes_are_the_files_of_the_repository() -> None:
    for kind in ("generation", "builders"):
        assert recipe_names(kind) == sorted(p.stem for p in (ROOT / kind).glob("*.toml")) != []


def test_every_builder_recipe_belongs_to_a_generation_recipe() -> None:
    assert set(recipe_names("builders")) <= set(recipe_names("generation"))


def test_an_unknown_recipe_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("fashion-mnist-5k-cnn-z")
    assert str(caught.value) == ("unknown recipe 'fashion-mnist-5k-cnn-z'; did you mean 'fashion-mnist-5k-cnn-s'?")


def test_an_unknown_recipe_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("q")
    assert str(caught.value) == f"unknown recipe 'q'; known: {', '.join(recipe_names('generation'))}"


def test_a_name_with_folders_in_it_is_not_looked_up_on_disk() -> None:
    with pytest.raises(RecipeError, match=r"^unknown recipe '\.\./generation/fashion"):
        find_recipe("generation", "../generation/fashion-mnist-5k-cnn-s")


def test_a_recipe_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(str(tmp_path / "none.toml"))
    told, _, known = str(caught.value).partition(" or one of ")
    assert told == f"there is no recipe file {tmp_path / 'none.toml'}; pass a TOML file"
    assert {"mnist-cnn-s", "svhn-cnn-s"} < {*known.split(", ")}


@pytest.mark.parametrize("content", [b"seed = = 3", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_named_with_the_cause(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_recipe(str(path))
    assert str(caught.value) == f"cannot read recipe {path}: {caught.value.__cause__}; correct the file"


def test_an_unknown_config_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("fashion-mnist-5k-cnn-s").members("sed")
    assert str(caught.value) == ("recipe fashion-mnist-5k-cnn-s: unknown config 'sed'; did you mean 'seed'?")


SEEDS_TOLD = 'seeds must be "1-1000", a list of integers or { random = 10, below = 1_000_000 }, got '


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('images = "mnist"', "", "images must be a name in quotes, got None"),
        ('"cnn-s"', "7", "architecture must be a name in quotes, got 7"),
        ("seed = 3", "sed = 3", "a recipe has no key 'sed'; did you mean 'seed'?"),
        ("seed = 3", 'seed = "x"', "seed must be int, got 'x'"),
        ("lr =", "learning_rate =", "[configs.a] has no key 'learning_rate'; known: "),
        ("batch_size", "batchsize", "[configs.a] has no key 'batchsize'; did you mean 'batch_size'?"),
        ('init = "normal"', "", "missing init"),
        ('"sgd"', '"sdg"', "unknown optimizer 'sdg'; did you mean 'sgd'?"),
        ('"gelu"', '"gellu"', "unknown activation 'gellu'; did you mean 'gelu'?"),
        ('"normal"', '"kaiming"', "unknown init 'kaiming'; did you mean 'kaiming_normal'?"),
        ("epochs = 2", "epochs = 0", "epochs must be positive, got 0"),
        ("epochs = 2", "epochs = 2.0", "epochs must be int, got 2.0"),
        ("epochs = 2", "epochs = true", "epochs must be int, got True"),
        ("size = 8", "size = -8", "batch_size must be positive, got -8"),
        ("1e-1]", "0.0]", "lr must be positive, got 0.0"),
        ("1e-1]", "nan]", "lr must be positive, got nan"),
        ("1e-1]", '"a"]', "lr must be float, got 'a'"),
        ("dropout = 0.1", "dropout = 1.0", "dropout must be in [0, 1), got 1.0"),
        ("seed = 3", "source = 2209.14764", "source must be a name in quotes, got 2209.14764"),
        ("momentum = 0.5", 'schedule = "onecycl"', "unknown schedule 'onecycl'; did you mean 'onecycle'?"),
        ("momentum = 0.5", 'augmentation = "crop"', "unknown augmentation 'crop'; did you mean 'crop-flip'?"),
        ("momentum = 0.5", "momentum = -0.1", "momentum must be in [0, 1), got -0.1"),
        ("decay = 0.0", "decay = -1.0", "weight_decay must not be negative, got -1.0"),
        ("decay = 0.0", "decay = nan", "weight_decay must not be negative, got nan"),
        ("1e-1]", "1e-3]", "[configs.a] lr: an axis needs distinct values, got (0.001, 0.01, 0.001)"),
        ("1e-1]", "[1.0]]", "lr must be float, got [1.0]"),
        ('["tanh", "gelu"]', "[]", "[configs.a] activation: an axis needs distinct values, got ()"),
        ("seeds = [11, 5]", "", '[configs.a] has no seeds; say for example seeds = "1-100"'),
        ("[11, 5]", "[]", SEEDS_TOLD + "[]"),
        ("[11, 5]", "[1.5]", SEEDS_TOLD + "[1.5]"),
        ("[11, 5]", "7", SEEDS_TOLD + "7"),
        ("[11, 5]", "{ random = 3 }", SEEDS_TOLD + "{'random': 3}"),
        (
            "[11, 5]",
            '{ random = "3", below = 9 }',
            SEEDS_TOLD + "{'random': '3', 'below': 9}",
        ),
        ("[11, 5]", "[5, 5]", "seeds: expected distinct seeds, got [5, 5]"),
        ("[11, 5]", '"1to5"', "seeds must look like 1-100 or 7, got '1to5'"),
        ("[11, 5]", "{ random = 4, below = 3 }", "seeds: cannot draw 4 seeds below 3"),
        ("[11, 5]", "{ random = 0, below = 3 }", "seeds: cannot draw 0 seeds below 3"),
        (GOOD[GOOD.index("[configs") :], "", "there is no [configs.NAME] table, so there is nothing to train"),
        (
            GOOD[GOOD.index("[defaults") :],
            "configs = 3",
            "there is no [configs.NAME] table, so there is nothing to train",
        ),
        (GOOD[GOOD.index("[configs") :], "[configs]\na = 3", "[configs.a] must be a table, got 3"),
        (
            GOOD[GOOD.index("[defaults") : GOOD.index("[configs")],
            "defaults = 1\n",
            "[defaults] must be a table, got 1",
        ),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(RecipeError) as caught:
        recipe_of(tmp_path, GOOD.replace(old, new))
    message = f"recipe mine.toml: {told}"
    if told.endswith("known: "):
        assert str(caught.value).startswith(message)
    else:
        assert str(caught.value) == message


def test_a_wrong_value_on_an_axis_is_refused_before_any_training(tmp_path: Path) -> None:
    text = GOOD.replace('["tanh", "gelu"]', '["tanh", "gelu", "swish"]')
    with pytest.raises(RecipeError, match=r"^recipe mine.toml: unknown activation 'swish'"):
        recipe_of(tmp_path, text)


@pytest.mark.parametrize("error", [RecipeError("x")])
def test_recipe_errors_are_errors_that_commands_print_as_one_line(error: RecipeError) -> None:
    assert isinstance(error, ModelZooError) and isinstance(error, ValueError)


@pytest.mark.parametrize(("text", "numbers"), [("3", [3]), ("1-4", [1, 2, 3, 4]), ("7-7", [7]), ("0-1", [0, 1])])
def test_a_range_includes_both_ends(text: str, numbers: list[int]) -> None:
    assert list(parse_range("--models", text)) == numbers


@pytest.mark.parametrize("text", ["", "-", "4-1", "a", "1-b", "-3", "1-2-3", "1.5", " 1", "²"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_range("--models", text)
    assert str(caught.value) == f"--models must look like 1-100 or 7, got {text!r}"


def test_the_grid_lists_axes_as_the_recipe_does_with_seeds_innermost(tmp_path: Path) -> None:
    expected = [
        (lr, activation, seed) for lr in (1e-3, 1e-2, 1e-1) for activation in ("tanh", "gelu") for seed in (11, 5)
    ]
    members = recipe_of(tmp_path, GOOD).members("a")
    assert [(m.training.lr, m.training.activation, m.seed) for m in members] == expected
    assert [m.index for m in members] == list(range(1, 13))
    assert [m.model_id for m in members] == [f"a-{i:05d}" for i in range(1, 13)]


def test_a_recipe_may_say_whose_zoos_it_is_of(tmp_path: Path) -> None:
    said, silent = recipe_of(tmp_path, f'source = "2209.14764"\n{GOOD}'), recipe_of(tmp_path, GOOD)
    assert (said.source, silent.source) == ("2209.14764", None)
    assert RecipeInfo.from_recipe(said, "a").to_json() == RecipeInfo.from_recipe(silent, "a").to_json(), (
        "who publishes a zoo does not decide its weights"
    )


def test_a_config_keeps_its_own_values_before_the_defaults(tmp_path: Path) -> None:
    text = GOOD + "epochs = 9\n"
    training = recipe_of(tmp_path, text).members("a")[0].training
    assert training == Training(
        epochs=9,
        batch_size=8,
        activation="tanh",
        init="normal",
        optimizer="sgd",
        lr=1e-3,
        weight_decay=0.0,
        dropout=0.1,
        momentum=0.5,
    )


def test_epochs_can_be_overridden_and_nothing_else_changes(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, GOOD)
    before, after = recipe.members("a"), recipe.members("a", epochs=5)
    assert {m.training.epochs for m in after} == {5}
    assert [(m.model_id, m.seed, m.split) for m in after] == [(m.model_id, m.seed, m.split) for m in before]
    assert RecipeInfo.from_recipe(recipe, "a", epochs=5).to_json()["axes"]["epochs"] == [5]


def test_random_seeds_are_distinct_below_the_bound_and_drawn_anew_for_every_cell(
    tmp_path: Path,
) -> None:
    text = GOOD.replace("[11, 5]", "{ random = 50, below = 60 }")
    members = recipe_of(tmp_path, text).members("a")
    cells = [tuple(m.seed for m in members[i : i + 50]) for i in range(0, 300, 50)]
    assert all(len(set(cell)) == 50 and set(cell) <= set(range(60)) for cell in cells)
    assert len(set(cells)) == 6


def test_random_seeds_depend_on_the_recipe_seed_and_config_alone(tmp_path: Path) -> None:
    text = GOOD.replace("[11, 5]", "{ random = 3, below = 1_000_000 }")
    other_config = text.replace("configs.a", "configs.b")

    def seeds(text: str, config: str = "a") -> list[int]:
        return [m.seed for m in recipe_of(tmp_path, text).members(config)]

    assert seeds(text) == seeds(text) == seeds(text.replace("1e-3", "2e-3"))
    assert seeds(text) != seeds(text.replace("seed = 3", "seed = 4"))
    assert seeds(text) != seeds(other_config, "b")


def test_splits_are_exactly_70_15_15_of_every_20_models(tmp_path: Path) -> None:
    splits = [m.split for m in many(tmp_path, 400).members("a")]
    blocks = [tuple(splits[i : i + 20]) for i in range(0, 400, 20)]
    for block in blocks:
        assert Counter(block) == {"train": 14, "validation": 3, "test": 3}
    assert len(set(blocks)) == 20, "every block is shuffled in its own way"


def test_the_split_of_a_model_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few = [m.split for m in many(tmp_path, 33).members("a")]
    lots = [m.split for m in many(tmp_path, 100).members("a")]
    assert few == lots[:33]
    assert lots != [m.split for m in many(tmp_path, 100, seed="4").members("a")]


def test_a_resolved_recipe_survives_json_and_says_the_whole_grid(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, GOOD)
    resolved = json.loads(json.dumps(RecipeInfo.from_recipe(recipe, "a").to_json()))
    assert resolved == RecipeInfo.from_recipe(recipe, "a").to_json()
    grid = [
        (Training(**dict(zip(resolved["axes"], values, strict=True))), seed)
        for values in itertools.product(*resolved["axes"].values())
        for seed in resolved["seeds"]
    ]
    assert grid == [(m.training, m.seed) for m in recipe.members("a")]


def test_a_training_may_say_whole_numbers_for_fractions() -> None:
    assert Training(**{**GOOD_TRAINING, "lr": 1}).lr == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a b", "seed_index", "../up", ""])
def test_a_config_name_that_the_hub_or_a_folder_refuses_is_refused_here(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f'images = "mnist"\narchitecture = "cnn-s"\n[configs."{name}"]\nseeds = "1"\n')
    with pytest.raises(RecipeError) as caught:
        read_recipe(str(path))
    assert str(caught.value) == (
        f"recipe bad.toml: config name {name!r}: use letters, digits, '_', '.' and '-'; the ending '_index' is "
        "reserved for the table without weights"
    )
