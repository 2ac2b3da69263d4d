"""Generating: a recipe and a seed give the same bytes, whichever way the work was cut."""

import hashlib
from pathlib import Path

import pytest
from helpers.steps import StepProgress

from modelzoo_datasets import generate_zoo, read_recipe
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import RecipeError
from modelzoo_datasets.zoo import ZooFolder


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_zoo_made_in_parts_in_any_order_is_the_zoo_made_at_once(
    tiny_recipe: Path, tiny_hyp_zoo: Path, engine: Engine, tmp_path: Path
) -> None:
    recipe, trained = read_recipe(str(tiny_recipe)), []
    for part in (range(4, 7), range(1, 5), None):
        count = generate_zoo(recipe, tmp_path / "zoo", config="hyp", engine=engine, images_root=tmp_path, models=part)
        trained.append(count)
        ZooFolder.open(tmp_path / "zoo")  # complete after every part
    assert trained == [3, 3, 2]
    assert contents(tmp_path / "zoo") == contents(tiny_hyp_zoo)


def test_two_processes_make_the_same_zoo_as_one(tiny_recipe: Path, tiny_hyp_zoo: Path, tmp_path: Path) -> None:
    recipe, two = read_recipe(str(tiny_recipe)), TorchEngine(num_workers=2)
    for trained in (8, 0):
        made = generate_zoo(recipe, tmp_path / "zoo", config="hyp", engine=two, images_root=tmp_path)
        assert made == trained
        assert contents(tmp_path / "zoo") == contents(tiny_hyp_zoo)


def test_a_part_of_a_zoo_has_the_rows_of_its_models_alone(
    tiny_recipe: Path, tiny_hyp_zoo: Path, engine: Engine, tmp_path: Path
) -> None:
    recipe, part = read_recipe(str(tiny_recipe)), tmp_path / "zoo"
    generate_zoo(recipe, part, config="hyp", engine=engine, images_root=tmp_path, models=range(3, 4))
    found, whole = ZooFolder.open(part), ZooFolder.open(tiny_hyp_zoo)
    ids = ["hyp-00003"]
    for table in ("models", "states"):
        expected = getattr(whole, table)[getattr(whole, table)["model_id"].isin(ids)]
        assert getattr(found, table).equals(expected.reset_index(drop=True))


def test_training_makes_better_models(tiny_zoo: Path) -> None:
    states = ZooFolder.open(tiny_zoo).states
    first, last = (states.loc[states["epoch"] == e, "test_acc"] for e in (0, 2))
    assert first.max() < 0.3 < 0.5 < last.min()


def test_progress_counts_from_what_was_there_to_all(tiny_recipe: Path, engine: Engine, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    for models in (range(1, 2), range(1, 3)):
        generate_zoo(
            read_recipe(str(tiny_recipe)),
            tmp_path / "zoo",
            config="hyp",
            engine=engine,
            images_root=tmp_path,
            models=models,
            progress=StepProgress(lambda *step: told.append(step)),
        )
    what = "training tiny/hyp"
    assert [line for line in told if line[0] == what] == [(what, 0, 1), (what, 1, 1), (what, 1, 2), (what, 2, 2)]


@pytest.mark.parametrize("models", [range(1, 22), range(0, 5), range(25, 31)])
def test_models_that_are_not_in_the_grid_are_refused(
    models: range, tiny_recipe: Path, engine: Engine, tmp_path: Path
) -> None:
    out = tmp_path / "zoo"
    recipe = read_recipe(str(tiny_recipe))
    with pytest.raises(RecipeError) as caught:
        generate_zoo(recipe, out, config="seed", engine=engine, images_root=tmp_path, models=models)
    assert str(caught.value) == f"models {models[0]}-{models[-1]}: the grid has models 1-20"
    assert not out.exists()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"cnn-s"', '"cnn-z"', "unknown architecture 'cnn-z'; did you mean 'cnn-s'?"),
        ("5k", "50k", "unknown images 'fashion-mnist-50k'; did you mean 'fashion-mnist-5k'?"),
        ("[configs.seed]", "[configs.sed]", "recipe tiny: unknown config 'seed'; did you mean 'sed'?"),
    ],
)
def test_what_a_recipe_names_and_is_not_there_is_refused_before_a_folder_is_made(
    old: str, new: str, told: str, tiny_recipe: Path, engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_recipe.read_text().replace(old, new))
    with pytest.raises(RecipeError) as caught:
        generate_zoo(read_recipe(str(path)), tmp_path / "zoo", config="seed", engine=engine, images_root=tmp_path)
    assert (
        str(caught.value).removesuffix("; to use your own, pass --plugin FILE, a Python file that registers it") == told
    )
    assert not (tmp_path / "zoo").exists()


def test_no_epochs_are_refused(tiny_recipe: Path, engine: Engine, tmp_path: Path) -> None:
    recipe = read_recipe(str(tiny_recipe))
    with pytest.raises(RecipeError, match="^epochs must be positive, got 0$"):
        generate_zoo(recipe, tmp_path / "z", config="seed", engine=engine, images_root=tmp_path, epochs=0)
    assert not (tmp_path / "z").exists()
